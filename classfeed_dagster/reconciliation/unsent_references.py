"""Independent decision on references: the rows that an expected record names, and that no document contains.

A row was sent by the date of its window, or by a later extract in full, unless the history shared then began later. The
manifests state the extracts, and the consents landed then the histories: bigsite may have rewritten a consent since. Of
landings that expired or have a fault, bigsite's consents do.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from classfeed_dagster.reconciliation.delivered import NothingDeliveredError, business_dates, read_revisions
from classfeed_dagster.reconciliation.landing import Landing
from classfeed_dagster.reconciliation.records import MOVEMENTS
from classfeed_dagster.trading_days import cutoff

if TYPE_CHECKING:
    from classfeed_dagster.reconciliation.delivered import Delivered
    from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
    from classfeed_dagster.reconciliation.source_queries import Bigsite
    from classfeed_dagster.store import ObjectStore

_Row = tuple[str, str]  # portfolio number, TransactionId


def unsent_references(
    store: ObjectStore, delivered: Delivered, expected: ExpectedRecords, bigsite: Bigsite
) -> tuple[_Row, ...]:
    """Return the rows, each with its portfolio, that records of the date name and that no earlier date sent."""
    ledgers = "".join(kind.ledgers for kind in delivered.layout.kinds if kind.name == MOVEMENTS.name)
    named: dict[_Row, tuple[str, dt.datetime]] = {
        (str(number), str(name)): (str(dated), recorded_at.astimezone(dt.UTC))
        for number, name, dated, recorded_at in (bigsite.fetch(expected.named_rows(ledgers)) if ledgers else ())
    }
    unsent: list[_Row] = []
    for day, rows in _sent_on(store, delivered, {row: recorded_at for row, (_, recorded_at) in named.items()}).items():
        histories = _histories(store, delivered.feed, day, expected, bigsite, {number for number, _ in rows})
        for number, name in rows:
            begins, (dated, _) = histories.get(number), named[number, name]
            if begins is not None and dated < str(begins):
                unsent.append((number, name))
    return tuple(sorted(unsent))


def _histories(
    store: ObjectStore, feed: str, day: dt.date, expected: ExpectedRecords, bigsite: Bigsite, numbers: Collection[str]
) -> dict[str, str | None]:
    # Start of the history that the portfolios shared with the date's delivery, by number.
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    histories = dict(bigsite.fetch(expected.histories(cutoff(day), numbers)))
    landed = replace(expected, business_date=day, previous=None, landed=True)
    with ExitStack() as stack:
        db = stack.enter_context(duckdb.connect())
        db.execute("SET TimeZone='UTC'")
        landing = Landing(db, stack, store)
        for each in read_revisions(store, feed, day):
            of_revision = [number for number in numbers if number in each.portfolios]
            place = each.descriptor_key, each.descriptor_sha256, each.snapshot_at
            if of_revision and landing.open_consents(*place, landed):
                histories |= dict(db.execute(landed.histories(cutoff(day), of_revision)).fetchall())
    return histories


def _sent_on(store: ObjectStore, delivered: Delivered, recorded: dict[_Row, dt.datetime]) -> dict[dt.date, list[_Row]]:
    # The date of each row's window, or of the last extract in full since. Rows without such a delivery are left out.
    rows: dict[dt.date, list[_Row]] = defaultdict(list)
    days = (day for day in business_dates(store, delivered.feed) if day < delivered.business_date)
    for day in sorted(days, reverse=True):
        if not recorded:
            break
        try:
            revisions = read_revisions(store, delivered.feed, day)
        except NothingDeliveredError:
            continue
        extracts = {number: entry.get("extract") for each in revisions for number, entry in each.portfolios.items()}
        start = revisions[-1].recorded_after
        for row, recorded_at in list(recorded.items()):
            extract = extracts.get(row[0])
            if extract == "FULL" or (extract == "DELTA" and recorded_at >= start):
                rows[day].append(row)
                del recorded[row]
    return rows
