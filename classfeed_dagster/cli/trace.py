"""Command for the origin of a number: trace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import FeedName, require_due, require_feed, require_store
from classfeed_dagster.errors import ExitCode, UsageError
from classfeed_dagster.tags import DEFAULT_FEED

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings
    from classfeed_dagster.tracing.numbers import NumberRow
    from classfeed_dagster.tracing.trace import (
        HeldBackDates,
        HoldingTrace,
        ReconciliationResult,
        Sighting,
        SourceRow,
        Trace,
    )
    from classfeed_dagster.warehouse.database import Connection

_MOST_ROWS = 30
out = output.console()


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(trace)


def trace(
    what: Annotated[
        str,
        typer.Argument(help="Transaction id as in the document (T, S, I or C and a number), or a portfolio number."),
    ],
    security: Annotated[
        str | None, typer.Argument(help="With a portfolio number: EXCHANGE:CODE, as in the document of the date.")
    ] = None,
    date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="With a portfolio and security: the business date.")
    ] = None,
    feed: FeedName = DEFAULT_FEED,
    page: Annotated[Path | None, typer.Option(help="HTML page to write in addition.", dir_okay=False)] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Trace a number to bigsite's rows: `trace T1042`, or `trace SW123 ASX:BHP --date D` for a holding.

    A transaction: its source row, landed file, documents and lines. A holding: the end-of-day row, every ledger row
    behind its units, landed file, documents and lines. Both: revisions, held-back dates, reconciliation reports.
    Exit code 3 if bigsite has no such row.
    """
    from classfeed_dagster.runtime import Runtime

    exchange, code = _split_security(what, security, date)
    runtime = Runtime()
    declared = require_feed(feed)
    day = None if date is None else require_due(runtime.settings, feed, date.date())
    require_store(runtime)
    from classfeed_dagster.retention import retention_of
    from classfeed_dagster.tracing.numbers import numbers_of
    from classfeed_dagster.tracing.trace import trace as trace_row
    from classfeed_dagster.tracing.trace import trace_holding
    from classfeed_dagster.tracing.trace_page import holding_page, transaction_page

    audience = declared.audience(runtime.settings.first_business_date)
    retention = retention_of(runtime.settings.env)
    try:
        with output.console(stderr=True).status("searching …"):
            runtime.require_bigsite()
            if day is not None:
                holding = trace_holding(
                    runtime.engine,
                    runtime.store,
                    feed,
                    what,
                    (exchange, code),
                    day,
                    document_format=declared.format,
                    retention=retention,
                )
            else:
                text = _with_letter(what, declared.format.ledgers)
                row = trace_row(
                    runtime.engine, runtime.store, feed, audience, text, document_format=declared.format,
                    retention=retention,
                )  # fmt: skip
            with _local_warehouse(runtime.settings) as warehouse:
                numbers = numbers_of(
                    runtime.engine, runtime.store, feed, row if day is None else holding, declared.format, warehouse
                )
    finally:
        runtime.close()
    if day is not None:
        if as_json:
            output.print_json({**_plain(holding), "numbers": [asdict(number) for number in numbers]})
        else:
            _print_holding(holding)
            _print_numbers(numbers)
        _write_page(page, lambda: holding_page(holding, feed, numbers), quiet=as_json)
        return
    answers = _answers(runtime, declared, row)
    if as_json:
        output.print_json({**_plain(row), "acknowledgements": answers, "numbers": [asdict(one) for one in numbers]})
    elif row.source is not None:
        _print_transaction(row, row.source)
        _print_answers(answers)
        _print_numbers(numbers)
    if row.source is None:
        if not as_json:
            out.print(f"[red]bigsite has no such row:[/] {escape(what)}", highlight=False)
        raise typer.Exit(ExitCode.STOPPED)
    _write_page(page, lambda: transaction_page(row, feed, numbers), quiet=as_json)


def _split_security(what: str, security: str | None, date: dt.datetime | None) -> tuple[str, str]:
    # Mistakes are refused here, before the feeds are imported.
    from classfeed_dagster.tracing.transaction_id import split_transaction_id

    if (security is None) != (date is None):
        raise UsageError("A holding needs a security and a date: classfeed trace PORTFOLIO EXCHANGE:CODE --date D")
    if security is None and not what.isdecimal():
        split_transaction_id(what)
    exchange, colon, code = (security or ":").partition(":")
    if not colon or (security and not (exchange and code)):
        raise UsageError(f"Invalid security {security!r}: expected EXCHANGE:CODE, e.g. ASX:BHP")
    return exchange, code


@contextmanager
def _local_warehouse(settings: Settings) -> Iterator[Connection | None]:
    # On a laptop the warehouse's file is at hand. Reaching Snowflake takes longer than the whole trace: left out.
    from classfeed_dagster.warehouse.connection import read_warehouse

    if settings.snowflake_account is not None:
        yield None
        return
    with read_warehouse(settings) as warehouse:
        yield warehouse


def _print_numbers(numbers: Sequence[NumberRow]) -> None:
    from classfeed_dagster.tracing.numbers import HEADER

    if numbers:
        title, cells = "numbers of the latest delivery", [number.cells for number in numbers]
        output.print_table(out, title, HEADER, cells, keys=HEADER, right=HEADER[1:])


def _print_answers(answers: Sequence[Mapping[str, str | None]]) -> None:
    for answer in answers:
        about = f", record {answer['record']}" if answer["record"] else ""
        out.print(f"  recipient  {answer['message_id']}: {answer['state']}{about}", highlight=False)


def _answers(runtime: Runtime, feed: Feed, row: Trace) -> list[dict[str, str | None]]:
    from classfeed_dagster.feed_run.acknowledged import read_answers

    number = row.source.portfolio_number if row.source else None
    answers: list[dict[str, str | None]] = []
    for sighting in row.sightings:
        manifest, page = sighting.delivery.manifest, sighting.delivery.page
        for file in read_answers(runtime, feed, manifest.business_date):
            for answer in file.answers if file.page.message_id == page.message_id else ():
                about = [
                    f"{record.state} {record.code or ''}".strip()
                    for record in answer.records
                    if record.portfolio_number == number and record.transaction_id in (None, row.transaction_id)
                ]
                answers.append(
                    {"message_id": answer.message_id, "state": answer.state, "record": "; ".join(about) or None}
                )
    return answers


def _with_letter(text: str, ledgers: Collection[str]) -> str:
    """Return the transaction id: a CSV file of one ledger has the number alone."""
    return f"{min(ledgers)}{text}" if text.isdecimal() and len(ledgers) == 1 else text


def _plain(trace: Trace | HoldingTrace) -> dict[str, Any]:
    """Return the trace as plain values, without the manifests that its sightings refer to."""
    fields = {
        name: getattr(trace, name)
        for name in trace.__dataclass_fields__
        if name not in ("sightings", "reconciliations", "held_back", "source", "rows")
    }
    source = getattr(trace, "source", None)
    return {
        **fields,
        "source": None if source is None else asdict(source),
        "rows": [asdict(row) for row in getattr(trace, "rows", ())],
        "sightings": [_sighting(sighting) for sighting in trace.sightings],
        "held_back_at_delivery": _dates(trace.held_back.at_delivery),
        "would_be_held_back_now": _dates(trace.held_back.now),
        "reconciliations": [
            {"business_date": result.business_date, "report": result.report, "breaks": list(result.breaks)}
            for result in trace.reconciliations
        ],
    }


def _dates(entries: Sequence[tuple[dt.date, str]]) -> list[dict[str, object]]:
    return [{"business_date": day, "reason": reason} for day, reason in entries]


def _sighting(sighting: Sighting) -> dict[str, Any]:
    delivery = sighting.delivery
    return {
        "business_date": delivery.manifest.business_date,
        "revision": delivery.manifest.revision,
        "extract": delivery.portfolio.extract,
        "superseded": delivery.superseded,
        "shadow": delivery.shadow,
        "landed": sighting.landed_location,
        "in_landed_file": sighting.in_landed_file,
        "landed_expired_on": sighting.landed_expired_on,
        "page": sighting.page_location,
        "places": [
            {"element": place.element, "line": place.line, "offset": place.offset, "length": place.length}
            for place in sighting.places
        ],
    }


def _write_page(path: Path | None, render: Callable[[], str], *, quiet: bool) -> None:
    if path is None:
        return
    path.write_text(render(), encoding="utf-8")
    if not quiet:
        out.print(f"  page       {path}", highlight=False, soft_wrap=True)


def _print_transaction(trace: Trace, source: SourceRow) -> None:
    out.print(f"[bold]{escape(trace.transaction_id)}[/] of portfolio {source.portfolio_number}", highlight=False)
    out.print(f"  source     bigsite.{source.table}, {source.table}_id = {source.key}", highlight=False)
    out.print(
        f"             business date {source.business_date}, recorded {source.recorded_at:%Y-%m-%d %H:%M:%S.%f} UTC, "
        f"exported on {trace.travels_on}",
        highlight=False,
    )
    _print_path(trace.sightings, trace.held_back, trace.reconciliations)


def _print_holding(trace: HoldingTrace) -> None:
    name = f"{trace.exchange}:{trace.security_code}"
    out.print(
        f"[bold]{escape(name)}[/] of portfolio {escape(trace.portfolio_number)} on {trace.business_date}",
        highlight=False,
    )
    if trace.updated_at is None:
        out.print(f"  source     [red]no row in bigsite.holding_eod[/] for security_id = {trace.security_id}")
    else:
        out.print(
            f"  source     bigsite.holding_eod, security_id = {trace.security_id}: {trace.stated} units, "
            f"written {trace.updated_at:%Y-%m-%d %H:%M:%S} UTC",
            highlight=False,
        )
    out.print(f"             {len(trace.rows)} ledger row(s) to the date add up to {trace.ledger}", highlight=False)
    for row in trace.rows[-_MOST_ROWS:]:
        late = f"   recorded {row.recorded_at:%Y-%m-%d %H:%M} UTC"
        out.print(f"               {row.business_date}  {row.transaction_id}  {row.units:+}{late}", highlight=False)
    if trace.price is not None:
        out.print(f"             last close {trace.price[1]} on {trace.price[0]}", highlight=False)
    _print_path(trace.sightings, trace.held_back, trace.reconciliations)


def _print_path(
    sightings: Sequence[Sighting], held_back: HeldBackDates, reconciliations: Sequence[ReconciliationResult]
) -> None:
    for sighting in sightings:
        manifest = sighting.delivery.manifest
        status = "   (superseded by a later revision)" if sighting.delivery.superseded else ""
        status += "   (shadow: the recipient does not read it)" if sighting.delivery.shadow else ""
        absent = "" if sighting.in_landed_file else "   [red]NOT IN THIS FILE[/]"
        if sighting.landed_expired_on is not None:
            absent = f"   (expired by rule on {sighting.landed_expired_on})"
        out.print(
            f"  landed     {sighting.landed_location}{absent}",
            highlight=False,
            soft_wrap=True,
        )
        out.print(
            f"  delivered  {manifest.business_date} revision {manifest.revision}, "
            f"{sighting.delivery.portfolio.extract}{status}",
            highlight=False,
        )
        for place in sighting.places:
            out.print(
                f"             {sighting.page_location}: line {place.line}, bytes {place.offset} to "
                f"{place.offset + place.length}, {place.element}",
                highlight=False,
                soft_wrap=True,
            )
    if not sightings:
        out.print("  delivered  not in any document yet", highlight=False)
    for when, entries in (("at delivery", held_back.at_delivery), ("now", held_back.now)):
        for day, reason in entries:
            out.print(f"  held back  {day}, {when}: {escape(reason)}", highlight=False, soft_wrap=True)
    for result in reconciliations:
        out.print(
            f"  reconciled {escape(result.verdict)}: {result.report}",
            highlight=False,
            soft_wrap=True,
        )
    if sightings:
        from classfeed_dagster.tracing.trace import ACKNOWLEDGEMENT

        out.print(f"  acknowledged  {ACKNOWLEDGEMENT}", highlight=False)
