"""Checks of a run's base: the manifests of its dates against the chain, and the chain against known deliveries.

``classfeed verify`` checks the whole chain. A run checks its own date and the feed's dates before and after it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from classfeed_dagster.delivery.build import read_build
from classfeed_dagster.delivery.chain import ChainPlace, chain_entry, last_place, manifest_of
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.problems import build_differences, manifest_problems
from classfeed_dagster.delivery.state import DeliveredRevision, checkpoint_fault, delivered_state
from classfeed_dagster.errors import DamagedRecordError, DataError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import manifest_key


class StoreBehindError(DataError):
    """The store lacks known deliveries: it was restored from an older backup."""

    def __init__(self, feed: str, delivered: int, position: int) -> None:
        super().__init__(
            f"{feed}: the chain in the store ends at position {position}, but position {delivered} was "
            "delivered. The store is older than the deliveries: restore the newer version of chain/, delivered/ and "
            "ledger/, and run again. No document is delivered until then."
        )


class CalendarChangedError(DataError):
    """A delivered date has another place among the feed's business dates than when it was delivered."""

    def __init__(self, feed: str, day: dt.date, delivered: int, now: int) -> None:
        super().__init__(
            f"{feed} of {day.isoformat()} was delivered as business date {delivered} of the feed, and is number {now} "
            "now. Before a delivered date no business date is added or removed: undo the change of the ASX calendar "
            "(EXTRA_HOLIDAYS and EXTRA_BUSINESS_DAYS in trading_days.py), of the first business date or of the "
            "feed's cadence. No document is delivered until then."
        )


def require_chain(store: ObjectStore, feed: str, days: Iterable[dt.date], audience: RecipientSchedule) -> None:
    """Raise DamagedRecordError unless the chain names exactly the manifests of ``days``.

    CalendarChangedError if one of them was delivered under another sequence number than the audience's.
    """
    last = last_place(store, feed)
    for day in days:
        # ``current`` compares the older manifests that still count with the checkpoint.
        state = delivered_state(store, feed, day, sent=False)
        number = audience.sequence_number(day)
        if state.latest is not None and state.latest.sequence_number != number:
            raise CalendarChangedError(feed, day, state.latest.sequence_number, number)
        for revision in {entry.revision: entry for entry in (*state.current, *state.recent)}.values():
            _require_place(store, feed, day, revision, last)


def require_reached(store: ObjectStore, feed: str, delivered: int) -> None:
    """Raise StoreBehindError unless the chain has the manifest of position ``delivered``."""
    last = last_place(store, feed)
    position = 0 if last is None else last.position - (last.manifest is None)
    if position < delivered:
        raise StoreBehindError(feed, delivered, position)


def _require_place(
    store: ObjectStore, feed: str, day: dt.date, revision: DeliveredRevision, last: ChainPlace | None
) -> None:
    manifest, location = revision.manifest, store.location(revision.key)
    if (manifest.feed, manifest.business_date, manifest.revision) != (feed, day, revision.revision):
        raise DamagedRecordError(location, "it is the manifest of another delivery")
    try:
        entry = chain_entry(store, feed, manifest.chain_position)
    except ObjectNotFoundError:
        raise DamagedRecordError(location, f"the chain has no position {manifest.chain_position}") from None
    if (entry.feed, entry.business_date, entry.revision) != (feed, day, revision.revision):
        raise DamagedRecordError(location, f"position {manifest.chain_position} of the chain names another delivery")
    if problem := next(manifest_problems(manifest, store.read(revision.key), location), None):
        raise DamagedRecordError(location, problem.detail)
    if last is not None and manifest.chain_position < last.position:
        _require_successor(store, feed, revision, manifest.chain_position + 1)
    elif isinstance(manifest, Manifest):
        _require_build(store, manifest, location)


def _require_successor(store: ObjectStore, feed: str, revision: DeliveredRevision, position: int) -> None:
    entry = chain_entry(store, feed, position)
    place = manifest_of(store, entry)
    if place is None:
        return  # the last position, whose attempt is in progress
    successor, _ = place
    if (successor.business_date, successor.revision) != (entry.business_date, entry.revision):
        location = store.location(manifest_key(feed, entry.business_date, entry.revision))
        raise DamagedRecordError(location, "it is the manifest of another delivery")
    if successor.previous is None or successor.previous.sha256 != revision.sha256:
        raise DamagedRecordError(store.location(revision.key), "the manifest after it in the chain names other bytes")


def _require_build(store: ObjectStore, manifest: Manifest, location: str) -> None:
    # No manifest names the last one's hash: its build's record does as well, as long as it is kept.
    if fault := checkpoint_fault(store, manifest):
        raise DamagedRecordError(location, f"its checkpoint is wrong: {fault}")
    try:
        build = read_build(store, manifest.feed, manifest.business_date, manifest.build_id)
    except ObjectNotFoundError:
        return
    if changed := build_differences(build, manifest):
        raise DamagedRecordError(location, f"{', '.join(changed)} are not those of the build that was delivered")
