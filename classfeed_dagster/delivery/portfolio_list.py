"""The list of a delivery's portfolios: a columnar file that its manifest names by hash, read in parts.

The manifest does not grow with the number of portfolios. Manifests of earlier releases hold the list themselves.
"""

from __future__ import annotations

import datetime as dt
import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from pydantic import ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, delivered_prefix, file_facts

Change = Literal["NEW", "CURRENT", "REMOVED"]
Extract = Literal["FULL", "DELTA", "NONE"]

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "portfolios.parquet"  # next to the manifest
# Rows that are written and read at a time: a row read is ten times the size of a row written.
_ROW_GROUP, _BATCH = 10_000, 1_000


# A dataclass with slots takes a quarter of a model's memory; a delivery may list some hundred thousand.
@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", hide_input_in_errors=True))
class PortfolioRecord:
    """One portfolio in the delivery."""

    number: str = Field(description="the portfolio's number")
    change: Change = Field(description="change of its consent since the previous business date")
    extract: Extract = Field(description="FULL history, DELTA of the window, or NONE")
    digest: Sha256 = Field(description="SHA-256 of its content; equal content is never sent twice for a date")
    bytes: NonNegativeInt = Field(description="size of its records; 0 if the document has none")
    consent_ids: tuple[int, ...] = Field(description="the consents under which its data is disclosed, ascending")
    page: str = Field(description="message id of the page it is on")


_RECORDS: TypeAdapter[list[PortfolioRecord]] = TypeAdapter(list[PortfolioRecord])


class PortfolioList(StoredRecord):
    """The file that lists a delivery's portfolios: one row each, with the columns of a portfolio's record."""

    key: str = Field(description="its key in the store")
    sha256: Sha256 = Field(description="SHA-256 of its bytes")
    bytes: NonNegativeInt = Field(description="size of the file")
    rows: NonNegativeInt = Field(description="number of portfolios")


class ListedPortfolios(Sequence[PortfolioRecord]):
    """The portfolios of a delivery, read from their file whenever they are iterated. Their number is known without it.

    Iterating raises DamagedRecordError if the file is missing or another one.
    """

    def __init__(self, file: PortfolioList, read: Callable[[], Iterable[PortfolioRecord]]) -> None:
        self.file = file
        self._read = read

    def __len__(self) -> int:
        return self.file.rows

    def __iter__(self) -> Iterator[PortfolioRecord]:
        return iter(self._read())

    @overload
    def __getitem__(self, at: int) -> PortfolioRecord: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[PortfolioRecord]: ...
    def __getitem__(self, at: int | slice) -> PortfolioRecord | Sequence[PortfolioRecord]:
        return tuple(self)[at]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ListedPortfolios) and self.file == other.file:
            return True
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(self.file.sha256)


def stored_portfolios(store: ObjectStore, file: PortfolioList) -> ListedPortfolios:
    """Return the portfolios that a file in ``store`` lists."""
    return ListedPortfolios(file, lambda: _rows(store, file))


def _rows(store: ObjectStore, file: PortfolioList) -> Iterator[PortfolioRecord]:
    location = store.location(file.key)
    try:
        with store.local_file(file.key) as path:
            if file_facts(path) != (file.bytes, file.sha256):
                raise DamagedRecordError(location, "it is not the list of portfolios that the manifest names")
            yield from _read_rows(path, location)
    except ObjectNotFoundError:
        raise DamagedRecordError(location, "the list of portfolios that a manifest names is missing") from None


def _read_rows(path: Path, location: str) -> Iterator[PortfolioRecord]:
    import polars as pl
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from _RECORDS.validate_python(pl.DataFrame(batch).to_dicts())
    except (ArrowException, ValidationError):
        raise DamagedRecordError(location, "it is no list of portfolios") from None


def publish_portfolios(
    store: ObjectStore, feed: str, day: dt.date, revision: int, portfolios: Sequence[PortfolioRecord]
) -> PortfolioList | None:
    """Store the list of a revision's portfolios, and read it back.

    Return None if another attempt stored another list, or closed the revision. DamagedRecordError if the list read
    back is not the one written.
    """
    key = f"{delivered_prefix(feed, day, revision)}{FILE_NAME}"
    with tempfile.TemporaryDirectory(prefix="classfeed-list-") as folder:
        path = Path(folder) / FILE_NAME
        _write(path, portfolios)
        own, created = file_facts(path), store.create(key, path)
    try:
        with store.local_file(key) as stored:
            size, digest = file_facts(stored)
            if created and (size, digest) != own:
                raise DamagedRecordError(store.location(key), "the list read back differs from the one written")
            # Another release may have written the same rows in other bytes.
            same = (size, digest) == own or _has_rows(stored, portfolios)
    except ObjectNotFoundError:
        return None
    return PortfolioList(key=key, sha256=digest, bytes=size, rows=len(portfolios)) if same else None


def _has_rows(path: Path, portfolios: Sequence[PortfolioRecord]) -> bool:
    try:
        return all(starmap(operator.eq, zip_longest(_read_rows(path, str(path)), portfolios)))
    except DamagedRecordError:
        return False


def _write(path: Path, portfolios: Sequence[PortfolioRecord]) -> None:
    import polars as pl
    import pyarrow.parquet as pq

    schema = {
        "number": pl.String(),
        "change": pl.String(),
        "extract": pl.String(),
        "digest": pl.String(),
        "bytes": pl.Int64(),
        "consent_ids": pl.List(pl.Int64()),
        "page": pl.String(),
    }

    def table(some: Sequence[PortfolioRecord]) -> pa.Table:
        columns = {name: [getattr(portfolio, name) for portfolio in some] for name in schema}
        return pl.DataFrame(columns, schema).to_arrow(compat_level=pl.CompatLevel.oldest())

    with pq.ParquetWriter(path, table(()).schema, compression="zstd", write_statistics=False) as target:
        for start in range(0, len(portfolios), _ROW_GROUP):
            target.write_table(table(portfolios[start : start + _ROW_GROUP]))
