"""The chain of a feed's manifests: claiming the next place, and closing an abandoned one.

See docs/adr/0002. A place is claimed for one (business date, revision), and only after the previous place has its
manifest, delivered or void. Waiting is not needed for safety: a place that is closed too early only makes another
attempt start again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from classfeed_dagster.delivery.manifest import AnyManifest, ChainEntry, Link, VoidManifest, read_manifest
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import (
    chain_key,
    chain_prefix,
    delivered_prefix,
    manifest_key,
    read_record,
    sha256,
    to_json,
)

_ENTRY = re.compile(r"([0-9]{8,})\.json\Z")
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """Last place of a chain. ``manifest`` is None while its attempt is in progress or was abandoned."""

    position: int
    entry: ChainEntry
    previous: Link | None  # the manifest one place earlier; None at position 1
    manifest: Link | None


def last_place(store: ObjectStore, feed: str) -> ChainPlace | None:
    """Return the chain's last place; None if it is empty. Raise DamagedRecordError if earlier places are missing."""
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
            location = store.location(manifest_key(feed, before.business_date, before.revision))
            raise DamagedRecordError(location, f"the manifest at position {position - 1} of the chain is missing")
    return ChainPlace(position, entry, previous, manifest)


def chain_entry(store: ObjectStore, feed: str, position: int) -> ChainEntry:
    """Return the entry of a position. Raise ObjectNotFoundError if unclaimed, DamagedRecordError if unreadable."""
    key = chain_key(feed, position)
    return read_record(store, ChainEntry, key)


def manifest_link(store: ObjectStore, entry: ChainEntry) -> Link | None:
    """Return the key and hash of a place's manifest; None if it has none."""
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    try:
        return Link(key=key, sha256=sha256(store.read(key)))
    except ObjectNotFoundError:
        return None


def manifest_of(store: ObjectStore, entry: ChainEntry) -> tuple[AnyManifest, str] | None:
    """Return a place's manifest with its SHA-256; None if it has none. DamagedRecordError if it is unreadable."""
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    try:
        data = store.read(key)
    except ObjectNotFoundError:
        return None
    return read_manifest(data, store.location(key), store), sha256(data)


def claim_next(store: ObjectStore, last: ChainPlace | None, entry: ChainEntry) -> ChainPlace | None:
    """Claim the place after ``last``, which must have its manifest, for ``entry``; None if another attempt was first.

    Read ``last_place`` first and the date's deliveries second. Then ``entry`` cannot have a place yet: the place
    would be at ``last`` or before, and its manifest would be among the deliveries.
    """
    position = 1 if last is None else last.position + 1
    if not store.create(chain_key(entry.feed, position), to_json(entry)):
        return None
    return ChainPlace(position, entry, None if last is None else last.manifest, None)


def wait_for_manifest(
    store: ObjectStore, place: ChainPlace, patience_seconds: float, sleep: Callable[[float], None]
) -> bool:
    """Wait until the place has its manifest; return False after ``patience_seconds`` without manifest or new page."""
    entry, waited, latest = place.entry, 0.0, -1
    key = manifest_key(entry.feed, entry.business_date, entry.revision)
    while not store.exists(key):
        files = sum(1 for _ in store.list(delivered_prefix(entry.feed, entry.business_date, entry.revision)))
        if files != latest:
            latest, waited = files, 0.0  # its attempt is making progress
        if waited >= patience_seconds:
            return False
        step = min(_POLL_SECONDS, patience_seconds - waited)
        sleep(step)
        waited += step
    return True


def close_place(store: ObjectStore, place: ChainPlace, reason: str, correlation_id: str) -> bool:
    """Fill an abandoned place with a void manifest; return False if it has a manifest after all.

    The revision's pages are removed once the void manifest exists: they were never delivered, and never can be.
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
    """Remove the files that an abandoned attempt left with a void manifest. Call it after the manifest exists."""
    for key in list(store.list(ledger_prefix(void.feed, void.business_date, void.revision))):
        store.delete(key)
    keep = manifest_key(void.feed, void.business_date, void.revision)
    for key in list(store.list(delivered_prefix(void.feed, void.business_date, void.revision))):
        if key != keep:
            store.delete(key)
