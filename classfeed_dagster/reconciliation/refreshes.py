"""Independent reader of refreshes: the portfolios that a date sends in full or under a later consent."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from classfeed_dagster.reconciliation.delivered import Delivered, NothingDeliveredError, read_revisions
from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError
from classfeed_dagster.reconciliation.record_scope import EarlyPortfolio
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import cutoff

_FULL, _EARLY = "refreshed", "early"


def in_full(store: ObjectStore, delivered: Delivered) -> tuple[str, ...]:
    """Return the portfolios with a refresh on the date that its delivery states as FULL."""
    records = [record for kind in (_FULL, _EARLY) for record in _records(store, delivered, kind)]
    on_date = {str(record["portfolio_number"]) for record in records if _date(record) == delivered.business_date}
    return tuple(
        number
        for number in sorted(on_date & delivered.latest.keys())
        if delivered.latest[number].portfolios[number].get("extract") == "FULL"
    )


def early(store: ObjectStore, delivered: Delivered, previous: dt.date | None) -> tuple[EarlyPortfolio, ...]:
    """Return the portfolios whose consents count from an earlier cut-off: on the refreshed date, and until their own.

    After the refreshed date only if the date before sent the portfolio or held it back.
    """
    records = [record for record in _records(store, delivered, _EARLY) if _date(record) <= delivered.business_date]
    known = _known(store, delivered.feed, previous) if records and previous is not None else frozenset[str]()
    sent_now = set(in_full(store, delivered)) if records else set[str]()
    counted: list[EarlyPortfolio] = []
    for record in records:
        number, day = str(record["portfolio_number"]), _date(record)
        until = dt.datetime.fromisoformat(record["consented_at"])
        carried = previous is not None and day <= previous and number in known and until > cutoff(previous)
        if carried or (day == delivered.business_date and number in sent_now):
            counted.append(EarlyPortfolio(number, cutoff(day), until))
    return tuple(counted)


def _known(store: ObjectStore, feed: str, day: dt.date) -> frozenset[str]:
    try:
        revisions = read_revisions(store, feed, day)
    except NothingDeliveredError:
        return frozenset()
    sent = {number: entry for one in revisions for number, entry in one.portfolios.items()}
    with_data = (number for number, entry in sent.items() if entry.get("change") != "REMOVED")
    return frozenset((*with_data, *(number for one in revisions for number in one.held_back)))


def _records(store: ObjectStore, delivered: Delivered, kind: str) -> Iterator[dict[str, Any]]:
    for key in store.list(f"reruns/{kind}/{delivered.feed}/"):
        day = key.split("/")[3]
        if kind == _FULL and day != delivered.business_date.isoformat():
            continue
        try:
            record: dict[str, Any] = json.loads(store.read(key))
            _date(record), dt.datetime.fromisoformat(record["consented_at"]), record["portfolio_number"]
        except (ValueError, KeyError, TypeError):
            raise UnreadableDeliveryError(
                f"{store.location(key)} is not the record of a refresh: restore the object's earlier version"
            ) from None
        yield record


def _date(record: dict[str, Any]) -> dt.date:
    return dt.date.fromisoformat(record["business_date"])
