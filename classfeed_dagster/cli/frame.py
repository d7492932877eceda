"""Command for analysts: frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import Date, FeedName, output_file, require_due, require_store
from classfeed_dagster.errors import UsageError
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    import polars as pl

out = output.console()


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(frame)


def frame(
    asset: Annotated[
        str, typer.Argument(help="landing/TABLE, a domain frame such as investment_holdings, or its asset's key.")
    ],
    date: Date,
    feed: FeedName = DEFAULT_FEED,
    to: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .csv or .parquet; default: the terminal.", dir_okay=False, callback=output_file
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows that the terminal shows.")] = 20,
    as_json: output.JsonOption = False,
) -> None:
    """Read a frame behind a delivered date: a landed table or a domain, of the snapshot that was delivered.

    The rows are customers' data: keep a file where the policy allows it. In Python:
    `classfeed_dagster.read.frame("investment_holdings", "2023-01-03")`.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    day = require_due(runtime.settings, feed, date.date())
    if to is not None and as_json:
        raise UsageError("--to and --json exclude each other: choose one")
    if to is not None and to.suffix not in (".csv", ".parquet"):
        raise UsageError(f"Unsupported file type {to.suffix or to.name!r}: name the file .csv or .parquet")
    require_store(runtime)
    from classfeed_dagster import read

    if to is not None and to.suffix == ".parquet":
        count = read.write_parquet(asset, day, to, feed=feed, runtime=runtime)
        out.print(f"{counted(count, 'row')} of {asset} {day}: {escape(str(to))}")
        return
    table = read.frame(asset, day, feed=feed, runtime=runtime)
    if to is not None:
        table.write_csv(to)
        out.print(f"{counted(table.height, 'row')} of {asset} {day}: {escape(str(to))}")
    elif as_json:
        output.print_json({"asset": asset, "business_date": day.isoformat(), "rows": _plain(table)})
    else:
        cells = [[("" if value is None else str(value)) for value in row] for row in table.head(rows).iter_rows()]
        output.print_table(
            out, f"{asset} {day}: {counted(table.height, 'row')}", table.columns, cells, keys=table.columns[:1]
        )


def _plain(table: pl.DataFrame) -> list[dict[str, Any]]:
    # Numbers with decimals are text: a reader's float would not be exact.
    return [
        {name: value if isinstance(value, int | bool) or value is None else str(value) for name, value in row.items()}
        for row in table.iter_rows(named=True)
    ]
