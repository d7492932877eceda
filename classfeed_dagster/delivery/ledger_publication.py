"""Publishing a delivery's ledger: its staged parts, its positions and its identities, before the manifest.

Every file is created conditionally under the revision's prefix. The manifest names them by hash: files of an attempt
that never got its manifest count for nothing.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from classfeed_dagster.delivery.manifest import ChainEntry
from classfeed_dagster.delivery.sent import PositionsOf, identities_before, open_positions_at
from classfeed_dagster.errors import DamagedRecordError, StaleBuildError
from classfeed_dagster.ledger.files import (
    CASH_POSITION,
    FRAMES,
    Kind,
    LedgerFile,
    LedgerFiles,
    StagedLedger,
    ledger_prefix,
    open_rows,
    read_kind,
)
from classfeed_dagster.ledger.identities import identities_of, merge_identities
from classfeed_dagster.ledger.positions import roll_forward
from classfeed_dagster.ledger.writing import arrow, stage_file
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

_PORTFOLIOS = 600  # whose positions are in memory at a time
_SENT: tuple[Kind, Kind] = ("records", "stated")
_ORDER: tuple[Kind, ...] = ("records", "positions", "portfolios", "identities")


def publish_ledger(
    store: ObjectStore, entry: ChainEntry, position: int, staged: StagedLedger, audience: RecipientSchedule
) -> LedgerFiles | None:
    """Create the ledger files of the delivery at a place of the chain; None if another attempt created them.

    Positions are omitted while an earlier date has no ledger. StaleBuildError if a staged file is missing.
    """
    feed, day = entry.feed, entry.business_date
    prefix = ledger_prefix(feed, day, entry.revision)
    earlier = identities_before(store, feed, position)
    identities = FRAMES["identities"].empty() if earlier is None else earlier
    files: list[LedgerFile] = []
    try:
        with (
            open_positions_at(store, feed, audience, audience.previous(day), position) as previous,
            tempfile.TemporaryDirectory(prefix="classfeed-ledger-") as name,
        ):
            folder = Path(name)
            for part in sorted({file.part for file in staged.files}):
                with _open_staged(store, staged, part) as rows:
                    files += [
                        _copy(store, staged, prefix, file) for file in staged.parts(part, ("records", "portfolios"))
                    ]
                    if previous is not None:
                        positions = positions_of(previous, rows, day)
                        files.append(_create(store, folder, prefix, "positions", part, positions))
                    now = identities_of(rows.portfolios, rows.accounts, day)
                identities = merge_identities(identities, now)
            files.append(_create(store, folder, prefix, "identities", 0, [identities]))
    except DamagedRecordError as error:
        if error.location.startswith(store.location(prefix.rstrip("/")) + "/"):
            return None
        raise
    return LedgerFiles(files=in_order(files))


@dataclass(frozen=True, slots=True)
class StagedRows:
    """One part of a staged ledger. ``records`` and ``stated`` return the rows of some portfolio numbers."""

    portfolios: pl.DataFrame
    accounts: pl.DataFrame  # stated cash balances
    records: Callable[[pl.Series], pl.DataFrame]
    stated: Callable[[pl.Series], pl.DataFrame]


def positions_of(
    previous: PositionsOf, rows: StagedRows, day: dt.date, at_a_time: int = _PORTFOLIOS
) -> Iterator[pl.DataFrame]:
    """Yield the positions of one part of a delivery, of so many portfolios ``at_a_time``: it bounds memory."""
    ordered = rows.portfolios.sort("portfolio_number")
    for start in range(0, ordered.height, at_a_time):
        some = ordered[start : start + at_a_time]
        carrying = some.filter(pl.col("change") != "REMOVED")["portfolio_id"]
        full = some.filter(pl.col("extract") == "FULL")["portfolio_id"]
        numbers = some["portfolio_number"]
        yield roll_forward(previous(carrying), rows.records(numbers), rows.stated(numbers), full, day)


def in_order(files: Iterable[LedgerFile]) -> tuple[LedgerFile, ...]:
    """Return the parts by kind and number."""
    return tuple(sorted(files, key=lambda file: (_ORDER.index(file.kind), file.part)))


@contextmanager
def _open_staged(store: ObjectStore, staged: StagedLedger, part: int) -> Iterator[StagedRows]:
    with ExitStack() as stack:
        try:
            records, stated = (
                stack.enter_context(open_rows(store, staged.prefix, staged.parts(part, (kind,)), kind))
                for kind in _SENT
            )
            portfolios = LedgerFiles(files=staged.parts(part, ("portfolios",)))
            rows = StagedRows(
                read_kind(store, staged.prefix, portfolios, "portfolios"),
                stated("kind", pl.Series([CASH_POSITION])),
                partial(records, "portfolio_number"),
                partial(stated, "portfolio_number"),
            )
        except DamagedRecordError as error:
            raise StaleBuildError(
                f"{error.location}: a staged ledger file is missing or changed. Build again."
            ) from None
        yield rows


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
