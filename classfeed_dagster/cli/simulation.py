"""Command for simulated customers: simulate more business days, outside production only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.simulation.day import DaySummary

out = output.console()
_SHOWN = ("buys", "sells", "deposit", "withdrawal", "dividend", "consents granted", "consents revoked", "late rows")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(simulate)


def simulate(
    days: Annotated[int, typer.Option(min=1, max=1000, help="Number of business days to add.")] = 1,
    mark: Annotated[
        bool,
        typer.Option(
            "--mark",
            help="Mark a database that is not empty as one for rehearsals.",
        ),
    ] = False,
) -> None:
    """Simulate more business days of invented customers in this environment's bigsite.

    A database without simulated customers gets them first. Production, and any database that looks like it, is refused
    before connecting.
    """
    from classfeed_dagster import trading_days
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.simulation import guard
    from classfeed_dagster.simulation.environment import advance, last_day

    runtime = Runtime()
    settings = runtime.settings
    guard.require_environment(settings.env)
    try:
        with output.console(stderr=True).status("starting …"):
            engine = runtime.engine
        if mark:
            guard.mark(engine, settings.env)
        last = last_day(engine, settings)
        first = settings.first_business_date if last is None else trading_days.next_business_day(last)
        coming = trading_days.business_days_between(first, trading_days.LAST_SUPPORTED)[:days]
        with output.console(stderr=True).status(f"{coming[0]} to {coming[-1]}: customers and their history …"):
            result = advance(engine, settings, coming[-1])
    finally:
        runtime.close()
    _print(result.written)
    out.print(
        f"{result.world.description}; {len(result.world.sharing(coming[-1]))} of them share with Class on {coming[-1]}"
    )
    out.print(f"Deliver it: classfeed run --date {coming[0]} --until {coming[-1]}")


def _print(days: tuple[DaySummary, ...]) -> None:
    total: Counter[str] = Counter()
    for summary in days:
        total.update({**summary.counts, "rows": sum(summary.rows.values())})
    rows = [[summary.day.isoformat(), *_cells(summary.counts, sum(summary.rows.values()))] for summary in days[-20:]]
    rows.append([counted(len(days), "day"), *_cells(total, total["rows"])])
    columns = ["date", *_SHOWN, "rows"]
    output.print_table(out, "customers' events", columns, rows, keys=("date",), right=columns[1:])


def _cells(counts: Mapping[str, int], rows: int) -> list[str]:
    return [*(str(counts.get(name, 0)) for name in _SHOWN), f"{rows:,}"]
