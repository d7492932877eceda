"""Summaries of a date's deliveries, read from the manifests; each manifest is read once a process."""

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
_KEPT = 4000
_MANIFESTS: dict[str, Delivery | None] = {}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What operating needs of a manifest; a manifest itself may be large."""

    revision: int
    delivered_at: dt.datetime  # bigsite's clock, at the last question before the manifest
    snapshot_at: dt.datetime
    portfolios: int
    held_back: int


def deliveries(store: ObjectStore, feed: Feed, day: dt.date) -> tuple[Delivery, ...]:
    """The deliveries of a date, void revisions left out, in order; reads each manifest once a process."""
    view = live_and_shadow(store, feed.name)
    prefix = delivered_prefix(feed.name, day)
    found: list[Delivery] = []
    for key in view.list(prefix):
        if _MANIFEST.match(key.removeprefix(prefix)):
            location = view.location(key)
            if location not in _MANIFESTS:
                if len(_MANIFESTS) >= _KEPT:
                    _MANIFESTS.clear()
                _MANIFESTS[location] = _summary(view.read(key), location)
            delivery = _MANIFESTS[location]
            if delivery is not None:
                found.append(delivery)
    return tuple(sorted(found, key=lambda one: one.revision))


def _summary(data: bytes, location: str) -> Delivery | None:
    manifest = read_manifest(data, location)
    if not isinstance(manifest, Manifest):
        return None
    return Delivery(
        manifest.revision,
        manifest.consent_checked_at,
        manifest.snapshot.snapshot_at,
        len(manifest.portfolios),
        len(manifest.held_back),
    )
