"""Output of the commands: lines and tables for people, one JSON document for machines."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Not a terminal: a pipe or a file has no width, so nothing is wrapped or cut there.
_UNLIMITED = 10_000
_FOLDED = 12  # characters that a folded column has at least

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document (shape: docs/json-output.md).")]


class WrappingConsole(Console):
    """Console that breaks lines of text between words alone, so that a location stays in one piece."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as ``Console`` does."""
        if not objects or not all(isinstance(entry, str) for entry in objects):
            super().print(*objects, **options)
            return
        text = options.pop("sep", " ").join(objects)
        shown = self.render_str(text, markup=options.pop("markup", None))
        for line in shown.split("\n", allow_blank=True):
            for part in line.divide(_line_starts(line.plain, self.width)):
                part.rstrip()
                super().print(part, **options | {"soft_wrap": True})


def _line_starts(text: str, width: int) -> list[int]:
    """Return where the second and later lines of a text begin: at a word, and none is empty."""
    starts = [0]
    for word in re.finditer(r"\S+", text):
        if word.end() - starts[-1] > width and text[starts[-1] : word.start()].strip():
            starts.append(word.start())
    return starts[1:]


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or without a limit in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return WrappingConsole(stderr=stderr, width=None if stream.isatty() else _UNLIMITED, highlight=False)


def print_table(
    target: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: Collection[str],
    right: Collection[str] = (),
    links: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Print a table whose ``keys`` columns are never cut. Others are folded; if that is not enough, rows become blocks.

    Words are folded only if the terminal has no room for the longest of each column.

    ``right``: columns aligned to the right. ``links``: the URL behind the values of a column. ``optional``: columns
    that a narrow terminal leaves out, the first one first.
    """
    values = {name: max((len(row[at]) for row in rows), default=0) for at, name in enumerate(columns)}
    words = {name: max(map(len, name.split()), default=0) for name in columns}
    narrowest = {
        name: max(words[name], values[name] if name in keys else min(values[name], _FOLDED)) for name in columns
    }
    shown = list(columns)
    for name in optional:
        if _width(shown, narrowest) > target.width:
            shown.remove(name)
    if _width(shown, narrowest) > target.width:
        _print_blocks(target, title, columns, rows)
        return
    unbroken = {
        name: max(narrowest[name], *(len(word) for row in rows for word in row[columns.index(name)].split()), 0)
        for name in shown
    }
    if _width(shown, unbroken) <= target.width:
        narrowest = unbroken
    whole = _width(shown, {name: max(len(name), values[name]) for name in columns}) <= target.width
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in shown:
        table.add_column(
            name if whole else "\n".join(name.split()),
            no_wrap=name in keys,
            overflow="fold",
            min_width=narrowest[name],
            justify="right" if name in right else "left",
        )
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        table.add_row(*(link(cells[name], (links or {}).get(name)) for name in shown))
    target.print(table)


def _width(columns: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[name] for name in columns) + 2 * len(columns) - 1


def link(text: str, url: str | None) -> str:
    """Return markup of a text that leads to ``url`` in a terminal with hyperlinks (OSC 8), plain text elsewhere."""
    return f"[link={url}]{escape(text)}[/link]" if url and text else escape(text)


def _print_blocks(target: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # A terminal that is narrower than the keys: one line a value.
    target.print(title, soft_wrap=True)
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            target.print(f"  {name}: {escape(value)}", soft_wrap=True)
        target.print()


def print_json(document: Any) -> None:
    """Print a document of plain values; dates, instants and decimals as text."""
    typer.echo(json.dumps(document, indent=1, default=str, ensure_ascii=sys.stdout.encoding != "utf-8"))
