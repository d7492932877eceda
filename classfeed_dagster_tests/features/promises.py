"""Which scenario proves which promise: the tags of the features, and the list of promises in docs/promises.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "promises.md"
PREFIX = "proves-"
_PROMISE = re.compile(r"^\| `([a-z-]+)` \| (.+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario of a feature, and the promises that it proves."""

    feature: str
    title: str
    proves: tuple[str, ...]


def promises() -> dict[str, str]:
    """The promises by id, in the page's order."""
    listed = PAGE.read_text().partition("## What proves it")[0]
    return dict(_PROMISE.findall(listed))


def told() -> Iterator[Scenario]:
    """Every scenario of every feature, in order."""
    for path in sorted(HERE.glob("*.feature")):
        tags: list[str] = []
        feature = path.stem
        for line in map(str.strip, path.read_text().splitlines()):
            if line.startswith("@"):
                tags += line.split()
            elif line.startswith("Feature:"):
                feature = line.removeprefix("Feature:").strip()
            elif line.startswith("Scenario:"):
                proves = tuple(tag.removeprefix(f"@{PREFIX}") for tag in tags if tag.startswith(f"@{PREFIX}"))
                yield Scenario(feature, line.removeprefix("Scenario:").strip(), proves)
                tags = []


def matrix() -> Iterator[str]:
    """The table of docs/promises.md: each promise, and the scenarios that prove it."""
    yield "| promise | proven by |"
    yield "|---|---|"
    scenarios = list(told())
    for promise in promises():
        proving = "<br>".join(f"{one.feature}: *{one.title}*" for one in scenarios if promise in one.proves)
        yield f"| `{promise}` | {proving} |"
