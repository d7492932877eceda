"""Quarantine: who is held back on a business date, why, since when, and when each was released.

A state for people and for repair, one small object a portfolio, replaced as things change. What was delivered is told
by the manifests alone; nothing decides by this state.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.delivery.state import DeliveredState
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record, from_json, quarantine_key, quarantine_prefix, to_json


class Quarantined(Record):
    """A portfolio held back on a business date, or released since."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    held_back: HeldBack = Field(description="who, and the latest reason")
    status: Literal["HELD", "RELEASED"]
    held_since: AwareDatetime = Field(description="when it was first held back for this date")
    changed_at: AwareDatetime = Field(description="when this record last changed")
    correlation_id: str = Field(description="the attempt that last changed it")
    released_at: AwareDatetime | None = Field(default=None, description="when it was no longer held back")
    released_in: NonNegativeInt | None = Field(
        default=None, description="the revision that delivered it; null if it ceased to be due without a delivery"
    )

    @property
    def number(self) -> str:
        """The portfolio's number."""
        return self.held_back.number

    def age(self, now: dt.datetime) -> dt.timedelta:
        """How long it has been held back at ``now``, or was until its release."""
        return (self.released_at or now) - self.held_since


def update_quarantine(
    store: ObjectStore,
    held_back: Iterable[HeldBack],
    delivered: DeliveredState,
    *,
    at: dt.datetime,
    correlation_id: str,
) -> tuple[Quarantined, ...]:
    """Bring the quarantine of ``delivered``'s date up to date: ``held_back`` are held, all others released.

    ``held_back`` is the latest plan's, ``delivered`` what was delivered after it. Repeating changes nothing. Returns
    the date's records, ordered by portfolio number.
    """
    feed, day = delivered.feed, delivered.business_date
    records = {record.number: record for record in quarantine(store, feed, day)}
    held = {entry.number: entry for entry in held_back}
    for number in sorted({*records, *held}):
        before, entry = records.get(number), held.get(number)
        if before is not None and before.status == "HELD" and entry == before.held_back:
            continue
        if entry is not None:
            still = before is not None and before.status == "HELD"
            after = Quarantined(
                feed=feed,
                business_date=day,
                held_back=entry,
                status="HELD",
                held_since=before.held_since if before is not None and still else at,
                changed_at=at,
                correlation_id=correlation_id,
            )
        elif before is not None and before.status == "HELD":
            found = delivered.portfolios.get(number)
            after = before.model_copy(
                update={
                    "status": "RELEASED",
                    "changed_at": at,
                    "correlation_id": correlation_id,
                    "released_at": at,
                    "released_in": found.revision if found is not None else None,
                }
            )
        else:
            continue
        store.put(quarantine_key(feed, day, number), to_json(after))
        records[number] = after
    return tuple(records[number] for number in sorted(records))


def quarantine(store: ObjectStore, feed: str, day: dt.date | None = None) -> tuple[Quarantined, ...]:
    """Every record of a date, or of all dates, released ones too, ordered by date and portfolio number."""
    found = [
        from_json(Quarantined, store.read(key), store.location(key)) for key in store.list(quarantine_prefix(feed, day))
    ]
    return tuple(sorted(found, key=lambda record: (record.business_date, record.number)))


def held(store: ObjectStore, feed: str, day: dt.date | None = None) -> tuple[Quarantined, ...]:
    """Those held back still, on a date or on any: what people look at."""
    return tuple(record for record in quarantine(store, feed, day) if record.status == "HELD")
