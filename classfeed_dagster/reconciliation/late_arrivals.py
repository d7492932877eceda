"""Late arrivals: ledger rows recorded before the window and sent by no earlier delivery.

A row that its own window's snapshot did not see is sent in the first window whose snapshot does. A document should
contain it only if no earlier delivery did; a row that was sent before is a duplicate, and remains a break.
"""

# ruff: noqa: S608  # SQL of this package's own text

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from classfeed_dagster.reconciliation.delivered import (
    NothingDeliveredError,
    business_dates,
    carried_ids,
    read_revisions,
)
from classfeed_dagster.trading_days import cutoff

if TYPE_CHECKING:
    from classfeed_dagster.reconciliation.delivered import Delivered
    from classfeed_dagster.store import ObjectStore

_LEDGER_ID = re.compile(r"[TSIC][0-9]{1,19}\Z")


def late_arrivals(store: ObjectStore, delivered: Delivered) -> tuple[str, ...]:
    """Return the TransactionIds of a DELTA's rows that were recorded before its window and never sent before."""
    candidates = _recorded_earlier(delivered)
    if not candidates:
        return ()
    earliest = min(recorded for _, _, recorded in candidates)
    numbers = frozenset(number for number, _, _ in candidates)
    sent: set[tuple[str, str]] = set()
    for day in business_dates(store, delivered.feed):
        if day >= delivered.business_date or cutoff(day) <= earliest:
            continue
        try:
            revisions = read_revisions(store, delivered.feed, day)
        except NothingDeliveredError:
            continue
        for number, ids in carried_ids(store, revisions, numbers, delivered.layout).items():
            sent |= {(number, transaction_id) for transaction_id in ids}
    return tuple(sorted({name for number, name, _ in candidates if (number, name) not in sent}))


def _recorded_earlier(delivered: Delivered) -> list[tuple[str, str, dt.datetime]]:
    # Portfolio, TransactionId and instant of the movements recorded before the window, of DELTA extracts.
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    file = delivered.files["movement_transactions"]
    start = delivered.revisions[-1].recorded_after
    with duckdb.connect() as db:
        rows = db.execute(
            f"SELECT portfolio_number, transaction_id, TRY_CAST(recorded_at AS TIMESTAMPTZ) AS at FROM "
            f"read_parquet('{file}') WHERE TRY_CAST(recorded_at AS TIMESTAMPTZ) < $start",
            {"start": start},
        ).fetchall()
    return [
        (str(number), str(name), at.astimezone(dt.UTC))
        for number, name, at in rows
        if _LEDGER_ID.match(str(name))
        and number in delivered.latest
        and delivered.latest[number].portfolios[number].get("extract") == "DELTA"
    ]
