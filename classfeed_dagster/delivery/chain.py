"""The chain of a feed's manifests: claiming the next place, and closing one whose attempt was abandoned.

See docs/adr/0002. A place is claimed for one (business date, revision), and only once the place before it has its
manifest, delivered or void. Waiting here is patience, never safety: whoever closes a place too early makes another
attempt start again, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from classfeed_dagster.delivery.manifest import ChainEntry, Link, VoidManifest
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import (
    chain_key,
    chain_prefix,
    delivered_prefix,
    from_json,
    manifest_key,
    sha256,
    to_json,
)

_ENTRY = re.compile(r"([0-9]{8,})\.json\Z")
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """The last place of a chain. ``manifest`` is None while its attempt is under way or was abandoned."""

    position: int
    entry: ChainEntry
    previous: Link | None  # the manifest one place earlier; None at position 1
    manifest: Link | None


def last_place(store: ObjectStore, feed: str) -> Place | None:
    """The chain's last place; None if nothing was ever begun. DamagedRecordError if places are missing before it."""
    prefix = chain_prefix(feed)
    keys = list(store.list(prefix))
    if not keys:
        return None
    name = _ENTRY.match(keys[-1].removeprefix(prefix))
    if name is None or int(name[1]) != len(keys):
        raise DamagedRecordError(
            store.location(keys[-1]), f"the chain has {len(keys)} entries, and this is its last: some are missing"
        )
    position = len(keys)
    entry = chain_entry(store, feed, position)
    manifest = manifest_link(store, entry)
    previous = None
    if position > 1:
        before = chain_entry(store, feed, position - 1)
        previous = manifest_link(store, before)
        if previous is None:
            where = store.location(manifest_key(feed, before.business_date, before.revision))
            raise DamagedRecordError(where, f"the manifest at position {position - 1} of the chain is missing")
    return Place(position, entry, previous, manifest)


def chain_entry(store: ObjectStore, feed: str, position: int) -> ChainEntry:
    """For whom a position was claimed. ObjectNotFoundError if it wasn't, DamagedRecordError if it can't be read."""
    key = chain_key(feed, position)
    return from_json(ChainEntry, store.read(key), store.location(key))


def manifest_link(store: ObjectStore, entry: ChainEntry) -> Link | None:
    """Where the manifest of a place is, and its hash; None if it has none."""
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    try:
        return Link(key=key, sha256=sha256(store.read(key)))
    except ObjectNotFoundError:
        return None


def claim_next(store: ObjectStore, last: Place | None, entry: ChainEntry) -> Place | None:
    """Claim the place after ``last``, which must have its manifest, for ``entry``; None if another was faster.

    Look at ``last_place`` first and at what was delivered for the date second: then ``entry`` can't have a place
    already, for it would be at ``last`` or before, and its manifest would have shown.
    """
    position = 1 if last is None else last.position + 1
    if not store.create(chain_key(entry.feed, position), to_json(entry)):
        return None
    return Place(position, entry, None if last is None else last.manifest, None)


def wait_for_manifest(
    store: ObjectStore, place: Place, patience_seconds: float, sleep: Callable[[float], None]
) -> bool:
    """Wait until the place has its manifest; False if none came, and no new page either, for ``patience_seconds``."""
    entry, waited, seen = place.entry, 0.0, -1
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    while not store.exists(key):
        files = sum(1 for _ in store.list(delivered_prefix(entry.feed, entry.business_date, entry.revision)))
        if files != seen:
            seen, waited = files, 0.0  # somebody is at work there
        if waited >= patience_seconds:
            return False
        step = min(_LOOK_AGAIN_SECONDS, patience_seconds - waited)
        sleep(step)
        waited += step
    return True


def close_place(store: ObjectStore, place: Place, reason: str, correlation_id: str) -> bool:
    """Fill an abandoned place with a void manifest; False if a manifest is there after all.

    The revision's pages are removed once the void stands: they were never delivered, and never can be.
    """
    entry = place.entry
    void = VoidManifest(
        feed=entry.feed,
        business_date=entry.business_date,
        revision=entry.revision,
        chain_position=place.position,
        previous=place.previous,
        reason=reason,
        correlation_id=correlation_id,
    )
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    if not store.create(key, to_json(void), {"correlation-id": correlation_id}):
        return False
    remove_orphans(store, void)
    return True


def remove_orphans(store: ObjectStore, void: VoidManifest) -> None:
    """Remove the files that an abandoned attempt left beside a void manifest. Only ever called with one that stands."""
    for key in list(store.list(ledger_prefix(void.feed, void.business_date, void.revision))):
        store.delete(key)
    keep = manifest_key(void.feed, void.business_date, void.revision)
    for key in list(store.list(delivered_prefix(void.feed, void.business_date, void.revision))):
        if key != keep:
            store.delete(key)
