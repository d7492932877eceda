"""Publishing a delivery's ledger: its staged parts, its positions and its identities, before the manifest.

Every file is created conditionally under the revision's prefix. The manifest names them by hash: files of an attempt
that never got its manifest count for nothing.
"""

from __future__ import annotations

import datetime as dt
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from classfeed_dagster.delivery.manifest import ChainEntry
from classfeed_dagster.delivery.sent import identities_before, positions_at
from classfeed_dagster.errors import DamagedRecordError, StaleBuildError
from classfeed_dagster.ledger.files import (
    FRAMES,
    POSITIONS,
    Kind,
    LedgerFile,
    LedgerFiles,
    StagedLedger,
    ledger_prefix,
    read_kind,
)
from classfeed_dagster.ledger.identities import identities_of, merge_identities
from classfeed_dagster.ledger.positions import roll_forward
from classfeed_dagster.ledger.writing import arrow, stage_file
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

_PORTFOLIOS = 600  # whose positions are in memory at a time
_ORDER: tuple[Kind, ...] = ("records", "positions", "portfolios", "identities")


def publish_ledger(
    store: ObjectStore, entry: ChainEntry, position: int, staged: StagedLedger, audience: RecipientSchedule
) -> LedgerFiles | None:
    """Create the ledger files of the delivery at a place of the chain; None if another attempt created them.

    Positions are omitted while an earlier date has no ledger. StaleBuildError if a staged file is missing.
    """
    feed, day = entry.feed, entry.business_date
    prefix = ledger_prefix(feed, day, entry.revision)
    previous = _positions_before(store, feed, audience, day, position)
    earlier = identities_before(store, feed, position)
    identities = FRAMES["identities"].empty() if earlier is None else earlier
    files: list[LedgerFile] = []
    try:
        with tempfile.TemporaryDirectory(prefix="classfeed-ledger-") as name:
            folder = Path(name)
            for part in sorted({file.part for file in staged.files}):
                frames = _staged_frames(store, staged, part)
                files += [_copy(store, staged, prefix, file) for file in staged.parts(part, ("records", "portfolios"))]
                if previous is not None:
                    positions = positions_of(previous, frames, day)
                    files.append(_create(store, folder, prefix, "positions", part, positions))
                identities = merge_identities(identities, identities_of(frames["portfolios"], frames["stated"], day))
            files.append(_create(store, folder, prefix, "identities", 0, [identities]))
    except DamagedRecordError as error:
        if error.location.startswith(store.location(prefix)):
            return None
        raise
    return LedgerFiles(files=in_order(files))


def positions_of(
    previous: pl.DataFrame, frames: Mapping[Kind, pl.DataFrame], day: dt.date, portfolios: int = _PORTFOLIOS
) -> Iterator[pl.DataFrame]:
    """Yield the positions of one part of a delivery in order, of so many ``portfolios`` at a time: it bounds memory."""
    rows = frames["portfolios"]
    carrying = rows.filter(pl.col("change") != "REMOVED")["portfolio_id"]
    full = rows.filter(pl.col("extract") == "FULL")["portfolio_id"]
    last = rows["portfolio_id"].sort().to_list()[portfolios - 1 : -1 : portfolios]
    for after, until in itertools.pairwise([None, *last, None]):

        def among(rows: pl.DataFrame, after: int | None = after, until: int | None = until) -> pl.DataFrame:
            number = pl.col("portfolio_id")
            return rows.filter(
                *([] if after is None else [number > after]), *([] if until is None else [number <= until])
            )

        carried = among(previous).filter(pl.col("portfolio_id").is_in(carrying.implode()))
        yield roll_forward(carried, among(frames["records"]), among(frames["stated"]), full, day)


def in_order(files: Iterable[LedgerFile]) -> tuple[LedgerFile, ...]:
    """Return the parts by kind and number."""
    return tuple(sorted(files, key=lambda file: (_ORDER.index(file.kind), file.part)))


def _positions_before(
    store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date, position: int
) -> pl.DataFrame | None:
    previous = audience.previous(day)
    return (
        POSITIONS.empty()
        if previous is None
        else positions_at(store, feed, audience, previous, position, carried_only=True)
    )


def _staged_frames(store: ObjectStore, staged: StagedLedger, part: int) -> dict[Kind, pl.DataFrame]:
    kinds: tuple[Kind, ...] = ("records", "stated", "portfolios")
    try:
        return {
            kind: read_kind(store, staged.prefix, LedgerFiles(files=staged.parts(part, (kind,))), kind)
            for kind in kinds
        }
    except DamagedRecordError as error:
        raise StaleBuildError(f"{error.location}: a staged ledger file is missing or changed. Build again.") from None


def _copy(store: ObjectStore, staged: StagedLedger, prefix: str, file: LedgerFile) -> LedgerFile:
    try:
        with store.local_file(staged.prefix + file.name) as path:
            return stage_file(store, prefix, file.kind, file.part, path)
    except ObjectNotFoundError as error:
        raise StaleBuildError(f"{error.location}: a staged ledger file is missing. Build again.") from None


def _create(
    store: ObjectStore, folder: Path, prefix: str, kind: Kind, part: int, frames: Iterable[pl.DataFrame]
) -> LedgerFile:
    path = folder / f"{kind}-{part:04d}.parquet"
    schema = arrow(FRAMES[kind].empty()).schema
    with pq.ParquetWriter(path, schema, compression="zstd", store_decimal_as_integer=False) as target:
        for frame in frames:
            target.write_table(arrow(FRAMES[kind].conform(frame)))
    return stage_file(store, prefix, kind, part, path)
