"""Stored tables: Parquet files whose row groups are slices of portfolios, written and read back slice by slice.

A large table is several files, one a shard: so many slices each. Whoever works on one shard opens no other's file.
``SlicedFiles`` is how every later step reads: one slice in memory at a time, files verified first.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, model_validator

from classfeed_dagster.bigsite.queries import REFERENCES, SCHEMAS
from classfeed_dagster.errors import DataError
from classfeed_dagster.store import ObjectStore

WHOLE = frozenset(query.table for query in REFERENCES)


class DamagedFileError(DataError):
    """A stored file is not what its descriptor says: it was changed or cut short after it was written."""


class StoredFile(BaseModel, frozen=True):
    """A Parquet file in the object store, and what it must be."""

    key: str
    sha256: str
    rows: int
    bytes: int


class StoredTable(BaseModel, frozen=True):
    """A table in the object store: one file, or one a shard. ``shard_slices`` are in each, the last may have fewer."""

    files: tuple[StoredFile, ...]
    shard_slices: int | None = None  # None: all in one file

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, data: Any) -> Any:
        # How a table was recorded before it could be several files.
        return {"files": [data]} if isinstance(data, dict) and "key" in data else data

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def key(self) -> str:
        """Return the key of the first file, for display."""
        return self.files[0].key

    @property
    def sha256(self) -> str:
        """Return the content's digest: the SHA-256 of one file, or of several files' digests together."""
        if len(self.files) == 1:
            return self.files[0].sha256
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def files_of(self, slices: range) -> dict[int, StoredFile]:
        """The files that hold any of some consecutive slices, by the number of the first slice in each."""
        size = self.shard_slices
        if size is None:
            return {0: self.files[0]}
        return {
            at * size: file
            for at, file in enumerate(self.files)
            if at * size < slices.stop and slices.start < (at + 1) * size
        }


class RowGroups:
    """Writes Parquet, one row group a slice; a slice without rows has an empty row group.

    With ``shard_slices``, a further file begins after so many row groups.
    """

    def __init__(self, path: Path, schema: pa.Schema, shard_slices: int | None = None) -> None:
        self.schema = schema
        self.paths: list[Path] = []
        self._first = path
        self._shard_slices = shard_slices
        self._rows: list[int] = []
        self._groups = 0
        self._writer = self._next_file()

    def write(self, table: pa.Table) -> None:
        """Append ``table`` as the next row group."""
        if self._shard_slices is not None and self._groups == self._shard_slices:
            self._writer.close()
            self._writer = self._next_file()
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._rows[-1] += table.num_rows
        self._groups += 1

    def _next_file(self) -> pq.ParquetWriter:
        self.paths.append(self._first.with_stem(numbered(self._first.stem, len(self.paths))))
        self._rows.append(0)
        self._groups = 0
        return pq.ParquetWriter(self.paths[-1], self.schema, compression="zstd", store_decimal_as_integer=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def store(self, store: ObjectStore, key: Callable[[int, str], str]) -> StoredTable:
        """Store the closed files; ``key`` gives each its own, from its number (from 0) and its SHA-256.

        A file whose key is there already is not stored again: equal keys must mean equal content.
        """
        files: list[StoredFile] = []
        for at, (path, rows) in enumerate(zip(self.paths, self._rows, strict=True)):
            digest = sha256_of(path)
            file = StoredFile(key=key(at, digest), sha256=digest, rows=rows, bytes=path.stat().st_size)
            store.create(file.key, path)
            files.append(file)
        return StoredTable(files=tuple(files), shard_slices=self._shard_slices)


def numbered(name: str, at: int) -> str:
    """The name of file ``at`` of a table: the first one's is plain."""
    return f"{name}-{at:04d}" if at else name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_slices(
    target: RowGroups,
    batches: Iterable[pa.RecordBatch],
    slice_ends: Sequence[int],
    watch: Callable[[pa.RecordBatch], None] = lambda batch: None,
) -> None:
    """Write batches that are ordered by their first column, ``position`` (from 0), as row groups of slices.

    ``slice_ends`` are the positions, ascending, that are not in a slice any more. ``watch`` sees every batch. One
    slice's rows are in memory at a time.
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
        slices = np.searchsorted(slice_ends, batch.column(0).to_numpy(zero_copy_only=False), side="right")
        rows = batch.drop_columns(["position"])
        bounds = [0, *(np.flatnonzero(np.diff(slices)) + 1).tolist(), len(slices)]
        for start, end in itertools.pairwise(bounds):
            while current < slices[start]:
                close_slice()
            pending.append(rows.slice(start, end - start))
    while current < len(slice_ends):
        close_slice()


class SlicedFiles:
    """Stored tables open together: slice k of each, as Polars frames. Use as a context manager.

    ``slices`` are those that are wanted: no other shard's file is opened. None: all.
    """

    def __init__(
        self,
        store: ObjectStore,
        tables: Mapping[str, StoredTable],
        whole: Sequence[str] = (),
        slices: range | None = None,
    ) -> None:
        self._store = store
        self._tables = tables
        self._whole = frozenset(whole)
        self._slices = slices
        self._stack = contextlib.ExitStack()
        self._files: dict[str, list[tuple[range, pq.ParquetFile]]] = {}
        self._references: dict[str, pl.DataFrame] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:  # closes what was opened, should one of the files be damaged
            for name, table in self._tables.items():
                held = self._opened(table, opened)
                if name in self._whole:
                    self._references[name] = _polars(held[0][1].read())
                else:
                    self._files[name] = held
            self._stack = opened.pop_all()
        if self._slices is None:
            self._slices = range(max((held[-1][0].stop for held in self._files.values()), default=0))
        return self

    def _opened(self, table: StoredTable, opened: contextlib.ExitStack) -> list[tuple[range, pq.ParquetFile]]:
        # The table's files that are wanted, each with the slices that it holds.
        slices = range(sys.maxsize) if self._slices is None else self._slices
        wanted = {first: self._verified(stored, opened) for first, stored in table.files_of(slices).items()}
        return [(range(first, first + file.num_row_groups), file) for first, file in wanted.items()]

    def _verified(self, stored: StoredFile, opened: contextlib.ExitStack) -> pq.ParquetFile:
        path = opened.enter_context(self._store.local_file(stored.key))
        if sha256_of(path) != stored.sha256:
            raise DamagedFileError(
                f"{self._store.location(stored.key)} is not the file that was written: its SHA-256 differs. "
                "Take a fresh snapshot and build again."
            )
        return opened.enter_context(pq.ParquetFile(path))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def slices(self) -> range:
        """The numbers of the slices that are open."""
        return self._slices or range(0)

    def slice(self, number: int) -> dict[str, pl.DataFrame]:
        """Slice ``number`` (from 0) of every sliced table, and the reference tables whole, by table name."""
        return {
            name: self._references[name] if name in self._whole else self._read(name, number) for name in self._tables
        }

    def _read(self, name: str, number: int) -> pl.DataFrame:
        held, file = next((held, file) for held, file in self._files[name] if number in held)
        return _polars(file.read_row_group(number - held.start))

    def __iter__(self) -> Iterator[dict[str, pl.DataFrame]]:
        for number in self.slices:
            yield self.slice(number)


def first_rows(store: ObjectStore, table: StoredTable, count: int = 8, largest: int = 1 << 24) -> pl.DataFrame | None:
    """The first rows of a stored file, to show to people; None if it is larger than ``largest`` bytes.

    A large file would have to be fetched whole from S3 for a few rows.
    """
    if table.files[0].bytes > largest:
        return None
    with store.local_file(table.files[0].key) as path, pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=count), None)
        return _polars(file.schema_arrow.empty_table() if batch is None else pa.Table.from_batches([batch]))


def _polars(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  # a table makes a frame, never a series
    return frame


def empty_tables() -> dict[str, pl.DataFrame]:
    """Every landed table without rows: what a snapshot of nobody looks like."""
    return {name: _polars(schema.empty_table()) for name, schema in SCHEMAS.items()}
