"""Writing a delivery's ledger: the included portfolios' rows, slice by slice, in parts determined by the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from classfeed_dagster.bigsite.landing import RowGroups
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, MOVEMENT_TRANSACTIONS
from classfeed_dagster.domains.ledger_rows import (
    LEDGER_BALANCES,
    LEDGER_HOLDINGS,
    LEDGER_RECORDS,
    REFERENCES,
    carried_ledgers,
)
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import FRAMES, PORTFOLIOS, RECORDS, Kind, LedgerFile, stated_rows
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import sha256_of

STAGED: tuple[Kind, ...] = ("records", "stated", "portfolios")
LEDGER_INPUT = frozenset(
    {
        CONSENTED_PORTFOLIOS.name,
        MOVEMENT_TRANSACTIONS.name,
        LEDGER_RECORDS.name,
        LEDGER_BALANCES.name,
        LEDGER_HOLDINGS.name,
    }
)  # frames of a slice that the ledger is made of


def arrow(frame: pl.DataFrame) -> pa.Table:
    """Return ``frame`` as Arrow with plain strings, so that equal frames make equal files."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def has_ledger_rows(frames: Mapping[str, pl.DataFrame]) -> bool:
    """Return True if a slice carries the ledger's input: domains of an older release don't."""
    return CONSENTED_PORTFOLIOS.name in frames and (
        LEDGER_RECORDS.name in frames or MOVEMENT_TRANSACTIONS.name not in frames
    )


def carried_records(frames: Mapping[str, pl.DataFrame], ledgers: frozenset[str]) -> pl.DataFrame:
    """Return the ledger's records of a slice: the rows that the document carries, with its references."""
    if LEDGER_RECORDS.name not in frames:
        return RECORDS.empty()
    key = ("portfolio_number", "transaction_id")
    carried = frames[MOVEMENT_TRANSACTIONS.name].select(*key, *REFERENCES).unique(key)
    rows = frames[LEDGER_RECORDS.name].drop(*REFERENCES).join(carried, on=key, how="inner")
    return RECORDS.conform(rows.filter(pl.col("ledger").is_in(sorted(carried_ledgers(ledgers)))))


class PartWriter:
    """Collects the ledger rows of one part, a row group a slice. Use in a ``with`` block, then ``stage``."""

    def __init__(self, folder: Path, part: int, ledgers: frozenset[str]) -> None:
        self.part = part
        self._ledgers = ledgers
        self._files: dict[Kind, RowGroups] = {
            kind: RowGroups(
                folder / f"{kind}-{part:04d}.parquet",
                arrow(FRAMES[kind].empty()).schema,
                searched_by="portfolio_number",
            )
            for kind in STAGED
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.__exit__(kind, error, trace)

    def add(self, frames: Mapping[str, pl.DataFrame], digests: Mapping[str, str]) -> None:
        """Append one slice: the rows of the portfolios in ``digests``, which are delivered with that content."""
        delivered = pl.DataFrame(
            {"portfolio_number": list(digests), "digest": list(digests.values())},
            schema={"portfolio_number": pl.String(), "digest": pl.String()},
        )

        def of_delivered(frame: pl.DataFrame) -> pl.DataFrame:
            return frame.join(delivered.select("portfolio_number"), on="portfolio_number", how="semi")

        def optional(name: str) -> pl.DataFrame | None:
            return of_delivered(frames[name]) if name in frames else None

        rows: dict[Kind, pl.DataFrame] = {
            "records": of_delivered(carried_records(frames, self._ledgers)),
            "stated": stated_rows(optional(LEDGER_BALANCES.name), optional(LEDGER_HOLDINGS.name)),
            "portfolios": PORTFOLIOS.conform(
                frames[CONSENTED_PORTFOLIOS.name].join(delivered, on="portfolio_number", how="inner")
            ),
        }
        for kind, file in self._files.items():
            file.write(arrow(rows[kind]))

    def stage(self, store: ObjectStore, prefix: str) -> list[LedgerFile]:
        """Store the closed files below ``prefix``; the ones of an earlier attempt, if it wrote the same rows."""
        return [stage_file(store, prefix, kind, self.part, file.paths[0]) for kind, file in self._files.items()]


def stage_file(store: ObjectStore, prefix: str, kind: Kind, part: int, path: Path) -> LedgerFile:
    """Store one file; if its key is taken by the same rows in other bytes, take that file."""
    rows = pq.read_metadata(path).num_rows
    file = LedgerFile(kind=kind, part=part, sha256=sha256_of(path), bytes=path.stat().st_size, rows=rows)
    key = prefix + file.name
    if store.create(key, path):
        return file
    with store.local_file(key) as before:
        if sha256_of(before) == file.sha256:
            return file
        try:
            same = _rows(before, kind).equals(_rows(path, kind))
        except (pl.exceptions.PolarsError, OSError):
            same = False
        if not same:
            raise DamagedRecordError(store.location(key), "the staged ledger file isn't that of its build")
        return file.model_copy(update={"sha256": sha256_of(before), "bytes": before.stat().st_size})


def _rows(path: Path, kind: Kind) -> pl.DataFrame:
    return FRAMES[kind].conform(pl.read_parquet(path, glob=False))


def part_of(number: str, last_of_parts: Sequence[str]) -> int:
    """Return the part of a portfolio number: the first whose last number is not below it."""
    for part, last in enumerate(last_of_parts):
        if number <= last:
            return part
    return max(len(last_of_parts) - 1, 0)
