"""Summaries of a date's deliveries from the manifests. Each process reads a manifest once."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest, read_manifest
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import delivered_prefix

_MANIFEST = re.compile(r"r(\d+)/manifest\.json\Z")
_CACHE_SIZE = 4000
_SUMMARIES: dict[str, Delivery | None] = {}  # by the manifest's location; None for void manifests


@dataclass(frozen=True, slots=True)
class Delivery:
    """The facts of a manifest that alerts and repair need. A manifest itself may be large."""

    revision: int
    delivered_at: dt.datetime  # bigsite's clock at the last consent query before the manifest
    snapshot_at: dt.datetime
    portfolios: int
    held_back: int


def deliveries(store: ObjectStore, feed: Feed, day: dt.date) -> tuple[Delivery, ...]:
    """Return the deliveries of a date in order, without void revisions."""
    view = live_and_shadow(store, feed.name)
    prefix = delivered_prefix(feed.name, day)
    summaries: list[Delivery] = []
    for key in view.list(prefix):
        if _MANIFEST.match(key.removeprefix(prefix)):
            location = view.location(key)
            if location not in _SUMMARIES:
                if len(_SUMMARIES) >= _CACHE_SIZE:
                    _SUMMARIES.clear()
                _SUMMARIES[location] = _summary(view, key, location)
            delivery = _SUMMARIES[location]
            if delivery is not None:
                summaries.append(delivery)
    return tuple(sorted(summaries, key=lambda delivery: delivery.revision))


def _summary(store: ObjectStore, key: str, location: str) -> Delivery | None:
    manifest = read_manifest(store.read(key), location, store)
    if not isinstance(manifest, Manifest):
        return None
    return Delivery(
        manifest.revision,
        manifest.consent_checked_at,
        manifest.snapshot.snapshot_at,
        len(manifest.portfolios),
        len(manifest.held_back),
    )
