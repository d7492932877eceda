"""Older delivered dates that bigsite changed or an earlier date freed, with a record until they are re-issued.

Repair watches the last due dates of a feed on every tick. All dates before them are queried in batches, one batch a
probe. A change of any age is detected after at most (delivered dates / batch size) probes, and the cost of a probe does
not grow with the history. The record of a changed date outlives the process and keeps the date under repair
and in the alerts until its re-issue has succeeded.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster.repair.decisions import RunState, source_changed
from classfeed_dagster.repair.observations import Observations, ObservedDate
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, to_json

# Older dates in a probe. A date of 10,000 portfolios takes bigsite about 0.1 s; a probe ends after 20 s.
BATCH = 5


class Restatement(StoredRecord):
    """A delivered date whose source rows changed and that was not re-issued, or not sent, yet."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    changed_at: AwareDatetime | None = Field(description="instant of the latest change in bigsite, UTC")
    found_at: AwareDatetime = Field(description="instant of the probe that found it, UTC")


def batch(days: Sequence[dt.date], turn: int, size: int = BATCH) -> Sequence[dt.date]:
    """Return the ``turn``-th batch of at most ``size`` of ``days``, newest first; the turns start again at the end."""
    if not days or size == 0:
        return ()
    newest_first = days[::-1]
    start = turn % -(-len(days) // size) * size
    return newest_first[start : start + size]


def open_dates(store: ObjectStore, feed: str) -> tuple[dt.date, ...]:
    """Return the dates of a feed on record, in order. Objects with other names are ignored."""
    prefix = _prefix(feed)
    days = (_day(key.removeprefix(prefix).removesuffix(".json")) for key in store.list(prefix))
    return tuple(day for day in days if day is not None)


def _day(name: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(name)
    except ValueError:
        return None


def record(store: ObjectStore, observations: Observations, *, asked: bool) -> None:
    """Record the older dates that need a re-issue; if bigsite was ``asked``, remove the records of those that do not.

    If bigsite did not answer, nothing changes.
    """
    if not observations.bigsite_up:
        return
    for date in observations.dates:
        key = f"{_prefix(date.feed.name)}{date.due.business_date.isoformat()}.json"
        if date.restated and _needs_reissue(date):
            if not store.exists(key):
                restatement = Restatement(
                    feed=date.feed.name,
                    business_date=date.due.business_date,
                    changed_at=date.facts.source_changed_at,
                    found_at=observations.at,
                )
                store.put(key, to_json(restatement))
        elif date.restated and asked:
            store.delete(key)


def _needs_reissue(date: ObservedDate) -> bool:
    facts = date.facts
    unfinished = bool(facts.runs) and facts.runs[-1].state in (RunState.RUNNING, RunState.FAILED)
    return source_changed(facts) or facts.freed is not None or unfinished or bool(facts.unsent)


def _prefix(feed: str) -> str:
    return f"restatements/{feed}/"
