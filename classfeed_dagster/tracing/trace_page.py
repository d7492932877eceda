"""HTML pages of traces: source rows, landed file, document, line and reconciliations, as ``classfeed trace`` prints.

They contain no personal data: portfolio numbers, keys and places only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from classfeed_dagster.html_page import Anchor, facts, page, table
from classfeed_dagster.store import address
from classfeed_dagster.tracing.numbers import HEADER, NumberRow, links_of
from classfeed_dagster.tracing.trace import (
    ACKNOWLEDGEMENT,
    CashTrace,
    HeldBackDates,
    HoldingTrace,
    ReconciliationResult,
    Sighting,
    Trace,
)
from classfeed_dagster.wording import counted


def transaction_page(trace: Trace, feed: str, numbers: Sequence[NumberRow] = (), ui: str | None = None) -> str:
    """Return the page of a transaction with its ``numbers``. ValueError if bigsite has no such row.

    ``ui``: base URL of the Dagster UI, for links to assets.
    """
    if trace.source is None:
        raise ValueError(f"bigsite has no row {trace.transaction_id}, so there is no page")
    source = trace.source
    parts = [
        "<h2>Source row</h2>",
        facts(
            [
                ("row", f"bigsite.{source.table}, {source.table}_id = {source.key}"),
                ("portfolio", source.portfolio_number),
                ("business date", source.business_date.isoformat()),
                ("recorded", f"{source.recorded_at:%Y-%m-%d %H:%M:%S.%f} UTC"),
                ("exported on", trace.travels_on.isoformat() if trace.travels_on else "no date yet"),
            ]
        ),
        *_shown(trace, feed, numbers, ui),
    ]
    return page(f"Origin of {trace.transaction_id}", parts, f"feed {feed}")


def _shown(
    trace: Trace | HoldingTrace | CashTrace, feed: str, numbers: Sequence[NumberRow], ui: str | None
) -> Iterator[str]:
    links = links_of(trace, feed, ui)
    rows = [[Anchor(cell, links.get(name)) for name, cell in zip(HEADER, row.cells, strict=True)] for row in numbers]
    if rows:
        yield f"<h2>Numbers</h2>{table('numbers of the latest delivery', HEADER, rows, (1, 2, 3, 4))}"
    asset = None if ui is None else f"{ui.rstrip('/')}/assets/{feed}/delivery"
    yield from _path(trace.sightings, trace.held_back, trace.reconciliations, asset)


def holding_page(trace: HoldingTrace, feed: str, numbers: Sequence[NumberRow] = (), ui: str | None = None) -> str:
    """Return the page of a holding on its business date, with its ``numbers``."""
    name, day = f"{trace.exchange}:{trace.security_code}", trace.business_date.isoformat()
    stated = "no row" if trace.updated_at is None else f"{trace.stated} units, written {_utc(trace.updated_at)}"
    price = "none" if trace.price is None else f"{trace.price[1]} on {trace.price[0].isoformat()}"
    rows = [(row.business_date, row.transaction_id, f"{row.units:+}", _utc(row.recorded_at)) for row in trace.rows]
    parts = [
        "<h2>Source rows</h2>",
        facts(
            [
                ("end of day", f"bigsite.holding_eod, security_id = {trace.security_id}: {stated}"),
                ("ledger", f"sum of {counted(len(rows), 'row')} to the date: {trace.ledger}"),
                ("last close", f"bigsite.security_price: {price}"),
            ]
        ),
        table("ledger rows behind the units", ["date", "row", "units", "recorded"], rows, numeric=(2,)) if rows else "",
        *_shown(trace, feed, numbers, ui),
    ]
    return page(f"Origin of {name} of {trace.portfolio_number} on {day}", parts, f"feed {feed}")


def cash_page(trace: CashTrace, feed: str, numbers: Sequence[NumberRow] = (), ui: str | None = None) -> str:
    """Return the page of a cash balance on its business date, with its ``numbers``."""
    name, day = f"{trace.currency} cash", trace.business_date.isoformat()
    stated = "no row" if trace.updated_at is None else f"{trace.stated}, written {_utc(trace.updated_at)}"
    rows = [(row.business_date, row.transaction_id, f"{row.amount:+}", _utc(row.recorded_at)) for row in trace.rows]
    source = f"bigsite.cash_balance_eod, cash_account_id = {trace.cash_account_id}: {stated}"
    parts = [
        "<h2>Source rows</h2>",
        facts([("end of day", source), ("ledger", f"sum of {counted(len(rows), 'row')} to the date: {trace.ledger}")]),
        table("cash transactions behind the balance", ["date", "row", "amount", "recorded"], rows, numeric=(2,))
        if rows
        else "",
        *_shown(trace, feed, numbers, ui),
    ]
    return page(f"Origin of {name} of {trace.portfolio_number} on {day}", parts, f"feed {feed}")


def _path(
    sightings: Sequence[Sighting],
    held_back: HeldBackDates,
    reconciliations: Sequence[ReconciliationResult],
    asset: str | None,
) -> Iterator[str]:
    yield "<h2>Delivered</h2>"
    for sighting in sightings:
        manifest, extract = sighting.delivery.manifest, sighting.delivery.portfolio.extract
        landed, gone = sighting.landed_location, sighting.landed_expired_on is not None
        if sighting.landed_expired_on is not None:
            landed = f"expired by rule on {sighting.landed_expired_on}: {landed}"
        elif not sighting.in_landed_file:
            landed = f"NOT IN {landed}"
        yield facts(
            [
                ("date", f"{manifest.business_date}, revision {manifest.revision}, {extract}"),
                ("asset", Anchor(f"{manifest.feed}/delivery", asset and f"{asset}?partition={manifest.business_date}")),
                ("status", _status(sighting)),
                *(
                    (
                        "document",
                        Anchor(
                            f"{sighting.page_location}, line {place.line}, bytes {place.offset} to {end}, "
                            f"{place.element}",
                            address(sighting.page_location),
                        ),
                    )
                    for place in sighting.places
                    for end in (place.offset + place.length,)
                ),
                ("landed", Anchor(landed, None if gone else address(sighting.landed_location))),
                *([] if gone else [("snapshot", _link(sighting.snapshot_location))]),
                ("acknowledged", ACKNOWLEDGEMENT),
            ]
        )
    if not sightings:
        yield "<p>Not in any document yet.</p>"
    if held_back:
        yield "<h2>Held back</h2>"
    for caption, entries in (
        ("dates whose delivery held the portfolio back", held_back.at_delivery),
        ("dates on which a new attempt would hold the portfolio back", held_back.now),
    ):
        if entries:
            yield table(caption, ["date", "reason"], [(day.isoformat(), reason) for day, reason in entries])
    yield "<h2>Reconciled</h2>"
    results = [
        (result.business_date.isoformat(), result.verdict, Anchor(_short(result.report), address(result.report)))
        for result in reconciliations
    ]
    if results:
        yield table("reconciliations of its dates", ["date", "result", "report"], results)
    else:
        yield "<p>No reconciliation of a date that contains it has run yet.</p>"


def _link(location: str) -> Anchor:
    return Anchor(location, address(location))


def _short(location: str) -> str:
    # The attempt and the file: a report's whole path is unreadable on a phone, and its link has it.
    return "/".join(location.split("/")[-2:])


def _status(sighting: Sighting) -> str:
    revision = "superseded by a later revision" if sighting.delivery.superseded else "the latest revision"
    return f"{revision}; in shadow, which the recipient does not read" if sighting.delivery.shadow else revision


def _utc(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
