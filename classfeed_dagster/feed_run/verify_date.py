"""Verification of one delivered date: its manifests, their places in the chain, and every page, as breaks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from classfeed_dagster.delivery.chain import chain_entry, manifest_of
from classfeed_dagster.delivery.manifest import Manifest, read_manifest
from classfeed_dagster.delivery.problems import manifest_problems, page_problems, portfolios_by_page
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import delivered_prefix, manifest_key, sha256
from classfeed_dagster.warehouse.records import (
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    RecordTrace,
    Side,
)

_Problem = tuple[str, str]  # object key, problem


def verification_breaks(
    store: ObjectStore, feed: str, day: dt.date, document_format: DocumentFormat
) -> Iterator[Break]:
    """Yield one error for each object of the date that differs from its delivery."""
    reported: set[str] = set()
    for key, detail in _problems(store, feed, day, document_format):
        if key in reported:
            continue
        reported.add(key)
        yield Break(
            feed,
            day,
            Side.SOURCE,
            BreakKind.ALTERED_FILE,
            BreakSeverity.ERROR,
            None,
            "manifest" if key.endswith(".json") else "delivered page",
            key,
            explanations=(BreakExplanation(BreakCause.FILE_ALTERED, detail),),
            trace=RecordTrace(page=key),
        )


def _problems(store: ObjectStore, feed: str, day: dt.date, document_format: DocumentFormat) -> Iterator[_Problem]:
    prefix = delivered_prefix(feed, day)
    for key in store.list(prefix):
        if not key.endswith("/manifest.json"):
            continue
        data = store.read(key)
        try:
            manifest = read_manifest(data, key, store)
        except DamagedRecordError as error:
            yield key, str(error)
            continue
        yield from ((key, f"{problem.kind}: {problem.detail}") for problem in manifest_problems(manifest, data, key))
        if key != manifest_key(manifest.feed, manifest.business_date, manifest.revision):
            yield key, "it states another feed, business date or revision than its place in the store"
            continue
        yield from ((key, detail) for detail in _chain_problems(store, key, data, manifest.chain_position, feed))
        if isinstance(manifest, Manifest):
            yield from _page_problems(store, manifest, document_format)


def _chain_problems(store: ObjectStore, key: str, data: bytes, position: int, feed: str) -> Iterable[str]:
    """Yield the chain's contradictions of a manifest: its entry, and the hash in its successor."""
    try:
        entry = chain_entry(store, feed, position)
    except (ObjectNotFoundError, DamagedRecordError):
        yield f"the chain has no entry {position} for it"
        return
    if manifest_key(entry.feed, entry.business_date, entry.revision) != key:
        yield f"entry {position} of the chain is another delivery's"
    successor = _next_manifest(store, feed, position)
    if successor is not None and successor.previous is not None and successor.previous.sha256 != sha256(data):
        yield "its SHA-256 is not the one that the next manifest of the chain names"


def _next_manifest(store: ObjectStore, feed: str, position: int) -> Manifest | None:
    try:
        place = manifest_of(store, chain_entry(store, feed, position + 1))
    except (ObjectNotFoundError, DamagedRecordError):
        return None
    return place[0] if place is not None and isinstance(place[0], Manifest) else None


def _page_problems(store: ObjectStore, manifest: Manifest, document_format: DocumentFormat) -> Iterator[_Problem]:
    on_page = portfolios_by_page(manifest) or {}
    for page in manifest.pages:
        try:
            with store.local_file(page.key) as path:
                problems = page_problems(
                    path,
                    page.key,
                    page=page,
                    manifest=manifest,
                    portfolios=on_page.get(page.message_id),
                    document_format=document_format,
                )
                yield from ((page.key, f"{problem.kind}: {problem.detail}") for problem in problems)
        except ObjectNotFoundError:
            yield page.key, "the manifest lists this page, and it does not exist"
