"""The command for simulated customers: let them live some more business days, outside production only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from classfeed_dagster.simulation.day import DaySummary

out = Console()
_SHOWN = ("buys", "sells", "deposit", "withdrawal", "dividend", "consents granted", "consents revoked", "late rows")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(simulate)


def simulate(
    days: Annotated[int, typer.Option(min=1, max=1000, help="How many business days more.")] = 1,
    mark: Annotated[
        bool,
        typer.Option(
            "--mark",
            help="Put the marker into a database that is not empty and known to be for rehearsals. You decide.",
        ),
    ] = False,
) -> None:
    """Let simulated customers live some more business days in this environment's bigsite.

    Continues the customers that are there; a database without any gets them first, as the settings
    CLASSFEED_SIMULATION_… say. Refuses production before connecting, and any database that looks like it.
    """
    from classfeed_dagster import trading_days
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.simulation import guard
    from classfeed_dagster.simulation.environment import advance, last_day

    runtime = Runtime()
    settings = runtime.settings
    guard.require_environment(settings.env)
    try:
        with out.status("starting …"):
            engine = runtime.engine
        if mark:
            guard.mark(engine, settings.env)
        last = last_day(engine, settings)
        first = settings.first_business_date if last is None else trading_days.next_business_day(last)
        coming = trading_days.business_days_between(first, trading_days.LAST_SUPPORTED)[:days]
        with out.status(f"{coming[0]} to {coming[-1]}: customers and their history …"):
            done = advance(engine, settings, coming[-1])
    finally:
        runtime.close()
    _print(done.written)
    out.print(
        f"{done.world.description}; {len(done.world.sharing(coming[-1]))} of them share with Class on {coming[-1]}",
        highlight=False,
    )
    out.print(f"Deliver it: classfeed run --date {coming[0]} --until {coming[-1]}", highlight=False)


def _print(days: tuple[DaySummary, ...]) -> None:
    table = Table(title="what customers did", title_justify="left")
    table.add_column("date")
    for column in (*_SHOWN, "rows"):
        table.add_column(column, justify="right")
    total: Counter[str] = Counter()
    for one in days[-20:]:
        table.add_row(one.day.isoformat(), *_cells(one.counts, sum(one.rows.values())))
    for one in days:
        total.update({**one.counts, "rows": sum(one.rows.values())})
    table.add_section()
    table.add_row(f"{len(days)} days", *_cells(total, total["rows"]))
    out.print(table)


def _cells(counts: Mapping[str, int], rows: int) -> list[str]:
    return [*(str(counts.get(name, 0)) for name in _SHOWN), f"{rows:,}"]
