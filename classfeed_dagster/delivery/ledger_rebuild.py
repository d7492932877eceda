"""Rebuilding a feed's ledger from its documents and landings, and auditing positions from records alone.

The documents say which records went; the landed snapshot has bigsite's keys of them. A delivery that has a ledger is
rebuilt as well: the files must come out equal, which proves the rebuilding.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path

import polars as pl

from classfeed_dagster.bigsite.snapshot import Snapshot, read_snapshot
from classfeed_dagster.delivery.build import LedgerParts
from classfeed_dagster.delivery.chain import chain_entry, last_place, manifest_of
from classfeed_dagster.delivery.delivery_history import delivered_dates, delivered_page
from classfeed_dagster.delivery.ledger_publication import publish_ledger
from classfeed_dagster.delivery.manifest import ChainEntry, Manifest
from classfeed_dagster.delivery.refreshes import delivered_schedule
from classfeed_dagster.delivery.sent import (
    RebuiltLedger,
    positions_at,
    rebuilt_key,
    reissued_since,
    roll_date,
    sent_date,
)
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains.build import build_consented_portfolios, build_domain, open_domains
from classfeed_dagster.domains.ledger_rows import REFERENCES
from classfeed_dagster.errors import DamagedRecordError, DataError
from classfeed_dagster.ledger.files import POSITIONS, LedgerFiles, StagedLedger, ledger_prefix, read_kind
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import manifest_key, to_json

_KEY = ["portfolio_number", "transaction_id"]
_CARRIED = ["units", "amount", "transaction_date", "transaction_type"]
AUDITED_DATES = 5  # newest dates whose stored positions an audit of a sample compares
_INCOME = "I"  # the units of an income are what it was paid on: the ledger has none


class LandingGoneError(DataError):
    """The landed snapshot of a delivery was removed: bigsite's keys of its records are not known any more."""

    def __init__(self, location: str, day: dt.date) -> None:
        super().__init__(
            f"{location}: the snapshot of {day.isoformat()} is missing, and with it bigsite's keys of the records. "
            "Restore landing/ of that date from the backup and run the command again."
        )


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """Outcome of rebuilding one delivery's ledger."""

    business_date: dt.date
    revision: int
    records: int
    proven: bool  # it had a ledger, and rebuilding gave equal files


def rebuild_ledger(
    store: ObjectStore, feed: str, document_format: DocumentFormat, audience: RecipientSchedule
) -> Iterator[RebuildResult]:
    """Rebuild the ledger of every delivery of ``feed``, in the order of the chain.

    DamagedRecordError if a document, a landing or a ledger file contradicts the others.
    """
    last = last_place(store, feed)
    for position in range(1, (last.position if last else 0) + 1):
        place = manifest_of(store, chain_entry(store, feed, position))
        if place is None:
            return  # the last position, whose attempt is in progress
        manifest, manifest_sha256 = place
        if isinstance(manifest, Manifest):
            yield _rebuild(store, document_format, audience, manifest, manifest_sha256)


def _rebuild(
    store: ObjectStore,
    document_format: DocumentFormat,
    audience: RecipientSchedule,
    manifest: Manifest,
    manifest_sha256: str,
) -> RebuildResult:
    feed, day, revision = manifest.feed, manifest.business_date, manifest.revision
    staged = _stage(store, document_format, audience, manifest, manifest_sha256)
    entry = ChainEntry(feed=feed, business_date=day, revision=revision)
    ledger = publish_ledger(store, entry, manifest.chain_position, staged, audience)
    prefix = ledger_prefix(feed, day, revision)
    if ledger is None or (manifest.ledger is not None and ledger != manifest.ledger):
        raise DamagedRecordError(store.location(prefix.rstrip("/")), "rebuilding gave other ledger files")
    if manifest.ledger is None:
        record = RebuiltLedger(manifest_sha256=manifest_sha256, ledger=ledger)
        key = rebuilt_key(feed, day, revision)
        if not store.create(key, to_json(record)) and store.read(key) != to_json(record):
            raise DamagedRecordError(store.location(key), "rebuilding gave another ledger than before")
    return RebuildResult(day, revision, sum(file.rows for file in ledger.of("records")), manifest.ledger is not None)


def _stage(
    store: ObjectStore,
    document_format: DocumentFormat,
    audience: RecipientSchedule,
    manifest: Manifest,
    manifest_sha256: str,
) -> StagedLedger:
    snapshot = _snapshot(store, manifest)
    documents = _documents(store, document_format, manifest)
    digests = {portfolio.number: portfolio.digest for portfolio in manifest.portfolios}
    schedule = delivered_schedule(store, manifest, audience, snapshot.audiences)
    consented = build_consented_portfolios(store, snapshot, schedule)
    domains = [build_domain(store, snapshot, schedule, name, consented) for name in document_format.domains]
    prefix = f"staged/{manifest.feed}/{manifest.business_date.isoformat()}/ledger-{manifest_sha256[:32]}/"
    last = tuple(snapshot.slices[shard.stop - 1].last for shard in snapshot.shards if len(shard))
    with tempfile.TemporaryDirectory(prefix="classfeed-ledger-") as folder:
        parts = LedgerParts(Path(folder), document_format.ledgers, last)
        with parts, open_domains(store, [consented, *domains]) as slices:
            for frames in slices:
                parts.add(_as_delivered(frames, documents), digests)
        files = parts.stage(store, prefix)
    staged = StagedLedger(prefix=prefix, files=files)
    _require_equal(store, manifest, staged, documents)
    return staged


def _snapshot(store: ObjectStore, manifest: Manifest) -> Snapshot:
    key = manifest.snapshot.descriptor_key
    try:
        return read_snapshot(store, key, manifest.snapshot.descriptor_sha256)
    except ObjectNotFoundError:
        raise LandingGoneError(store.location(key), manifest.business_date) from None


def _documents(store: ObjectStore, document_format: DocumentFormat, manifest: Manifest) -> pl.DataFrame | None:
    # The movements as the delivered pages have them; None if the format carries none.
    parts = []
    for page in manifest.pages:
        with delivered_page(store, page) as path:
            frames = document_format.read(path)
        if "movement_transactions" in frames:
            parts.append(frames["movement_transactions"].select(*_KEY, *_CARRIED, *_references(document_format)))
    return pl.concat(parts) if parts else None


def _as_delivered(frames: Mapping[str, pl.DataFrame], documents: pl.DataFrame | None) -> dict[str, pl.DataFrame]:
    delivered = dict(frames)
    if documents is not None and "movement_transactions" in delivered:
        references = [name for name in documents.columns if name in REFERENCES]
        movements = delivered["movement_transactions"].drop(references)
        delivered["movement_transactions"] = movements.join(documents.select(*_KEY, *references), on=_KEY, how="inner")
    return delivered


def _references(document_format: DocumentFormat) -> list[str]:
    # Those that the documents state.
    stated = {source for column in document_format.columns for source in column.filled_by}
    return [name for name in REFERENCES if ("movement_transactions", name) in stated]


def _require_equal(
    store: ObjectStore, manifest: Manifest, staged: StagedLedger, documents: pl.DataFrame | None
) -> None:
    # Every movement of the document is in the ledger, with the document's figures, and no other is.
    if documents is None:
        return
    files = LedgerFiles(files=tuple(file for file in staged.files if file.kind == "records"))
    rows = read_kind(store, staged.prefix, files, "records", [*_KEY, *_CARRIED])
    moved = pl.when(~pl.col("transaction_id").str.starts_with(_INCOME)).then(pl.col("units")).alias("units")
    expected = documents.with_columns(moved).cast(dict(rows.schema)).sort(_KEY)  # type: ignore[arg-type]
    if not rows.sort(_KEY).equals(expected.select(rows.columns)):
        key = manifest_key(manifest.feed, manifest.business_date, manifest.revision)
        raise DamagedRecordError(store.location(key), "its documents differ from its landed snapshot")


@dataclass(frozen=True, slots=True)
class PositionAudit:
    """Audit of one date's positions against the records of all dates up to it."""

    business_date: dt.date
    positions: int
    wrong: tuple[tuple[str, str, int, Decimal, Decimal], ...]  # number, kind, key, stored, from records


def audit_positions(
    store: ObjectStore, feed: str, audience: RecipientSchedule, *, sample: int | None = None
) -> Iterator[PositionAudit]:
    """Add up every record from the first date on and compare each date's positions with the sums.

    With ``sample``, only so many portfolios of the newest date, chosen by their keys and the date, and only the newest
    dates' positions. Its memory and seconds are those of the sample; it still reads each date's records once.
    """
    chosen = None if sample is None else _sample(store, feed, sample)
    days = delivered_dates(store, feed)
    compared = days if sample is None else days[-AUDITED_DATES:]
    entries = cache(partial(chain_entry, store, feed))  # each date needs the entries after it
    positions = POSITIONS.empty()
    for day in days:
        sent = dataclasses.replace(sent_date(store, feed, day), portfolios=chosen)
        if not sent.has_positions:
            continue
        positions = roll_date(positions, sent, day, sums_only=True)
        if day not in compared:
            continue
        if chosen is None:
            stored = positions_at(store, feed, audience, day, entries=entries)
        else:  # after a re-issue of an earlier date nothing rests on what the date stored
            stored = sent.frame("positions") if reissued_since(store, feed, sent, entries=entries) is None else None
        if stored is not None:
            yield _compared(day, stored, positions)


def _sample(store: ObjectStore, feed: str, count: int) -> pl.Series:
    for day in reversed(delivered_dates(store, feed)):
        sent = sent_date(store, feed, day)
        if sent.ledgers:
            ids = sent.frame("portfolios", ["portfolio_id"])["portfolio_id"]
            # The date alone determines the sample.
            return ids.sort().sample(min(count, len(ids)), seed=day.toordinal())
    return pl.Series(dtype=pl.Int64())


def _compared(day: dt.date, stored: pl.DataFrame, actual: pl.DataFrame) -> PositionAudit:
    key = ["portfolio_id", "portfolio_number", "kind", "key_id", "counts_on"]
    zero = pl.lit(Decimal(0))
    both = stored.select(*key, "sent").join(
        actual.select(*key, pl.col("sent").alias("_sent")), on=key, how="full", coalesce=True, nulls_equal=True
    )
    rows = both.with_columns(pl.col("sent").fill_null(zero), pl.col("_sent").fill_null(zero))
    wrong = rows.filter(pl.col("sent") != pl.col("_sent")).sort(key)
    entries = wrong.select("portfolio_number", "kind", "key_id", "sent", "_sent").rows()
    return PositionAudit(day, stored.height, tuple(entries))
