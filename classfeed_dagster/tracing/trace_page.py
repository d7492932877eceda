"""A page that answers where a transaction or a holding comes from: source rows, landed file, document, line, verdict.

The same answer as ``classfeed trace`` prints, in the shape of the reconciliation's report: to be handed on, kept, read
on a phone. It holds no personal data: portfolio numbers, keys and places only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from classfeed_dagster.html_page import escape, facts, page, table
from classfeed_dagster.tracing.trace import ACKNOWLEDGEMENT, HeldBackDates, HoldingTrace, Judged, Sighting, Trace


def transaction_page(found: Trace, feed: str) -> str:
    """The page of a transaction. ValueError if bigsite has no such row."""
    if found.source is None:
        raise ValueError(f"bigsite has no row {found.transaction_id}: there is nothing to show")
    source = found.source
    parts = [
        "<h2>Source row</h2>",
        facts(
            [
                ("row", f"bigsite.{source.table}, {source.table}_id = {source.key}"),
                ("portfolio", source.portfolio_number),
                ("counts for", source.business_date.isoformat()),
                ("recorded", f"{source.recorded_at:%Y-%m-%d %H:%M:%S.%f} UTC"),
                ("travels on", found.travels_on.isoformat() if found.travels_on else "no date yet"),
            ]
        ),
        *_way(found.sightings, found.held_back, found.judged),
    ]
    return page(f"Where {found.transaction_id} comes from", parts, f"feed {feed}")


def holding_page(found: HoldingTrace, feed: str) -> str:
    """The page of a holding on its business date."""
    name, day = f"{found.exchange}:{found.security_code}", found.business_date.isoformat()
    stated = "no row" if found.updated_at is None else f"{found.stated} units, written {_utc(found.updated_at)}"
    price = "none" if found.price is None else f"{found.price[1]} on {found.price[0].isoformat()}"
    rows = [(row.business_date, row.transaction_id, f"{row.units:+}", _utc(row.recorded_at)) for row in found.rows]
    parts = [
        "<h2>Source rows</h2>",
        facts(
            [
                ("end of day", f"bigsite.holding_eod, security_id = {found.security_id}: {stated}"),
                ("ledger", f"{len(rows)} row(s) to the date add up to {found.ledger}"),
                ("last close", f"bigsite.security_price: {price}"),
            ]
        ),
        table("ledger rows behind the units", ["date", "row", "units", "recorded"], rows, numeric=(2,)) if rows else "",
        *_way(found.sightings, found.held_back, found.judged),
    ]
    return page(f"Where {name} of {found.portfolio_number} on {day} comes from", parts, f"feed {feed}")


def _way(sightings: Sequence[Sighting], held_back: HeldBackDates, judged: Sequence[Judged]) -> Iterator[str]:
    yield "<h2>Delivered</h2>"
    for one in sightings:
        manifest = one.delivery.manifest
        yield facts(
            [
                ("date", f"{manifest.business_date}, revision {manifest.revision}, {one.delivery.portfolio.extract}"),
                ("stands", _standing(one)),
                *(
                    (
                        "document",
                        f"{one.page_location}, line {place.line}, bytes {place.offset} to {end}, {place.element}",
                    )
                    for place in one.places
                    for end in (place.offset + place.length,)
                ),
                ("landed", one.landed_location if one.in_landed_file else f"NOT IN {one.landed_location}"),
                ("acknowledged", ACKNOWLEDGEMENT),
            ]
        )
    if not sightings:
        yield "<p>It is in no document yet.</p>"
    if held_back:
        yield "<h2>Held back</h2>"
    for caption, entries in (
        ("dates whose delivery held the portfolio back", held_back.at_delivery),
        ("dates on which a new attempt would hold the portfolio back", held_back.now),
    ):
        if entries:
            yield table(caption, ["date", "why"], [(day.isoformat(), reason) for day, reason in entries])
    yield "<h2>Reconciled</h2>"
    results = [(one.business_date.isoformat(), one.verdict, one.report) for one in judged]
    if results:
        yield table("what reconciliation says of it", ["date", "result", "report"], results)
    else:
        yield f"<p>{escape('No reconciliation of a date that holds it has run yet.')}</p>"


def _standing(one: Sighting) -> str:
    told = "superseded by a later revision" if one.delivery.superseded else "the latest revision"
    return f"{told}; in shadow, where the recipient does not look" if one.delivery.shadow else told


def _utc(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
