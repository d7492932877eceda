"""Output of the commands: lines and tables for people, one JSON document for machines."""

from __future__ import annotations

import json
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

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document (shape: docs/json-output.md).")]


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or without a limit in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _UNLIMITED)


def print_table(
    target: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: Collection[str],
    right: Collection[str] = (),
    links: Mapping[str, str] | None = None,
) -> None:
    """Print a table whose ``keys`` columns are never cut. Others are folded; if that is not enough, rows become blocks.

    ``right``: columns aligned to the right. ``links``: the URL behind the values of a column.
    """
    widest = {name: max([len(name), *(len(row[at]) for row in rows)]) for at, name in enumerate(columns)}
    narrowest = {name: widest[name] if name in keys else min(widest[name], 8) for name in columns}
    if sum(narrowest.values()) + 2 * len(columns) > target.width:
        _print_blocks(target, title, columns, rows)
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(
            name,
            no_wrap=name in keys,
            overflow="fold",
            min_width=narrowest[name],
            justify="right" if name in right else "left",
        )
    for row in rows:
        table.add_row(*(link(value, (links or {}).get(name)) for name, value in zip(columns, row, strict=True)))
    target.print(table)


def link(text: str, url: str | None) -> str:
    """Return markup of a text that leads to ``url`` in a terminal with hyperlinks (OSC 8), plain text elsewhere."""
    return f"[link={url}]{escape(text)}[/link]" if url and text else escape(text)


def _print_blocks(target: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # A terminal that is narrower than the keys: one line a value.
    target.print(title, highlight=False, soft_wrap=True)
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            target.print(f"  {name}: {escape(value)}", highlight=False, soft_wrap=True)
        target.print()


def print_json(document: Any) -> None:
    """Print a document of plain values; dates, instants and decimals as text."""
    typer.echo(json.dumps(document, indent=1, default=str, ensure_ascii=False))
