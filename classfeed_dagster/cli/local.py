"""Commands for a laptop, and for rehearsals outside production: demo, up, seed, replay, simulate."""

from __future__ import annotations

import datetime as dt
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import require_feed, require_past
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.orchestration.rehearsal import Rehearsal
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings
    from classfeed_dagster.simulation.day import DaySummary, PlantedFault
    from classfeed_dagster.simulation.world import World

out = output.console()

Seed = Annotated[int, typer.Option(help="Seed of the invented customers; equal seeds give equal rows and documents.")]
Portfolios = Annotated[int, typer.Option(min=1, max=50_000, help="Number of consented portfolios.")]
Days = Annotated[int, typer.Option(min=1, max=1000, help="Number of business days.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(demo)
    app.command()(up)
    app.command()(seed)
    app.command()(replay)
    app.command()(simulate)


def demo(
    portfolios: Portfolios = 300,
    days: Days = 3,
    seed: Seed = 1,
    start: Annotated[
        dt.datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            help="First business date; default: so that the last one is the latest whose morning has passed.",
        ),
    ] = None,
) -> None:
    """Set up everything on embedded services, run some business days, and show deliveries, checks and proofs.

    Customers are invented, up to two with planted faults. A second demo delivers nothing twice and keeps the dates.
    Equal dates, seed and number of portfolios give equal documents.
    """
    _choose_first_date(start.date() if start else None, days)
    rehearsal = _rehearse("demo", None, portfolios, days, seed, faulty=True)
    _print_rehearsal(rehearsal)
    program = _program()
    steps = {
        f"{program} up": "the Dagster UI with these runs, at http://127.0.0.1:3000",
        f"{program} status": "deliveries and held-back portfolios",
        f"{program} trace {rehearsal.example_transaction}": "from a document back to its source row",
        escape(f"{rehearsal.store_location}/delivered"): "the documents and their manifests",
    }
    width = max(map(len, steps))
    lines = [f"  {step:<{width}}  {result}" for step, result in steps.items()]
    out.print("\n[bold]Next steps[/]", *lines, sep="\n")
    raise typer.Exit(ExitCode.OK if rehearsal.proven else ExitCode.STOPPED)


def _program() -> str:
    """Return the command as it was called, without its folder if the search path has it."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "classfeed" and shutil.which("classfeed") != str(called) else "classfeed"


def _choose_first_date(start: dt.date | None, days: int) -> None:
    """Record the first business date of a new home; a home with data, or with the setting, keeps what it has.

    UsageError if ``start`` contradicts it, is no business day or is so late that the last date is not over.
    """
    from classfeed_dagster import trading_days
    from classfeed_dagster.errors import UsageError
    from classfeed_dagster.settings import FIRST_DATE_FILE, get_settings

    settings = get_settings()
    _require_embedded(settings)
    if start is not None:
        trading_days.require_business_day(start)
        require_past(settings, _dates_from(start, days)[-1])
    fixed = "first_business_date" in settings.model_fields_set
    if fixed or (settings.home / "store").exists():
        if start not in (None, settings.first_business_date):
            raise UsageError(
                f"this home begins on {settings.first_business_date}: use another CLASSFEED_HOME for other dates"
            )
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / FIRST_DATE_FILE).write_text(f"{start or _latest_dates(days)[0]}\n")
    get_settings.cache_clear()


def _dates_from(first: dt.date, days: int) -> list[dt.date]:
    from classfeed_dagster import trading_days

    return [day for day in trading_days.business_days() if day >= first][:days]


def _latest_dates(days: int) -> list[dt.date]:
    """Return the last ``days`` business dates whose run would have started by now, in order."""
    from classfeed_dagster import trading_days
    from classfeed_dagster.orchestration.rehearsal import morning_after

    now = dt.datetime.now(dt.UTC)
    return [day for day in trading_days.business_days() if day <= now.date() and morning_after(day) <= now][-days:]


def seed(portfolios: Portfolios = 300, seed: Seed = 1) -> None:
    """Write invented customers and their history into the local bigsite. Any other database is refused.

    Safe to repeat: the same seed writes the same rows, once.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    try:
        with output.console(stderr=True).status("writing customers and their history …"):
            world = _world(runtime, None, portfolios, seed, [])
            present = _count_portfolios(runtime)
            world.seed(runtime.engine)
            count = _count_portfolios(runtime) - present
    finally:
        runtime.close()
    if count:
        out.print(f"{portfolios} consented portfolios (and some that never consent) are in bigsite")
    else:
        out.print(f"nothing to write: bigsite already holds these {present} portfolios")


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

    On the last day, delivered movements must sum to holdings, balances and the customers' own books.
    """
    rehearsal = _rehearse("replay", market, portfolios, days, seed, faulty=False)
    _print_rehearsal(rehearsal)
    raise typer.Exit(ExitCode.OK if rehearsal.proven else ExitCode.STOPPED)


def up(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the UI; another one is used if it is taken.")
    ] = 3000,
) -> None:
    """Run the Dagster UI and daemon on embedded services, until Ctrl-C."""
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.local.dagster_instance import dagster_home
    from classfeed_dagster.local.dagster_services import (
        dagster_services,
        free_port,
        only_services,
        stop_left_over,
        wait_while_up,
    )
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    settings = runtime.settings
    _require_embedded(settings)
    home = dagster_home(settings.home)
    with only_services(home) as record:
        if stop_left_over(home):
            out.print("Stopped the services of a `classfeed up` that was killed")
        with output.console(stderr=True).status("starting …"):
            url = runtime.engine.url.render_as_string(hide_password=False)
        environment = {
            "CLASSFEED_HOME": str(settings.home.absolute()),
            "CLASSFEED_STORE_URL": settings.store_location
            if "://" in settings.store_location
            else str(Path(settings.store_location).absolute()),
            "CLASSFEED_BIGSITE_URL": url,
        }
        stopped = threading.Event()
        ending = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal is closed, without nohup
            ending.append(signal.SIGHUP)
        for signal_number in ending:
            signal.signal(signal_number, lambda *_: stopped.set())
        chosen = free_port(port)
        if chosen != port:
            out.print(f"Port {port} is taken: using {chosen}")
        try:
            with dagster_services(home, chosen, environment) as address:
                record(address)
                out.print(f"The Dagster UI: [bold]{address}[/]   (Ctrl-C stops everything)")
                wait_while_up(home, stopped)
        finally:
            server.release(settings.home)  # a run may have started the local warehouse
            runtime.close()
    out.print("stopped")


def _require_embedded(settings: Settings) -> None:
    """Raise MissingExtraError before anything starts if a service that will be needed is not installed."""
    from classfeed_dagster.local.embedded_postgres import require_embedded_postgres
    from classfeed_dagster.local.snowflake_server import require_local_snowflake

    if settings.bigsite_url is None:
        require_embedded_postgres()
    if settings.snowflake_account is None:
        require_local_snowflake()


def _count_portfolios(runtime: Runtime) -> int:
    import sqlalchemy as sa

    from classfeed_dagster.bigsite.tables import portfolio

    with runtime.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(portfolio)).scalar_one()


def _world(runtime: Runtime, market: Path | None, portfolios: int, seed: int, dates: Sequence[dt.date]) -> World:
    # `dates`: of a demonstration, on which faults are planted; without them nothing breaks a rule.
    from classfeed_dagster.bigsite.create_schema import create_schema
    from classfeed_dagster.simulation.environment import market_of
    from classfeed_dagster.simulation.world import World

    create_schema(runtime.engine)
    first = runtime.settings.first_business_date
    # One more on a date than the limit allows would stop the feed.
    faults = demo_faults(dates, int(portfolios * runtime.settings.max_held_back_share))
    return World(
        seed,
        market_of(market, seed, first),
        consented=portfolios,
        portfolios=portfolios + max(1, portfolios // 10),  # some never consent and must never appear
        first_day=first,
        faults=faults,
    )


def demo_faults(dates: Sequence[dt.date], at_most: int) -> list[PlantedFault]:
    """Return the faults of a demo over ``dates``: one corrected on the last date, and one that stays."""
    from classfeed_dagster.simulation.day import Fault, PlantedFault

    if not dates:
        return []
    corrected_on = dates[-1] if len(dates) > 1 else None
    faults = [
        PlantedFault(Fault.UNBALANCED_UNITS, dates[0], corrected_on),
        PlantedFault(Fault.ILLEGAL_CHARACTER, dates[-1]),
    ]
    return faults[:at_most]


def _rehearse(name: str, market: Path | None, portfolios: int, days: int, seed: int, *, faulty: bool) -> Rehearsal:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    _require_embedded(runtime.settings)
    first = runtime.settings.first_business_date
    dates = _dates_from(first, days)
    require_past(runtime.settings, max(dates, default=first))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with output.console(stderr=True).status("starting bigsite, writing customers and their history …"):
            world = _world(runtime, market, portfolios, seed, dates if faulty else [])
            world.seed(runtime.engine)  # refuses another world before Dagster is imported
        from classfeed_dagster.local.dagster_instance import open_instance
        from classfeed_dagster.orchestration.definitions import build_definitions
        from classfeed_dagster.orchestration.rehearsal import rehearse

        with (
            open_instance(runtime.settings.home) as instance,
            Progress(*columns, console=output.console(stderr=True)) as progress,
        ):
            task = progress.add_task(name, total=len(dates))
            return rehearse(
                build_definitions(runtime),
                instance,
                runtime,
                require_feed(DEFAULT_FEED),
                world,
                dates,
                progress=lambda label: progress.update(task, description=f"{name}: {label}"),
                done=lambda: progress.advance(task),
            )
    finally:
        server.release(runtime.settings.home)
        runtime.close()


def _print_rehearsal(rehearsal: Rehearsal) -> None:
    columns = ["date", "outcome", "revision", "sent", "held", "pages", "bytes", "checks", "s", "why"]
    ordered = sorted(rehearsal.runs, key=lambda run: run[0].business_date)  # stable: a date's runs stay in order
    rows = []
    for report, seconds in ordered:
        failed = len(report.failed_checks) + len(report.warnings)
        none = 0 if "revision" in report.facts else ""  # the metadata leaves out counts that are zero
        figures = (report.facts.get(name, none) for name in ("revision", "portfolios", "held_back", "pages"))
        size = report.facts.get("bytes")
        rows.append(
            [
                report.business_date.isoformat(),
                str(report.outcome),
                *map(str, figures),
                f"{size:,}" if isinstance(size, int) else str(size or ""),
                f"{report.checks - failed}/{report.checks}",
                f"{seconds:.1f}",
                rehearsal.reasons.get(report.run_id, ""),
            ]
        )
    numbers = columns[2:-1]
    output.print_table(
        out, f"{rehearsal.feed}: deliveries", columns, rows, keys=("date", "outcome", *numbers), right=numbers,
        optional=("pages", "s"),
    )  # fmt: skip
    for report, _ in ordered:
        for kind, names in (("failed", report.failed_checks), ("warned", report.warnings)):
            if names:
                line = (
                    f"  {report.business_date} revision {report.facts.get('revision', '-')}: {kind}: {', '.join(names)}"
                )
                out.print(line)
        if report.outcome.exit_code:
            out.print(f"  {report.business_date}: {report.message}", markup=False)
    for proof in rehearsal.proofs:
        mark = "[green]proven[/]" if proof.holds else "[bold red]FAILED[/]"
        out.print(f"  {mark}  {escape(proof.statement)}")
    for number, reason in rehearsal.held_back[:10]:
        out.print(f"  held back: {number}: {reason}")


_SHOWN = ("buys", "sells", "deposit", "withdrawal", "dividend", "consents granted", "consents revoked", "late rows")


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
