"""Entry point of the command line. Errors are one sentence without a traceback; ``--debug`` shows it."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from classfeed_dagster.cli import deliveries as cli_look
from classfeed_dagster.cli import ledger as cli_ledger
from classfeed_dagster.cli import lineage as cli_lineage
from classfeed_dagster.cli import local as cli_local
from classfeed_dagster.cli import operations as cli_operate
from classfeed_dagster.cli import production as cli_production
from classfeed_dagster.cli import reconciliation as cli_reconcile
from classfeed_dagster.cli import schema as cli_schema
from classfeed_dagster.cli import simulation as cli_simulate
from classfeed_dagster.cli import support as cli_support
from classfeed_dagster.cli import trace as cli_trace
from classfeed_dagster.errors import ExitCode, UsageError

_HELP = "Daily data feeds from the broker to Class: run, inspect and prove them.\n\nExit codes:\n\n" + "\n".join(
    f"* {code.value}: {code.meaning}" for code in ExitCode
)

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
cli_ledger.register(app)
cli_lineage.register(app)
cli_local.register(app)
cli_look.register(app)
cli_trace.register(app)
cli_support.register(app)
cli_operate.register(app)
cli_production.register(app)
cli_reconcile.register(app)
cli_schema.register(app)
cli_simulate.register(app)

out = Console()
_DEBUG = {"on": False}


@app.callback(help=_HELP)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Dagster's own log.")] = False,
) -> None:
    """Configure the process before a command."""
    from classfeed_dagster import logs
    from classfeed_dagster.settings import get_settings

    _DEBUG["on"] = debug
    # People at a terminal see the outcome; the log is for services and for --debug.
    logs.configure(get_settings().log_format, level=logging.DEBUG if debug else logging.WARNING)


@app.command()
def run(
    date: Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Business date, YYYY-MM-DD.")],
    until: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Every business date from --date to this one, in order."),
    ] = None,
    feed: Annotated[str, typer.Option(help="Which feed.")] = "class_super",
    fresh_snapshot: Annotated[
        bool, typer.Option("--fresh-snapshot", help="Read bigsite again instead of using the landed snapshot.")
    ] = False,
) -> None:
    """Deliver one business date of one feed, or a range, through the same Dagster job as the UI.

    Safe at any time, twice, or at once with another: what was delivered is never delivered again. With
    `--fresh-snapshot`, portfolios whose content changed since are re-issued, and only those. A range stops at the
    first date that doesn't go.
    """
    from classfeed_dagster import trading_days
    from classfeed_dagster.local.dagster_instance import open_instance
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.run_date import run_date
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    first = cli_look.require_due(runtime.settings, feed, trading_days.require_business_day(date.date()))
    audience = cli_look.require_feed(feed).audience(runtime.settings.first_business_date)
    days = [day for day in audience.dates() if first <= day <= (until.date() if until else first)]
    if not days:
        raise UsageError(f"--until {until:%Y-%m-%d} is before --date {first}")
    try:
        with open_instance(runtime.settings.home) as instance:
            definitions = build_definitions(runtime)
            for day in days:
                with out.status(f"{feed} for {day} …"):
                    report = run_date(
                        definitions, instance, feed, day, fresh_snapshot=fresh_snapshot, verbose=_DEBUG["on"]
                    )
                cli_look.print_report(out, report)
                if report.outcome.exit_code:
                    raise typer.Exit(report.outcome.exit_code)
    finally:
        runtime.close()


def main() -> None:
    """Run the console script. Errors are one sentence on standard error; the exit code is the exception's."""
    try:
        app()
    except Exception as error:
        if _DEBUG["on"]:
            raise
        from classfeed_dagster.cli.failures import failure_of

        failure = failure_of(error)
        Console(stderr=True).print(f"[bold red]classfeed:[/] {escape(failure.sentence)}", highlight=False)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
