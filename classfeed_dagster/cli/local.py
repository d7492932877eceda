"""The commands for a laptop and for rehearsals: demo, up, seed, replay."""

from __future__ import annotations

import datetime as dt
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from classfeed_dagster.orchestration.rehearsal import Rehearsal
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.simulation.world import World

out = Console()

Seed = Annotated[int, typer.Option(help="The same seed makes the same customers, rows and documents.")]
Portfolios = Annotated[int, typer.Option(min=1, max=50_000, help="How many consented portfolios.")]
Days = Annotated[int, typer.Option(min=1, max=1000, help="How many business days.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(demo)
    app.command()(up)
    app.command()(seed)
    app.command()(replay)


def demo(portfolios: Portfolios = 300, days: Days = 3, seed: Seed = 1) -> None:
    """Set everything up on embedded parts, run some business days, and say what was delivered, checked and reconciled.

    Seeds a local PostgreSQL with invented customers (two of them with planted faults), then runs the real Dagster
    job for each day. Running it again delivers nothing twice.
    """
    rehearsal = _rehearse("demo", None, portfolios, days, seed, faulty=True)
    _print_rehearsal(rehearsal)
    out.print(
        "\n[bold]Where to look[/]\n"
        "  make up                        the Dagster UI, with these runs\n"
        f"  {rehearsal.store_location}/delivered   the documents and their manifests\n"
        "  .venv/bin/classfeed status     what was delivered and held back\n"
        f"  .venv/bin/classfeed trace {rehearsal.example_transaction}   from a document back to its source row",
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(0 if rehearsal.proven else 3)


def seed(portfolios: Portfolios = 300, seed: Seed = 1) -> None:
    """Write invented customers and their history into the local bigsite; refuses any other database.

    Safe to repeat: the same seed writes the same rows, once.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    try:
        world = _world(runtime, None, portfolios, seed, [])
        with out.status("writing customers and their history …"):
            world.seed(runtime.engine)
    finally:
        runtime.close()
    out.print(f"{portfolios} consented portfolios (and some who never consent) are in bigsite", highlight=False)


def replay(
    market: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Parquet of real prices: code, date, close, ... as text."),
    ] = None,
    days: Days = 20,
    portfolios: Portfolios = 2000,
    seed: Seed = 1,
) -> None:
    """Run business days through the real Dagster jobs, on real prices if a market file is given, and prove the outcome.

    The proof adds up every delivered document as the recipient does: on the last day, each portfolio's movements must
    come to its holdings and balances, and to the customers' own books.
    """
    rehearsal = _rehearse("replay", market, portfolios, days, seed, faulty=False)
    _print_rehearsal(rehearsal)
    raise typer.Exit(0 if rehearsal.proven else 3)


def up(
    port: Annotated[int, typer.Option(help="The UI's port, if free.")] = 3000,
) -> None:
    """The Dagster UI and daemon on embedded services, until Ctrl-C."""
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.local.dagster_instance import dagster_home
    from classfeed_dagster.local.dagster_services import dagster_services, free_port
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    settings = runtime.settings
    home = dagster_home(settings.home)
    with out.status("starting …"):
        url = runtime.engine.url.render_as_string(hide_password=False)
    environment = {
        "CLASSFEED_HOME": str(settings.home.absolute()),
        "CLASSFEED_STORE_URL": settings.store_location
        if "://" in settings.store_location
        else str(Path(settings.store_location).absolute()),
        "CLASSFEED_BIGSITE_URL": url,
    }
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stopped.set())
    with dagster_services(home, free_port(port), environment) as address:
        out.print(f"The Dagster UI: [bold]{address}[/]   (Ctrl-C stops everything)", highlight=False)
        stopped.wait()
    server.stop(settings.home)  # a run may have started the local warehouse
    runtime.close()
    out.print("stopped", highlight=False)


def _world(runtime: Runtime, market: Path | None, portfolios: int, seed: int, dates: Sequence[dt.date]) -> World:
    # `dates`: of a demonstration, on which faults are planted; without them nothing breaks a rule.
    from classfeed_dagster.bigsite.create_schema import create_schema
    from classfeed_dagster.simulation.day import Fault, PlantedFault
    from classfeed_dagster.simulation.environment import market_of
    from classfeed_dagster.simulation.world import World

    create_schema(runtime.engine)
    first = runtime.settings.first_business_date
    faults = (
        [PlantedFault(Fault.UNBALANCED_UNITS, dates[0], dates[-1]), PlantedFault(Fault.ILLEGAL_CHARACTER, dates[-1])]
        if dates
        else []
    )
    return World(
        seed,
        market_of(market, seed, first),
        consented=portfolios,
        portfolios=portfolios + max(1, portfolios // 10),  # some never consent and must never appear
        first_day=first,
        faults=faults,
    )


def _rehearse(name: str, market: Path | None, portfolios: int, days: int, seed: int, *, faulty: bool) -> Rehearsal:
    from classfeed_dagster import trading_days
    from classfeed_dagster.cli.deliveries import require_feed
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.local.dagster_instance import open_instance
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.rehearsal import rehearse
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    first = runtime.settings.first_business_date
    dates = [day for day in trading_days.business_days() if day >= first][:days]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with out.status("starting bigsite …"):
            world = _world(runtime, market, portfolios, seed, dates if faulty else [])
        with open_instance(runtime.settings.home) as instance, Progress(*columns, console=out) as progress:
            task = progress.add_task(name, total=len(dates))
            return rehearse(
                build_definitions(runtime),
                instance,
                runtime,
                require_feed("class_super"),
                world,
                dates,
                tell=lambda what: progress.update(task, description=f"{name}: {what}"),
                done=lambda: progress.advance(task),
            )
    finally:
        server.release(runtime.settings.home)
        runtime.close()


def _print_rehearsal(rehearsal: Rehearsal) -> None:
    table = Table(title=f"{rehearsal.feed}: what was delivered", title_justify="left")
    for column in ("date", "outcome", "revision", "sent", "held", "pages", "bytes", "checks", "s"):
        table.add_column(column, justify="left" if column in ("date", "outcome") else "right", no_wrap=True)
    for report, seconds in rehearsal.runs:
        facts = report.facts
        failed = len(report.failed_checks) + len(report.warnings)
        table.add_row(
            report.business_date.isoformat(),
            f"{report.outcome}" if report.outcome.exit_code == 0 else f"[red]{report.outcome}[/]",
            *(str(facts.get(name, "")) for name in ("revision", "portfolios", "held_back", "pages", "bytes")),
            f"{report.checks - failed}/{report.checks}",
            f"{seconds:.1f}",
        )
    out.print(table)
    for proof in rehearsal.proofs:
        mark = "[green]proven[/]" if proof.holds else "[bold red]FAILED[/]"
        out.print(f"  {mark}  {proof.statement}", highlight=False)
    for number, reason in rehearsal.held_back[:10]:
        out.print(f"  held back: {number}: {reason}", highlight=False)
