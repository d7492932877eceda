"""Refreshes: portfolios that a business date delivers in full on request, each with a create-only record.

A record takes effect while its date is the feed's latest delivered one, and for good once the portfolio was delivered
in full. Otherwise it has lapsed: the next date was delivered first (docs/adr/0019).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster.delivery.delivery_history import latest_date, live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.state import DeliveredState, delivered_state
from classfeed_dagster.errors import DataError
from classfeed_dagster.schedules import EarlyConsent, RecipientSchedule, Refreshed
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, safe_name, to_json
from classfeed_dagster.trading_days import business_days_between, cutoff

_OLDEST_DATE = dt.timedelta(days=31)  # a refresh is granted for the latest delivered date, at most so long after it
_DELIVERED: set[str] = set()  # locations of refreshes that were delivered


class Refresh(StoredRecord):
    """A granted refresh of one portfolio on one business date."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    portfolio_number: str
    early: bool = Field(description="its consent was granted after the cut-off of the date")
    consented_at: AwareDatetime = Field(description="instant of the consent query that allowed it, by bigsite's clock")
    requested_at: AwareDatetime | None = Field(default=None, description="absent from records of older versions")
    request: str = Field(description="key of the request's record")
    correlation_id: str

    @property
    def granted_at(self) -> dt.datetime:
        """Return the instant of the request, UTC."""
        return self.requested_at or self.consented_at

    @property
    def key(self) -> str:
        """Return the record's key."""
        return (
            f"{_prefix(self.feed, self.early)}{self.business_date.isoformat()}/{safe_name(self.portfolio_number)}.json"
        )


class RefreshRecordsLostError(DataError):
    """The store lacks records of delivered refreshes: it was restored from an older backup."""

    def __init__(self, feed: str, day: dt.date, numbers: Sequence[str]) -> None:
        super().__init__(
            f"{feed} of {day.isoformat()}: {', '.join(numbers[:20])} sent in full on request, and the request's record "
            f"is missing below {_prefix(feed, early=False)}. The store is older than the deliveries: restore the newer "
            "version of reruns/, and run again. Without it the date would be delivered again without the customer's "
            "history."
        )


def require_refreshes(state: DeliveredState, refreshed: Refreshed) -> None:
    """Raise RefreshRecordsLostError if the date was delivered with refreshes that ``refreshed`` does not have."""
    lost = {
        entry.number
        for revision in state.current
        if isinstance(revision.manifest, Manifest)
        for entry in revision.manifest.portfolios
        if (entry.change, entry.extract) == ("CURRENT", "FULL")
        and entry.number not in refreshed.in_full
        and state.portfolios[entry.number].revision == revision.revision
    }
    if lost:
        raise RefreshRecordsLostError(state.feed, state.business_date, sorted(lost))


def record_refresh(store: ObjectStore, refresh: Refresh) -> bool:
    """Record a refresh; return False if the portfolio has one on the date."""
    return store.create(refresh.key, to_json(refresh), {"correlation-id": refresh.correlation_id})


def with_refreshes(store: ObjectStore, feed: str, schedule: RecipientSchedule, day: dt.date) -> RecipientSchedule:
    """Return ``schedule`` with the refreshes in effect on ``day``; itself if there are none.

    ``store`` is the plain store: only live deliveries are refreshed.
    """
    if not schedule.is_due(day):
        return schedule
    records, early = _granted(store, feed, schedule, day)
    if records and _passed(store, feed, schedule, day):
        state = delivered_state(store, feed, day)
        records = [record for record in records if sent_in_full(state, record.portfolio_number)]
    return _refreshed(feed, schedule, records, early)


def delivered_schedule(
    store: ObjectStore, manifest: Manifest, schedule: RecipientSchedule, audiences: Collection[str]
) -> RecipientSchedule:
    """Return ``schedule`` with the refreshes that a delivery was built with.

    ``audiences``: the keys that its snapshot covers. Refreshes of its date may be granted since.
    """
    feed, others = manifest.feed, {entry.number for entry in manifest.portfolios if entry.extract != "FULL"}
    records, early = _granted(store, feed, schedule, manifest.business_date)
    known = sorted((one for one in records if one.portfolio_number not in others), key=lambda one: one.granted_at)
    earlier = (_refreshed(feed, schedule, known[:count], early) for count in range(len(known), -1, -1))
    return next((refreshed for refreshed in earlier if refreshed.key in audiences), schedule)


def _granted(
    store: ObjectStore, feed: str, schedule: RecipientSchedule, day: dt.date
) -> tuple[list[Refresh], list[Refresh]]:
    # The refreshes of the date, and those of earlier dates whose consents still count early.
    early = _refreshes(store, feed, schedule.dates_between(schedule.first_business_date, day), early=True)
    records = [*_refreshes(store, feed, [day], early=False), *(one for one in early if one.business_date == day)]
    return records, _carried(store, feed, schedule, day, [one for one in early if one.business_date < day])


def _refreshed(
    feed: str, schedule: RecipientSchedule, records: Sequence[Refresh], early: Iterable[Refresh]
) -> RecipientSchedule:
    in_full = tuple(sorted(record.portfolio_number for record in records))
    counted = tuple(map(_counted_early, [*(record for record in records if record.early), *early]))
    return replace(schedule, refreshed=Refreshed(feed, in_full, counted)) if in_full or counted else schedule


def sent_in_full(state: DeliveredState, number: str) -> bool:
    """Return True if the latest delivery of the portfolio on the date was a FULL extract."""
    return _latest_entry(state, number)[1] == "FULL"


def _latest_entry(state: DeliveredState, number: str) -> tuple[str, str] | tuple[None, None]:
    # Change and extract of the portfolio's latest delivery.
    latest = state.portfolios.get(number)
    entries = (
        (entry.change, entry.extract)
        for manifest in state.deliveries
        if latest is not None and manifest.revision == latest.revision
        for entry in manifest.portfolios
        if entry.number == number
    )
    return next(entries, (None, None))


def undelivered_refreshes(
    store: ObjectStore, feed: str, granted_from: dt.datetime, granted_until: dt.datetime
) -> tuple[Refresh, ...]:
    """Return the refreshes granted in a period whose portfolio was neither sent in full nor removed since.

    Of several of one portfolio the latest counts. ``store`` is the plain store. A refresh that was delivered is
    remembered, so that it costs one look at its dates.
    """
    first_date = granted_from.date() - _OLDEST_DATE
    granted = {
        record.portfolio_number: record
        for record in sorted(_recorded(store, feed, first_date), key=lambda record: record.granted_at)
        if granted_from <= record.granted_at <= granted_until
    }
    open_ = [record for record in granted.values() if store.location(record.key) not in _DELIVERED]
    latest = latest_date(store, feed) if open_ else None
    if latest is None:
        return ()
    first = min(record.business_date for record in open_)
    states = {day: delivered_state(store, feed, day) for day in business_days_between(first, latest)}
    delivered = [
        record
        for record in open_
        for entries in [
            [
                _latest_entry(state, record.portfolio_number)
                for day, state in states.items()
                if day >= record.business_date
            ]
        ]
        if any(extract == "FULL" or change == "REMOVED" for change, extract in entries)
    ]
    _DELIVERED.update(store.location(record.key) for record in delivered)
    return tuple(record for record in open_ if record not in delivered)


def _counted_early(record: Refresh) -> EarlyConsent:
    return EarlyConsent(record.portfolio_number, cutoff(record.business_date), record.consented_at)


def _carried(
    store: ObjectStore, feed: str, schedule: RecipientSchedule, day: dt.date, early: Iterable[Refresh]
) -> list[Refresh]:
    # An early consent counts on every date until its first cut-off has passed. If the date before has nothing of the
    # portfolio, the recipient gets it anew.
    previous = schedule.previous(day)
    pending = [] if previous is None else [record for record in early if record.consented_at > cutoff(previous)]
    if previous is None or not pending:
        return []
    state = delivered_state(store, feed, previous)
    known = state.numbers | state.held_back.keys()
    return [record for record in pending if record.portfolio_number in known]


def _passed(store: ObjectStore, feed: str, schedule: RecipientSchedule, day: dt.date) -> bool:
    # True once the date after it is delivered: dates are delivered in order.
    following = schedule.dates_between(day + dt.timedelta(days=1), dt.date.max)
    return bool(following) and delivered_state(live_and_shadow(store, feed), feed, following[0]).latest is not None


def _refreshes(store: ObjectStore, feed: str, days: list[dt.date], *, early: bool) -> list[Refresh]:
    prefix, wanted = _prefix(feed, early), {day.isoformat() for day in days}
    keys = store.list(f"{prefix}{days[0].isoformat()}/" if len(days) == 1 else prefix)
    return [read_record(store, Refresh, key) for key in keys if key.removeprefix(prefix).partition("/")[0] in wanted]


def _recorded(store: ObjectStore, feed: str, first: dt.date) -> Iterator[Refresh]:
    for prefix in (_prefix(feed, early=False), _prefix(feed, early=True)):
        for key in store.list(prefix):
            if key.removeprefix(prefix) >= first.isoformat():
                yield read_record(store, Refresh, key)


def _prefix(feed: str, early: bool) -> str:
    # Within the only prefix in which the support page may create objects.
    return f"reruns/{'early' if early else 'refreshed'}/{feed}/"
