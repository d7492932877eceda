"""Feed modes: off, shadow and live. Shadow deliveries are stored under ``shadow/``, in the same chain as live ones.

A feed that is switched from shadow to live, or back, continues its sequence. The old app delivered the business dates
in the shadow, so they count as delivered. The next date is a DELTA with the next sequence number. The recipient loads
``delivered/`` only.
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
    """Treatment of a finished document: none, delivery to the shadow, or delivery to the recipient."""

    OFF = "off"
    SHADOW = "shadow"
    LIVE = "live"


class FeedStoreView:
    """A view of the store for one feed that maps its deliveries to ``delivered/`` or ``shadow/``.

    Only keys under ``delivered/<feed>/`` are mapped; all others pass through. Reading and listing cover both places.
    ``create`` writes to the place of ``mode`` and refuses a key that exists in the other place, so that a revision is
    never both live and shadow. Switch a feed only while none of its runs is under way: a run in the other mode could
    write between the look-up and the write. ValueError for the mode off.
    """

    def __init__(self, store: ObjectStore, feed: str, mode: FeedMode) -> None:
        if mode is FeedMode.OFF:
            raise ValueError(f"{feed} is switched off and has no place to deliver: set its mode to shadow or live")
        self._store = store
        self._live = delivered_prefix(feed)
        self._mode = mode

    def _place(self, key: str) -> str:
        """Return the object's key in the store, or the key to write if it does not exist."""
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
        """See ObjectStore. Keys under ``shadow/`` are returned as keys under ``delivered/``."""
        if not prefix.startswith(self._live):
            yield from self._store.list(prefix)
            return
        shadow = (key.removeprefix(SHADOW) for key in self._store.list(shadow_key(prefix)))
        yield from sorted({*self._store.list(prefix), *shadow})

    def create(self, key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        """See ObjectStore."""
        return self._store.create(self._place(key), data, metadata)

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


def shadow_key(key: str) -> str:
    """Return the shadow key of a key under ``delivered/``."""
    return SHADOW + key


def last_delivery(store: ObjectStore, feed: str, before: dt.date) -> tuple[dt.date, FeedMode] | None:
    """Return the newest delivered business date before ``before``, and its mode; None if there is none.

    A date with any live revision counts as live. ``store`` is the plain store, not a view of it.
    Raise DamagedRecordError if a manifest is unreadable.
    """
    manifests: dict[dt.date, list[tuple[FeedMode, str]]] = {}
    prefix = delivered_prefix(feed)
    for mode, place in ((FeedMode.LIVE, prefix), (FeedMode.SHADOW, shadow_key(prefix))):
        for key in store.list(place):
            if name := _MANIFEST.match(key.removeprefix(place)):
                manifests.setdefault(dt.date.fromisoformat(name[1]), []).append((mode, key))
    for day in sorted((day for day in manifests if day < before), reverse=True):
        for mode, key in manifests[day]:  # live ones first
            if isinstance(read_manifest(store.read(key), store.location(key), store), Manifest):
                return day, mode
    return None
