"""Entry point of the command line. Errors are one sentence without a traceback; ``--debug`` shows it."""

from __future__ import annotations

import atexit
import datetime as dt
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import (
    customer,
    deliveries,
    evidence,
    frame,
    ledger,
    lineage,
    local,
    operations,
    output,
    preflight,
    production,
    reconciliation,
    schema,
    support,
    trace,
)
from classfeed_dagster.cli.arguments import Date, FeedName, require_due, require_feed, require_past
from classfeed_dagster.errors import ClassfeedError, Dependency, ExitCode, UnavailableError, UsageError
from classfeed_dagster.store import check_reachable
from classfeed_dagster.tags import DEFAULT_FEED

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime

# Failures of a file or of the output, which people can remedy.
_FILE_FAULTS = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC,
        errno.EDQUOT,
    }
)  # fmt: skip
_UNREACHABLE = {
    Dependency.BIGSITE: "bigsite cannot be reached: check that it is up, and CLASSFEED_BIGSITE_URL",
    Dependency.STORE: "The object store cannot be reached: check CLASSFEED_STORE_URL and CLASSFEED_S3_ENDPOINT_URL",
    Dependency.SNOWFLAKE: "Snowflake cannot be reached: check the CLASSFEED_SNOWFLAKE_ settings",
}
# Drivers' errors that name a setting which people can correct.
_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "UnauthorizedSSOTokenError"})
# Words of the command line's library, and ours.
_WORDS = {"Value error, ": "", "match the formats '%Y-%m-%d'": "have the form YYYY-MM-DD", "Input should": "it must"}


@dataclass(frozen=True, slots=True)
class Failure:
    """End of a command: a sentence for people and the exit code."""

    sentence: str
    exit_code: ExitCode


def usage_of(error: BaseException) -> Failure | None:
    """Describe the command line's own refusal of arguments; None for any other error."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    context = getattr(error, "ctx", None)
    command = "classfeed" if context is None else context.command_path
    message = " ".join(format_message().split()).rstrip(".")  # a command without arguments prints its help here
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return Failure(f"{message or 'Choose a command'}: see `{command} --help`", ExitCode.USAGE)


def failure_of(error: BaseException) -> Failure:
    """Describe ``error``: this package's exceptions in their own words, others by what they mean for the command."""
    from classfeed_dagster.repair.causes import classify, exit_code

    chain = [(type(link).__name__, str(link)) for link in _chain(error)]
    cause = classify(chain)
    if isinstance(error, ClassfeedError):
        code = exit_code(cause) if isinstance(error, UnavailableError) else error.exit_code
        return Failure(str(error).strip(), code)
    if cause.error in _CREDENTIALS:
        return Failure("The object store needs AWS credentials: sign in, or set AWS_PROFILE", ExitCode.USAGE)
    if cause.dependency is not None:
        return Failure(f"{_UNREACHABLE[cause.dependency]} ({cause.error})", exit_code(cause))
    if isinstance(error, OSError) and error.errno in _FILE_FAULTS:
        place = error.filename or "the output"
        return Failure(
            f"Cannot use {place}: {error.strerror}. Correct the path or its rights, or free space", ExitCode.FAILED
        )
    return Failure(
        f"Unexpected {type(error).__name__}: run `classfeed --debug …` for the traceback, and report it",
        ExitCode.FAILED,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


_HELP = "Daily data feeds from the broker to Class: run, inspect and prove them.\n\nExit codes:\n\n" + "\n".join(
    f"* {code.value}: {code.meaning}" for code in ExitCode
)

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for group in (
    deliveries, customer, evidence, trace, frame, ledger, support, operations, reconciliation, schema, lineage,
    local, preflight, production,
):  # fmt: skip
    group.register(app)

out = output.console()
_DEBUG = {"on": False}


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"classfeed {version('classfeed-dagster')}")
        raise typer.Exit


@app.callback(help=_HELP)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Dagster's own log.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Configure the process before a command."""
    from classfeed_dagster import logs, telemetry
    from classfeed_dagster.file_access import keep_private
    from classfeed_dagster.settings import get_settings

    keep_private()
    _DEBUG["on"] = debug
    settings = get_settings()
    # People at a terminal see the outcome, in a sentence; the log is for a deployment's components and for --debug.
    level = logging.ERROR if settings.component is None else logging.INFO
    logs.configure(settings.log_format, level=logging.DEBUG if debug else level)
    telemetry.start(settings)


@app.command()
def run(
    date: Date,
    until: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last business date of a range: every date from --date on, in order."),
    ] = None,
    feed: FeedName = DEFAULT_FEED,
    fresh_snapshot: Annotated[
        bool, typer.Option("--fresh-snapshot", help="Read bigsite again instead of using the landed snapshot.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=0, help="Seconds to wait for another run that reads bigsite, before giving up.")
    ] = 600,
) -> None:
    """Deliver one business date of one feed, or a range, through the same Dagster job as the UI.

    Safe at any time, also at once with another: delivered content is never delivered again. With `--fresh-snapshot`,
    only portfolios whose content changed since are re-issued. A range stops at the first date that cannot be delivered.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    # Arguments are refused here, before Dagster and the libraries of the data path are imported.
    first = require_past(runtime.settings, date.date())
    last = first if until is None else require_past(runtime.settings, until.date())
    if last < first:
        raise UsageError(f"--until {last} is before --date {first}")
    first = require_due(runtime.settings, feed, first)
    audience = require_feed(feed).audience(runtime.settings.first_business_date)
    days = [day for day in audience.dates() if first <= day <= last]
    try:
        check_reachable(runtime.store)
        runtime.require_bigsite()
        _run(runtime, feed, days, fresh_snapshot=fresh_snapshot, wait=wait)
    finally:
        runtime.close()


def _run(runtime: Runtime, feed: str, days: Sequence[dt.date], *, fresh_snapshot: bool, wait: int) -> None:
    from classfeed_dagster.local.dagster_instance import open_instance
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.run_date import run_date

    with open_instance(runtime.settings.home) as instance:
        definitions = build_definitions(runtime)
        for day in days:
            with output.console(stderr=True).status(f"{feed} for {day} …"):
                report = run_date(
                    definitions, instance, feed, day, fresh_snapshot=fresh_snapshot, verbose=_DEBUG["on"],
                    wait_seconds=wait, announce=_announce,
                )  # fmt: skip
            deliveries.print_report(out, report)
            if report.outcome.exit_code:
                raise typer.Exit(report.outcome.exit_code)


def _announce(text: str) -> None:
    output.console(stderr=True).print(text)


def _end_orderly_when_signalled() -> None:
    # A closed terminal (SIGHUP) or SIGTERM releases the embedded services, as Ctrl-C does. nohup's choice is kept.
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def _require_readable(arguments: Sequence[str]) -> None:
    # Python stands in for bytes that the terminal's encoding does not have, and no store or database takes these.
    for number, argument in enumerate(arguments, 1):
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UsageError(f"Argument {number} is not in the terminal's encoding: correct it, or set LC_ALL=C.UTF-8")


def script() -> None:
    """Run the console script: ``main``, without the interpreter's teardown of some thousand modules at its end.

    Exit handlers run and output is flushed. Output that cannot be written, or another thread at work, ends the process
    in the usual way.
    """
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int) or sum(not thread.daemon for thread in threading.enumerate()) > 1:
            raise
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            raise end from None
        os._exit(code)


def main() -> None:
    """Run the command line. Errors are one sentence on standard error; the exit code is the exception's."""
    _end_orderly_when_signalled()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows the code point
    try:
        _require_readable(sys.argv[1:])
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if _DEBUG["on"]:
            raise
        from classfeed_dagster.cli.app import failure_of, usage_of

        failure = usage_of(error) or failure_of(error)
        output.console(stderr=True).print(f"[bold red]classfeed:[/] {escape(failure.sentence)}")
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    script()
