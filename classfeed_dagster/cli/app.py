"""classfeed on the command line. Exit codes: 0 delivered or nothing to do; 2 usage; 3 stopped by checks; 4 source
not ready; 1 anything else. Errors are one sentence without a traceback; ``--debug`` shows it.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from classfeed_dagster.cli import deliveries as cli_look
from classfeed_dagster.cli import lineage as cli_lineage
from classfeed_dagster.cli import local as cli_local
from classfeed_dagster.cli import operations as cli_operate
from classfeed_dagster.cli import production as cli_production
from classfeed_dagster.cli import reconciliation as cli_reconcile
from classfeed_dagster.cli import schema as cli_schema
from classfeed_dagster.cli import simulation as cli_simulate
from classfeed_dagster.cli import support as cli_support
from classfeed_dagster.cli import trace as cli_trace

app = typer.Typer(
    help="Daily data feeds from the broker to Class: run them, look at them, prove them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
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


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Dagster's own log.")] = False,
) -> None:
    """Daily data feeds from the broker to Class: run them, look at them, prove them."""
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
        raise ValueError(f"--until {until:%Y-%m-%d} is before --date {first}")
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
    """The console script: usage errors exit with 2, known errors with 1 and one sentence."""
    try:
        app()
    except Exception as error:
        if _DEBUG["on"]:
            raise
        Console(stderr=True).print(f"[bold red]classfeed:[/] {_sentence(error)}", highlight=False)
        sys.exit(_exit_code(error))


def _sentence(error: Exception) -> str:
    from rich.markup import escape

    text = str(error).strip() or type(error).__name__
    return escape(text)


def _exit_code(error: Any) -> int:
    # Bad dates and unknown feeds are the caller's: usage.
    return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    main()
