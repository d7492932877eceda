"""Landed tables: Parquet files whose row group k holds slice k's portfolios, written and read back in slices.

``LandedSlices`` is how every later step reads a snapshot: one slice in memory at a time, files verified first.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from classfeed_dagster.bigsite.queries import REFERENCES, SCHEMAS
from classfeed_dagster.store import ObjectStore

WHOLE = frozenset(query.table for query in REFERENCES)


class DamagedFileError(RuntimeError):
    """A stored file is not what its descriptor says: it was changed or cut short after it was written."""


class StoredTable(BaseModel, frozen=True):
    """A Parquet file in the object store, and what it must be."""

    key: str
    sha256: str
    rows: int
    bytes: int


class RowGroups:
    """Writes one Parquet file, one row group a slice; a slice without rows has an empty row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", store_decimal_as_integer=False)

    def write(self, table: pa.Table) -> None:
        """Append ``table`` as the next row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def stored(self, key: str) -> StoredTable:
        """The closed file's description, once it is stored under ``key``."""
        return StoredTable(key=key, sha256=sha256_of(self.path), rows=self.rows, bytes=self.path.stat().st_size)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_slices(
    target: RowGroups,
    batches: Iterable[pa.RecordBatch],
    slice_size: int,
    slice_count: int,
    watch: Callable[[pa.RecordBatch], None] = lambda batch: None,
) -> None:
    """Write batches that are ordered by their first column, ``position`` (from 0), as row groups of slices.

    ``watch`` sees every batch. One slice's rows are in memory at a time.
    """
    pending: list[pa.RecordBatch] = []
    current = 0

    def close_slice() -> None:
        nonlocal current
        target.write(pa.Table.from_batches(pending, schema=target.schema))
        pending.clear()
        current += 1

    for batch in batches:
        watch(batch)
        if not batch.num_rows:
            continue  # nobody consents
        slices = batch.column(0).to_numpy(zero_copy_only=False) // slice_size
        rows = batch.drop_columns(["position"])
        bounds = [0, *(np.flatnonzero(np.diff(slices)) + 1).tolist(), len(slices)]
        for start, end in itertools.pairwise(bounds):
            while current < slices[start]:
                close_slice()
            pending.append(rows.slice(start, end - start))
    while current < slice_count:
        close_slice()


class SlicedFiles:
    """Stored Parquet files open together: row group k of each, as Polars frames. Use as a context manager."""

    def __init__(self, store: ObjectStore, tables: dict[str, StoredTable], whole: Sequence[str] = ()) -> None:
        self._store = store
        self._tables = tables
        self._whole = frozenset(whole)
        self._stack = contextlib.ExitStack()
        self._files: dict[str, pq.ParquetFile] = {}
        self._references: dict[str, pl.DataFrame] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:  # closes what was opened, should one of the files be damaged
            for name, table in self._tables.items():
                path = opened.enter_context(self._store.local_file(table.key))
                if sha256_of(path) != table.sha256:
                    raise DamagedFileError(
                        f"{self._store.location(table.key)} is not the file that was written: its SHA-256 differs. "
                        "Take a fresh snapshot and build again."
                    )
                self._files[name] = opened.enter_context(pq.ParquetFile(path))
            self._references = {name: _polars(self._files[name].read()) for name in self._whole}
            self._stack = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return max((file.num_row_groups for name, file in self._files.items() if name not in self._whole), default=0)

    def slice(self, number: int) -> dict[str, pl.DataFrame]:
        """Slice ``number`` (from 0) of every sliced table, and the reference tables whole, by table name."""
        return {
            name: self._references[name] if name in self._whole else _polars(file.read_row_group(number))
            for name, file in self._files.items()
        }

    def __iter__(self) -> Iterator[dict[str, pl.DataFrame]]:
        for number in range(len(self)):
            yield self.slice(number)


def first_rows(store: ObjectStore, table: StoredTable, count: int = 8, largest: int = 1 << 24) -> pl.DataFrame | None:
    """The first rows of a stored file, to show to people; None if it is larger than ``largest`` bytes.

    A large file would have to be fetched whole from S3 for a few rows.
    """
    if table.bytes > largest:
        return None
    with store.local_file(table.key) as path, pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=count), None)
        return _polars(file.schema_arrow.empty_table() if batch is None else pa.Table.from_batches([batch]))


def _polars(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  # a table makes a frame, never a series
    return frame


def empty_tables() -> dict[str, pl.DataFrame]:
    """Every landed table without rows: what a snapshot of nobody looks like."""
    return {name: _polars(schema.empty_table()) for name, schema in SCHEMAS.items()}
