"""Command for the origin of a number: trace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import (
    FeedName,
    output_file,
    require_due,
    require_feed,
    require_past,
    require_store,
)
from classfeed_dagster.errors import ExitCode, UsageError
from classfeed_dagster.store import address
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from decimal import Decimal

    import sqlalchemy as sa

    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings
    from classfeed_dagster.tracing.numbers import NumberRow
    from classfeed_dagster.tracing.source_rows import SourceRow
    from classfeed_dagster.tracing.trace import (
        AmountRow,
        CashTrace,
        HeldBackDates,
        HoldingTrace,
        ReconciliationResult,
        Sighting,
        Trace,
        UnitsRow,
    )
    from classfeed_dagster.warehouse.database import Connection

_MOST_ROWS = 30
_CASH = "CASH"  # in place of an exchange
_NOTHING: dict[str, list[object]] = {
    name: []
    for name in (
        "rows", "sightings", "held_back_at_delivery", "would_be_held_back_now", "reconciliations", "acknowledgements",
        "numbers",
    )
}  # fmt: skip
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
        str | None,
        typer.Argument(
            help="With a portfolio number: EXCHANGE:CODE, as in the document of the date, or CASH:CURRENCY."
        ),
    ] = None,
    date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="With a portfolio number: the business date.")
    ] = None,
    feed: FeedName = DEFAULT_FEED,
    page: Annotated[
        Path | None, typer.Option(help="HTML page to write in addition.", dir_okay=False, callback=output_file)
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Trace a number to bigsite's rows: `trace T1042`, `trace SW123 ASX:BHP --date D`, `trace SW123 CASH:AUD --date D`.

    A holding or cash balance is traced to the end-of-day row and its ledger rows. If several accounts have the
    currency, give the cash_account_id. Exit code 3 if bigsite has no such row.
    """
    from classfeed_dagster.runtime import Runtime

    security_of = _split_security(what, security, date, feed)
    runtime = Runtime()
    day = None if date is None else require_past(runtime.settings, date.date())
    if day is None:
        what = _require_transaction_id(what, feed)
    elif feed != DEFAULT_FEED:
        require_feed(feed)
    require_store(runtime)
    try:
        with output.console(stderr=True).status("searching …"):
            runtime.require_bigsite()
            if not _is_in_bigsite(runtime.engine, what, security_of, day):
                _refuse_unknown(what, as_json=as_json)
            row, numbers = _find(runtime, feed, what, security_of, day)
    finally:
        runtime.close()
    from classfeed_dagster.tracing.numbers import links_of
    from classfeed_dagster.tracing.trace import Trace

    ui = _ui(runtime.settings)
    answers = _answers(runtime, require_feed(feed), row) if isinstance(row, Trace) else []
    if as_json:
        given = {"acknowledgements": answers} if day is None else {}
        output.print_json({**_plain(row), **given, "numbers": [asdict(number) for number in numbers]})
    else:
        _print_trace(row)
        _print_answers(answers)
        _print_numbers(numbers, links_of(row, feed, ui))
    if page is not None:
        _write_page(page, _page(row, feed, numbers, ui), quiet=as_json)


def _split_security(what: str, security: str | None, date: dt.datetime | None, feed: str) -> tuple[str, str]:
    # Mistakes are refused here, before the feeds are imported.
    from classfeed_dagster.tracing.transaction_id import split_transaction_id

    if (security is None) != (date is None):
        raise UsageError(
            "A holding needs a security and a date: classfeed trace PORTFOLIO EXCHANGE:CODE --date D; "
            "a cash balance a currency: classfeed trace PORTFOLIO CASH:AUD --date D"
        )
    if security is None and (feed == DEFAULT_FEED or not what.isdecimal()):
        split_transaction_id(what)
    exchange, colon, code = (security or ":").partition(":")
    if not colon or (security and not (exchange and code)):
        raise UsageError(f"Invalid security {security!r}: expected EXCHANGE:CODE, e.g. ASX:BHP, or CASH:AUD")
    return exchange, code


def _require_transaction_id(text: str, feed: str) -> str:
    # The default feed's documents have all ledgers, and it is declared: it need not be imported.
    from classfeed_dagster.tracing.transaction_id import split_transaction_id

    if feed == DEFAULT_FEED:
        split_transaction_id(text)
        return text
    ledgers = require_feed(feed).format.ledgers
    transaction_id = _with_letter(text, ledgers)
    letter, _ = split_transaction_id(transaction_id)
    if letter not in ledgers:
        raise UsageError(f"{feed} never carries {transaction_id}: its ids begin with {' or '.join(sorted(ledgers))}")
    return transaction_id


def _is_in_bigsite(engine: sa.Engine, what: str, security: tuple[str, str], day: dt.date | None) -> bool:
    # Asked before the libraries of the data path are imported. An unknown holding or account raises a UsageError.
    from classfeed_dagster.tracing.source_rows import cash_account, holding_keys, ledger_row

    if day is None:
        return ledger_row(engine, what) is not None
    with engine.connect() as connection:
        if security[0] == _CASH:
            cash_account(connection, what, security[1])
        else:
            holding_keys(connection, what, security, day)
    return True


def _refuse_unknown(transaction_id: str, *, as_json: bool) -> NoReturn:
    if as_json:
        output.print_json({"transaction_id": transaction_id, "travels_on": None, "source": None, **_NOTHING})
    else:
        says = f"[red]bigsite has no such row:[/] {escape(transaction_id)}; give the id as in the document"
        out.print(says)
    raise typer.Exit(ExitCode.STOPPED)


def _find(
    runtime: Runtime, feed: str, what: str, security: tuple[str, str], day: dt.date | None
) -> tuple[Trace | HoldingTrace | CashTrace, Sequence[NumberRow]]:
    from classfeed_dagster.retention import retention_of
    from classfeed_dagster.tracing.numbers import numbers_of
    from classfeed_dagster.tracing.trace import trace as trace_row
    from classfeed_dagster.tracing.trace import trace_cash, trace_holding

    settings, declared = runtime.settings, require_feed(feed)
    engine, store, form = runtime.engine, runtime.store, declared.format
    retention = retention_of(settings.env)
    row: Trace | HoldingTrace | CashTrace
    if day is None:
        audience = declared.audience(settings.first_business_date)
        row = trace_row(engine, store, feed, audience, what, document_format=form, retention=retention)
    elif require_due(settings, feed, day) and security[0] == _CASH:
        row = trace_cash(engine, store, feed, what, security[1], day, document_format=form, retention=retention)
    else:
        row = trace_holding(engine, store, feed, what, security, day, document_format=form, retention=retention)
    with _local_warehouse(settings) as warehouse:
        return row, numbers_of(engine, store, feed, row, form, warehouse)


@contextmanager
def _local_warehouse(settings: Settings) -> Iterator[Connection | None]:
    # On a laptop the warehouse is a local file. Reaching Snowflake takes longer than the whole trace: left out.
    from classfeed_dagster.warehouse.connection import read_warehouse

    if settings.snowflake_account is not None:
        yield None
        return
    with read_warehouse(settings) as warehouse:
        yield warehouse


def _ui(settings: Settings) -> str | None:
    # The Dagster UI's base URL: as set, or of the one that runs on this home folder.
    from classfeed_dagster.local.dagster_instance import instance_folder
    from classfeed_dagster.local.dagster_services import running_address

    return settings.ui_url or running_address(instance_folder(settings.home))


def _page(row: Trace | HoldingTrace | CashTrace, feed: str, numbers: Sequence[NumberRow], ui: str | None) -> str:
    from classfeed_dagster.tracing import trace_page
    from classfeed_dagster.tracing.trace import CashTrace, HoldingTrace

    if isinstance(row, CashTrace):
        return trace_page.cash_page(row, feed, numbers, ui)
    if isinstance(row, HoldingTrace):
        return trace_page.holding_page(row, feed, numbers, ui)
    return trace_page.transaction_page(row, feed, numbers, ui)


def _print_numbers(numbers: Sequence[NumberRow], links: Mapping[str, str]) -> None:
    from classfeed_dagster.tracing.numbers import HEADER

    if numbers:
        title, cells = "numbers of the latest delivery", [number.cells for number in numbers]
        output.print_table(out, title, HEADER, cells, keys=HEADER, right=HEADER[1:], links=links)


def _print_answers(answers: Sequence[Mapping[str, str | None]]) -> None:
    for answer in answers:
        about = f", record {answer['record']}" if answer["record"] else ""
        out.print(f"  recipient  {answer['message_id']}: {answer['state']}{about}")


def _answers(runtime: Runtime, feed: Feed, row: Trace) -> list[dict[str, str | None]]:
    if feed.acknowledgements is None:
        return []
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


def _plain(trace: Trace | HoldingTrace | CashTrace) -> dict[str, Any]:
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


def _write_page(path: Path, page: str, *, quiet: bool) -> None:
    path.write_text(page, encoding="utf-8")
    if not quiet:
        out.print(f"  page       {escape(str(path))}")


def _print_trace(trace: Trace | HoldingTrace | CashTrace) -> None:
    from classfeed_dagster.tracing.trace import CashTrace, HoldingTrace

    if isinstance(trace, CashTrace):
        _print_cash(trace)
    elif isinstance(trace, HoldingTrace):
        _print_holding(trace)
    elif trace.source is not None:
        _print_transaction(trace, trace.source)


def _print_transaction(trace: Trace, source: SourceRow) -> None:
    out.print(f"[bold]{escape(trace.transaction_id)}[/] of portfolio {source.portfolio_number}")
    out.print(f"  source     bigsite.{source.table}, {source.table}_id = {source.key}")
    out.print(
        f"             business date {source.business_date}, recorded {source.recorded_at:%Y-%m-%d %H:%M:%S.%f} UTC, "
        f"exported on {trace.travels_on}"
    )
    _print_path(trace.sightings, trace.held_back, trace.reconciliations)


def _print_holding(trace: HoldingTrace) -> None:
    name = f"{trace.exchange}:{trace.security_code}"
    out.print(f"[bold]{escape(name)}[/] of portfolio {escape(trace.portfolio_number)} on {trace.business_date}")
    if trace.updated_at is None:
        out.print(f"  source     [red]no row in bigsite.holding_eod[/] for security_id = {trace.security_id}")
    else:
        out.print(
            f"  source     bigsite.holding_eod, security_id = {trace.security_id}: {trace.stated} units, "
            f"written {trace.updated_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    _print_rows([(row, row.units) for row in trace.rows], trace.ledger)
    if trace.price is not None:
        out.print(f"             last close {trace.price[1]} on {trace.price[0]}")
    _print_path(trace.sightings, trace.held_back, trace.reconciliations)


def _print_cash(trace: CashTrace) -> None:
    out.print(f"[bold]{trace.currency} cash[/] of portfolio {escape(trace.portfolio_number)} on {trace.business_date}")
    row = f"cash_account_id = {trace.cash_account_id}"
    if trace.updated_at is None:
        out.print(f"  source     [red]no row in bigsite.cash_balance_eod[/] for {row}")
    else:
        written = f"{trace.stated}, written {trace.updated_at:%Y-%m-%d %H:%M:%S} UTC"
        out.print(f"  source     bigsite.cash_balance_eod, {row}: {written}")
    _print_rows([(row, row.amount) for row in trace.rows], trace.ledger)
    _print_path(trace.sightings, trace.held_back, trace.reconciliations)


def _print_rows(rows: Sequence[tuple[UnitsRow | AmountRow, Decimal]], ledger: Decimal) -> None:
    out.print(f"             sum of {counted(len(rows), 'ledger row')} to the date: {ledger}")
    for row, number in rows[-_MOST_ROWS:]:
        late = f"   recorded {row.recorded_at:%Y-%m-%d %H:%M} UTC"
        out.print(f"               {row.business_date}  {row.transaction_id}  {number:+}{late}")


def _print_path(
    sightings: Sequence[Sighting], held_back: HeldBackDates, reconciliations: Sequence[ReconciliationResult]
) -> None:
    for sighting in sightings:
        manifest = sighting.delivery.manifest
        status = "   (superseded by a later revision)" if sighting.delivery.superseded else ""
        status += "   (shadow: the recipient does not read it)" if sighting.delivery.shadow else ""
        absent = "" if sighting.in_landed_file else "   [red]NOT IN THIS FILE[/]"
        landed = _linked(sighting.landed_location)
        if sighting.landed_expired_on is not None:
            landed = escape(sighting.landed_location)
            absent = f"   (expired by rule on {sighting.landed_expired_on})"
        out.print(f"  landed     {landed}{absent}")
        out.print(
            f"  delivered  {manifest.business_date} revision {manifest.revision}, "
            f"{sighting.delivery.portfolio.extract}{status}"
        )
        for place in sighting.places:
            out.print(
                f"             {_linked(sighting.page_location)}: line {place.line}, bytes {place.offset} to "
                f"{place.offset + place.length}, {place.element}"
            )
    if not sightings:
        out.print("  delivered  not in any document yet")
    for when, entries in (("at delivery", held_back.at_delivery), ("now", held_back.now)):
        for day, reason in entries:
            out.print(f"  held back  {day}, {when}: {escape(reason)}")
    for result in reconciliations:
        out.print(f"  reconciled {escape(result.verdict)}: {_linked(result.report)}")
    if sightings:
        from classfeed_dagster.tracing.trace import ACKNOWLEDGEMENT

        out.print(f"  acknowledged  {ACKNOWLEDGEMENT}")


def _linked(location: str) -> str:
    return output.link(location, address(location))
