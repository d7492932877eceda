"""Quarantine: the portfolios held back on a business date, with reason, start and release.

The state informs people and repair: one small object per portfolio, replaced on each change. Deliveries are recorded
by the manifests alone; no decision depends on the quarantine.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.delivery.state import DeliveredState
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, quarantine_key, quarantine_prefix, read_record, to_json


class Quarantined(StoredRecord):
    """A portfolio held back on a business date, or released since."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    held_back: HeldBack = Field(description="the portfolio and the latest reason")
    status: Literal["HELD", "RELEASED"]
    held_since: AwareDatetime = Field(description="time when it was first held back for this date")
    changed_at: AwareDatetime = Field(description="time of the last change of this record")
    correlation_id: str = Field(description="the attempt that last changed it")
    released_at: AwareDatetime | None = Field(default=None, description="time of its release")
    released_in: NonNegativeInt | None = Field(
        default=None, description="the revision that delivered it; null if it was released without a delivery"
    )
    delivered_in: NonNegativeInt | None = Field(
        default=None,
        description="revision that delivered it before a later attempt would have held it back; else null",
    )

    @property
    def lacks_data(self) -> bool:
        """Return True if the portfolio is held back and no revision of the date delivered it."""
        return self.status == "HELD" and self.delivered_in is None

    @property
    def number(self) -> str:
        """Return the portfolio's number."""
        return self.held_back.number

    def age(self, now: dt.datetime) -> dt.timedelta:
        """Return the time for which it has been held back at ``now``, or was until its release."""
        return (self.released_at or now) - self.held_since


def update_quarantine(
    store: ObjectStore,
    held_back: Iterable[HeldBack],
    delivered: DeliveredState,
    *,
    at: dt.datetime,
    correlation_id: str,
) -> tuple[Quarantined, ...]:
    """Update the quarantine of ``delivered``'s date: ``held_back`` are held, all others released.

    ``held_back`` is the latest plan's, ``delivered`` the state after its delivery. A repetition changes nothing.
    Return the date's records, ordered by portfolio number.
    """
    feed, day = delivered.feed, delivered.business_date
    records = {record.number: record for record in quarantine(store, feed, day)}
    entries = {entry.number: entry for entry in held_back}
    for number in sorted({*records, *entries}):
        before, entry = records.get(number), entries.get(number)
        latest = delivered.portfolios.get(number)
        delivered_in = latest.revision if latest is not None else None
        unchanged = before is not None and (entry, delivered_in) == (before.held_back, before.delivered_in)
        if before is not None and before.status == "HELD" and unchanged:
            continue
        if entry is not None:
            continuing = before is not None and before.status == "HELD"
            after = Quarantined(
                feed=feed,
                business_date=day,
                held_back=entry,
                status="HELD",
                held_since=before.held_since if before is not None and continuing else at,
                changed_at=at,
                correlation_id=correlation_id,
                delivered_in=delivered_in,
            )
        elif before is not None and before.status == "HELD":
            after = before.model_copy(
                update={
                    "status": "RELEASED",
                    "changed_at": at,
                    "correlation_id": correlation_id,
                    "released_at": at,
                    "released_in": delivered_in,
                    "delivered_in": None,
                }
            )
        else:
            continue
        store.put(quarantine_key(feed, day, number), to_json(after))
        records[number] = after
    return tuple(records[number] for number in sorted(records))


def quarantine(store: ObjectStore, feed: str, day: dt.date | None = None) -> tuple[Quarantined, ...]:
    """Return every record of a date or of all dates, held and released, ordered by date and portfolio number."""
    records = [read_record(store, Quarantined, key) for key in store.list(quarantine_prefix(feed, day))]
    return tuple(sorted(records, key=lambda record: (record.business_date, record.number)))


def held(store: ObjectStore, feed: str, day: dt.date | None = None) -> tuple[Quarantined, ...]:
    """Return the records of the portfolios that are still held back, on a date or on any."""
    return tuple(record for record in quarantine(store, feed, day) if record.status == "HELD")
