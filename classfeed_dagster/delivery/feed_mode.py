"""Where a feed delivers while the old app still does: under ``shadow/``, in the same chain as its live deliveries.

A feed that is switched from shadow to live goes on where it was: the business dates that it delivered to the shadow
prefix were delivered by the old app, so they count as delivered, and the next date is a DELTA with the next
sequence number. Switched back, the same holds the other way round. The recipient only ever looks into ``delivered/``.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from classfeed_dagster.delivery.manifest import Manifest, read_manifest
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import delivered_prefix

SHADOW = "shadow/"
_MANIFEST = re.compile(r"(\d{4}-\d\d-\d\d)/r\d+/manifest\.json\Z")


class FeedMode(enum.StrEnum):
    """What a feed does with a finished document: nothing, deliver it where nobody loads it, deliver it."""

    OFF = "off"
    SHADOW = "shadow"
    LIVE = "live"


class FeedStoreView:
    """A view of the store for one feed: what it delivers goes to ``delivered/`` or ``shadow/``, and counts in both.

    Only keys under ``delivered/<feed>/`` are concerned; every other key is the store's own. Reading and listing
    see both places as one. ``create`` writes to the place of ``mode``, and finds a key taken that exists in the
    other place: one revision is never both live and shadow. Switch a feed while none of its runs is under way:
    between looking into the other place and writing, a run in the other mode could write.
    """

    def __init__(self, store: ObjectStore, feed: str, mode: FeedMode) -> None:
        if mode is FeedMode.OFF:
            raise ValueError(f"{feed} is switched off: it delivers nowhere")
        self._store = store
        self._live = delivered_prefix(feed)
        self._mode = mode

    def _place(self, key: str) -> str:
        """Where the object is; where it would be written if it isn't anywhere."""
        if not key.startswith(self._live):
            return key
        places = [key, shadow_key(key)]
        if self._mode is FeedMode.SHADOW:
            places.reverse()
        return next((place for place in places if self._store.exists(place)), places[0])

    def read(self, key: str) -> bytes:
        """See ObjectStore."""
        return self._store.read(self._place(key))

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        return self._store.exists(self._place(key))

    def list(self, prefix: str) -> Iterator[str]:
        """See ObjectStore. Keys under ``shadow/`` are given as those that they stand for."""
        if not prefix.startswith(self._live):
            yield from self._store.list(prefix)
            return
        shadow = (key.removeprefix(SHADOW) for key in self._store.list(shadow_key(prefix)))
        yield from sorted({*self._store.list(prefix), *shadow})

    def create(self, key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        """See ObjectStore."""
        place = self._place(key)
        return self._store.create(place, data, metadata)

    def put(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        self._store.put(self._place(key), data)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        self._store.delete(self._place(key))

    def local_file(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """See ObjectStore."""
        return self._store.local_file(self._place(key))

    def location(self, key: str) -> str:
        """See ObjectStore."""
        return self._store.location(self._place(key))


def switched(store: ObjectStore, feed: str, mode: FeedMode) -> ObjectStore:
    """The store as publishing and everything that looks at deliveries must see it. ValueError if the feed is off."""
    return FeedStoreView(store, feed, mode)


def shadow_key(key: str) -> str:
    """Where an object under ``delivered/`` is while its feed is in shadow."""
    return SHADOW + key


def last_delivery(store: ObjectStore, feed: str, before: dt.date) -> tuple[dt.date, FeedMode] | None:
    """The newest business date before ``before`` that the feed delivered, and where; None if there is none.

    A date of which any revision went live counts as live. ``store`` is the plain store, not a switched view of it.
    DamagedRecordError if a manifest can't be read.
    """
    found: dict[dt.date, list[tuple[FeedMode, str]]] = {}
    prefix = delivered_prefix(feed)
    for mode, place in ((FeedMode.LIVE, prefix), (FeedMode.SHADOW, shadow_key(prefix))):
        for key in store.list(place):
            if name := _MANIFEST.match(key.removeprefix(place)):
                found.setdefault(dt.date.fromisoformat(name[1]), []).append((mode, key))
    for day in sorted((day for day in found if day < before), reverse=True):
        for mode, key in found[day]:  # live ones first
            if isinstance(read_manifest(store.read(key), store.location(key)), Manifest):
                return day, mode
    return None
