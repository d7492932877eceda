"""Independent decision on references: the rows that an expected record names, and that no document contains.

A row was sent by the date of its window, or by a later extract in full, unless the history shared then began later. The
manifests state the extracts, and bigsite's consents the histories.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING

from classfeed_dagster.reconciliation.delivered import NothingDeliveredError, business_dates, read_revisions
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
        histories = dict(bigsite.fetch(expected.histories(cutoff(day), {number for number, _ in rows})))
        for number, name in rows:
            begins, (dated, _) = histories.get(number), named[number, name]
            if begins is not None and dated < str(begins):
                unsent.append((number, name))
    return tuple(sorted(unsent))


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
