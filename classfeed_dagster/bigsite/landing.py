"""Stored tables: Parquet files whose row groups are slices of portfolios.

A large table has several files, one a shard, each with the same number of slices. A worker opens its shard's file
only. Later steps read through ``SlicedFiles``: verified files, one slice in memory at a time.
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
from classfeed_dagster.stored_records import sha256_of

WHOLE = frozenset(query.table for query in REFERENCES)


class DamagedFileError(DataError):
    """A stored file differs from its descriptor: it was changed or truncated after it was written."""


class StoredFile(BaseModel, frozen=True):
    """A Parquet file in the object store with its size and digest."""

    key: str
    sha256: str
    rows: int
    bytes: int


class StoredTable(BaseModel, frozen=True):
    """A table in the object store: one file, or one a shard. Each holds ``shard_slices``, the last one maybe fewer."""

    files: tuple[StoredFile, ...]
    shard_slices: int | None = None  # None: all in one file

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, data: Any) -> Any:
        # Records from before tables had several files.
        return {"files": [data]} if isinstance(data, dict) and "key" in data else data

    @property
    def rows(self) -> int:
        """Return the number of rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
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
        """Return the files that hold any of these consecutive slices, by the number of each file's first slice."""
        size = self.shard_slices
        if size is None:
            return {0: self.files[0]}
        return {
            at * size: file
            for at, file in enumerate(self.files)
            if at * size < slices.stop and slices.start < (at + 1) * size
        }


class RowGroups:
    """Parquet writer with one row group a slice; a slice without rows has an empty row group.

    With ``shard_slices``, a new file begins after that many row groups. ``searched_by`` names the column by which
    readers choose row groups; without it they read them whole.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, shard_slices: int | None = None, searched_by: str | None = None
    ) -> None:
        self.schema = schema
        self._statistics = [searched_by] if searched_by else False
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
        # zstd is faster and smaller without dictionaries.
        return pq.ParquetWriter(
            self.paths[-1],
            self.schema,
            compression="zstd",
            use_dictionary=False,
            write_statistics=self._statistics,
            store_decimal_as_integer=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def store(self, store: ObjectStore, key: Callable[[int, str], str]) -> StoredTable:
        """Store the closed files; ``key`` returns a file's key from its number (from 0) and its SHA-256.

        An existing key is not written again: equal keys must mean equal content.
        """
        files: list[StoredFile] = []
        for at, (path, rows) in enumerate(zip(self.paths, self._rows, strict=True)):
            digest = sha256_of(path)
            file = StoredFile(key=key(at, digest), sha256=digest, rows=rows, bytes=path.stat().st_size)
            store.create(file.key, path)
            files.append(file)
        return StoredTable(files=tuple(files), shard_slices=self._shard_slices)


def numbered(name: str, at: int) -> str:
    """Return the name of a table's file ``at``; the first one has no suffix."""
    return f"{name}-{at:04d}" if at else name


def write_slices(
    target: RowGroups,
    batches: Iterable[pa.RecordBatch],
    slice_ends: Sequence[int],
    watch: Callable[[pa.RecordBatch], None] = lambda batch: None,
) -> None:
    """Write batches that are ordered by their first column, ``position`` (from 0), as row groups of slices.

    ``slice_ends`` are the ascending positions at which slices end (exclusive). ``watch`` receives every batch. One
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
            continue  # no consented portfolio
        slices = np.searchsorted(slice_ends, np.from_dlpack(batch.column(0)), side="right")
        rows = batch.drop_columns(["position"])
        bounds = [0, *(np.flatnonzero(np.diff(slices)) + 1).tolist(), len(slices)]
        for start, end in itertools.pairwise(bounds):
            while current < slices[start]:
                close_slice()
            pending.append(rows.slice(start, end - start))
    while current < len(slice_ends):
        close_slice()


class SlicedFiles:
    """Stored tables opened together, read as Polars frames by slice number. Use as a context manager.

    Only the shards that contain ``slices`` are opened. None: all.
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
        with contextlib.ExitStack() as opened:  # closes the opened files if a later one is damaged
            for name, table in self._tables.items():
                files = self._opened(table, opened)
                if name in self._whole:
                    self._references[name] = _polars(files[0][1].read())
                else:
                    self._files[name] = files
            self._stack = opened.pop_all()
        if self._slices is None:
            self._slices = range(max((files[-1][0].stop for files in self._files.values()), default=0))
        return self

    def _opened(self, table: StoredTable, opened: contextlib.ExitStack) -> list[tuple[range, pq.ParquetFile]]:
        # The table's requested files, each with its range of slices.
        slices = range(sys.maxsize) if self._slices is None else self._slices
        files = {first: self._verified(stored, opened) for first, stored in table.files_of(slices).items()}
        return [(range(first, first + file.num_row_groups), file) for first, file in files.items()]

    def _verified(self, stored: StoredFile, opened: contextlib.ExitStack) -> pq.ParquetFile:
        path = opened.enter_context(verified_file(self._store, stored))
        return opened.enter_context(pq.ParquetFile(path))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def slices(self) -> range:
        """Return the numbers of the open slices."""
        return self._slices or range(0)

    def slice(self, number: int) -> dict[str, pl.DataFrame]:
        """Return slice ``number`` (from 0) of every sliced table, and the reference tables whole, by table name."""
        return {
            name: self._references[name] if name in self._whole else self._read(name, number) for name in self._tables
        }

    def _read(self, name: str, number: int) -> pl.DataFrame:
        numbers, file = next((numbers, file) for numbers, file in self._files[name] if number in numbers)
        # Passing some thousand small columns to threads costs more than decoding them.
        return _polars(file.read_row_group(number - numbers.start, use_threads=False))

    def __iter__(self) -> Iterator[dict[str, pl.DataFrame]]:
        for number in self.slices:
            yield self.slice(number)


@contextlib.contextmanager
def verified_file(store: ObjectStore, stored: StoredFile) -> Iterator[Path]:
    """Yield the local path of a stored file; raise DamagedFileError if its bytes are not those that were written."""
    with store.local_file(stored.key) as path:
        if sha256_of(path) != stored.sha256:
            raise DamagedFileError(
                f"{store.location(stored.key)} was changed after it was written: its SHA-256 differs. "
                "Take a fresh snapshot and build again."
            )
        yield path


def first_rows(store: ObjectStore, table: StoredTable) -> pl.DataFrame | None:
    """Return the first eight rows of a stored file for display; None if it is larger than 16 MiB.

    S3 would have to transfer a large file whole for a few rows.
    """
    if table.files[0].bytes > 1 << 24:
        return None
    with store.local_file(table.files[0].key) as path, pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=8), None)
        return _polars(pa.Table.from_batches([] if batch is None else [batch], schema=file.schema_arrow))


def _polars(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  # a table becomes a frame, never a series
    return frame


def empty_tables() -> dict[str, pl.DataFrame]:
    """Return every landed table without rows, as in a snapshot without consented portfolios."""
    return {name: _polars(pa.Table.from_batches([], schema=schema)) for name, schema in SCHEMAS.items()}
