"""Check the language of docs, docstrings, comments, error messages and test names by ``styles/house.toml``.

Vale would be the usual tool; its package downloads the program from outside the package index when it first runs, so
this small checker reads the same kinds of text through Python's own parser.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STYLE = ROOT / "styles" / "house.toml"
PACKAGE = "classfeed_dagster/"
TESTS = "classfeed_dagster_tests/"
_FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"``[^`]+``|`[^`]+`")
_LINK = re.compile(r"\]\([^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_NAME = re.compile(r"^#{1,6} +[a-z0-9]+(?:-[a-z0-9]+)+ *$", re.MULTILINE)  # the name of a check or an alarm
_WORD = re.compile(r"[A-Za-z']+")

Defined = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Finding:
    """One place that the house style objects to."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def style() -> dict[str, Any]:
    """Return the house style."""
    return tomllib.loads(STYLE.read_text())


def check(path: str, text: str, rules: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings in one file: Markdown by paragraphs and headings, Python by its parsed texts."""
    if path.endswith(".md"):
        yield from _check_page(path, text, rules)
    elif path.endswith(".py"):
        yield from _check_module(path, text, rules)


def _check_page(path: str, text: str, rules: dict[str, Any]) -> Iterator[Finding]:
    prose = _FENCED.sub(_blank, text)
    for heading in _HEADING.finditer(prose):
        first = _WORD.match(heading[1])
        if first is not None and first[0] in rules["headings"]["forbidden_first_words"]:
            yield Finding(path, _line(prose, heading.start()), "heading", heading[1])
    yield from _check_words(path, _NAME.sub(_blank, prose), 1, rules, "page-word")


def _check_module(path: str, text: str, rules: dict[str, Any]) -> Iterator[Finding]:
    forbidden_locals = rules["tests"]["forbidden_locals"] if path.startswith(TESTS) else ()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _check_words(path, token.string, token.start[0], rules)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _check_docstring(path, node, rules)
        if isinstance(node, ast.Raise) and path.startswith(PACKAGE):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from _check_words(path, part.value, part.lineno, rules)
        if isinstance(node, ast.FunctionDef) and path.startswith(TESTS) and node.name.startswith("test_"):
            yield from _check_test_name(path, node, rules["tests"])
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in forbidden_locals:
            yield Finding(path, node.lineno, "local-name", f"{node.id} says nothing of its value: use a noun")


def _check_test_name(path: str, node: ast.FunctionDef, rules: dict[str, Any]) -> Iterator[Finding]:
    longest = rules["longest_name"]
    if len(node.name) > longest:
        yield Finding(path, node.lineno, "test-name", f"{node.name} ({len(node.name)} characters, {longest})")
    if node.name.split("_")[1] in rules["forbidden_first_words"] or node.name.count("_") < 3:
        yield Finding(path, node.lineno, "test-name", f"{node.name}: write test_<unit>_<condition>_<outcome>")


def _check_docstring(path: str, node: Defined, rules: dict[str, Any]) -> Iterator[Finding]:
    docstring = ast.get_docstring(node)
    if not docstring:
        return
    line = node.body[0].lineno
    first = _WORD.match(docstring)
    word = first[0] if first else ""
    summary = docstring.splitlines()[0]
    if word in rules["docstrings"]["forbidden_first_words"]:
        yield Finding(path, line, "docstring", summary)
    elif (
        isinstance(node, ast.FunctionDef)
        and not node.name.startswith("test_")
        and word in rules["docstrings"]["not_a_verb"]
    ):
        yield Finding(path, line, "docstring-verb", summary)
    yield from _check_words(path, docstring, line, rules)


def _check_words(path: str, text: str, line: int, rules: dict[str, Any], name: str = "word") -> Iterator[Finding]:
    prose = _LINK.sub(_blank, _CODE.sub(_blank, text))
    for pattern, instead in rules["words"].items():
        for match in re.finditer(rf"\b(?:{pattern})\b", prose, re.IGNORECASE):
            yield Finding(path, line + prose[: match.start()].count("\n"), name, f"{match[0]!r}: write {instead}")


def duplicate_classes(sources: dict[str, str]) -> Iterator[Finding]:
    """Yield the classes of the package whose name exists a second time."""
    paths: dict[str, str] = {}
    for path, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if node.name in paths:
                    yield Finding(path, node.lineno, "class-name", f"{node.name} is also in {paths[node.name]}")
                paths.setdefault(node.name, path)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _line(text: str, at: int) -> int:
    return text[:at].count("\n") + 1


def tracked() -> list[str]:
    """List the files under version control."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return [path for path in listing.stdout.split("\n") if path.endswith((".md", ".py")) and (ROOT / path).exists()]


def findings(paths: Sequence[str]) -> list[Finding]:
    """Return all findings in ``paths``."""
    rules = style()
    texts = {path: (ROOT / path).read_text() for path in paths}
    package = {path: text for path, text in texts.items() if path.startswith(PACKAGE)}
    return [finding for path, text in texts.items() for finding in check(path, text, rules)] + [
        *duplicate_classes(package)
    ]


def exceeded(reported: Sequence[Finding], allowed: dict[str, int]) -> dict[str, int]:
    """Return the rules with more findings than are allowed, with their number."""
    counts = Counter(finding.rule for finding in reported)
    return {rule: count for rule, count in counts.items() if count > allowed.get(rule, 0)}


def main() -> int:
    """Print the findings of every rule that is broken more often than allowed; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="print every finding, also of rules within their number")
    parser.add_argument("--counts", action="store_true", help="print the number of findings by rule, as TOML")
    arguments = parser.parse_args()
    all_findings = findings(tracked())
    if arguments.counts:
        print(
            "\n".join(
                f"{rule} = {count}" for rule, count in sorted(Counter(finding.rule for finding in all_findings).items())
            )
        )
        return 0
    allowed = style().get("allowed", {})
    exceeded_rules = exceeded(all_findings, allowed)
    for finding in all_findings:
        if arguments.all or finding.rule in exceeded_rules:
            print(finding)
    for rule, count in exceeded_rules.items():
        print(f"{rule}: {count} findings, {allowed.get(rule, 0)} allowed by styles/house.toml")
    return 1 if exceeded_rules else 0


if __name__ == "__main__":
    raise SystemExit(main())
