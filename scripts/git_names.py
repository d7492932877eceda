"""Check the names of branches and the subjects of commits by the conventions in CONTRIBUTING.md.

As a commit-msg hook: ``scripts/git_names.py MESSAGE_FILE``. As a pre-push hook: ``--branch NAME``. In the pipeline:
``--branch NAME --commits origin/main..HEAD``. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST = 72
TYPES = ("feature", "fix", "debt", "docs", "release")
_BRANCH = re.compile(rf"(?:{'|'.join(TYPES)})/\d+-[a-z0-9]+(?:-[a-z0-9]+)*")
_PREFIX = re.compile(r"(?:wip|fixup!|squash!|\w+(?:\([\w-]+\))?!?:)(?:\s|$)", re.IGNORECASE)
_INFLECTED = re.compile(r"\w+(?:ing|ed|(?<!s)s)")
# Verbs that only look inflected.
_IMPERATIVE = {"bring", "ring", "embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "focus", "bias"}
_GENERATED = ("Merge ", "Revert ")


def subject_problems(subject: str) -> Iterator[str]:
    """Yield what is wrong with the subject of a commit."""
    if subject.startswith(_GENERATED):
        return
    if len(subject) > LONGEST:
        yield f"it has {len(subject)} characters, at most {LONGEST} are allowed"
    if subject.endswith("."):
        yield "it ends with a full stop"
    if _PREFIX.match(subject):
        yield "it begins with a prefix: begin with the verb"
        return
    first = re.match(r"[A-Za-z']+", subject)
    if first is None or not first[0][0].isupper():
        yield "it does not begin with a capital letter"
    elif _INFLECTED.fullmatch(first[0].lower()) and first[0].lower() not in _IMPERATIVE:
        yield f"'{first[0]}' is not imperative: write Add, Fix, Remove, ..."


def message_problems(message: str) -> Iterator[str]:
    """Yield what is wrong with a commit's message. Lines that git comments out don't count."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if not subject.strip():
        yield "it is empty"
        return
    yield from subject_problems(subject)
    if len(lines) > 1 and lines[1].strip():
        yield "its second line is not blank"


def branch_problems(branch: str) -> Iterator[str]:
    """Yield what is wrong with the name of a branch."""
    if branch != "main" and not _BRANCH.fullmatch(branch):
        yield f"expected <type>/<ticket>-<words> with the type {', '.join(TYPES)}, e.g. fix/412-late-reversal"


def subjects(commits: str) -> list[str]:
    """Return the subjects of a range of commits."""
    command = ["git", "log", "--no-merges", "--format=%s", commits]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return listing.stdout.splitlines()


def main(arguments: list[str] | None = None) -> int:
    """Print every problem; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("message", nargs="?", type=Path, help="file with a commit's message")
    parser.add_argument("--branch", help="name of a branch")
    parser.add_argument("--commits", help="range of commits")
    chosen = parser.parse_args(arguments)
    problems: list[str] = []
    if chosen.message is not None:
        problems += [f"commit message: {problem}" for problem in message_problems(chosen.message.read_text())]
    if chosen.branch is not None:
        problems += [f"branch '{chosen.branch}': {problem}" for problem in branch_problems(chosen.branch)]
    for subject in subjects(chosen.commits) if chosen.commits else ():
        problems += [f"commit '{subject}': {problem}" for problem in subject_problems(subject)]
    for line in problems:
        sys.stderr.write(f"{line} (CONTRIBUTING.md)\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
