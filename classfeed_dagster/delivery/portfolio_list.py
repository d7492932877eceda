"""The list of a delivery's portfolios: a columnar file that its build and its manifest name by hash, read in parts.

Neither record grows with the number of portfolios. Those of earlier releases hold the list themselves.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import starmap, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, overload

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import Sha256, StoredRecord, delivered_prefix, file_facts, is_none

Change = Literal["NEW", "CURRENT", "REMOVED"]
Extract = Literal["FULL", "DELTA", "NONE"]

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE_NAME = "portfolios.parquet"  # next to the record that names it
# Rows that are written and read at a time: a row read is ten times the size of a row written.
_ROW_GROUP, _BATCH = 10_000, 1_000


# A dataclass with slots takes a quarter of a model's memory; a delivery may list some hundred thousand.
@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", hide_input_in_errors=True))
class PortfolioRecord:
    """One portfolio in the delivery."""

    number: str = Field(description="the portfolio's number")
    change: Change = Field(description="change of its consent since the previous business date")
    extract: Extract = Field(description="FULL history, DELTA of the window, or NONE")
    digest: Sha256 = Field(
        description="SHA-256 of its content, never sent twice for a date; a refresh that repeats content has its own"
    )
    bytes: NonNegativeInt = Field(description="size of its records; 0 if the document has none")
    consent_ids: tuple[int, ...] = Field(description="the consents under which its data is disclosed, ascending")
    page: str = Field(description="message id of the page it is on")


_RECORD: TypeAdapter[PortfolioRecord] = TypeAdapter(PortfolioRecord)
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
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        same_file = isinstance(other, ListedPortfolios) and self.file.sha256 == other.file.sha256
        return same_file or all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(self.file.sha256)


def _is_listed(value: object) -> bool:
    return isinstance(value, ListedPortfolios)


class ListsPortfolios(StoredRecord):
    """A record that lists the portfolios of a delivery: in a file, or itself if an earlier release wrote it."""

    schema_version: Literal[1, 2] = Field(
        default=1, description="version of this record's form: 2 if the portfolios are listed in a file of their own"
    )
    portfolio_list: PortfolioList | None = Field(
        default=None,
        description="the file that lists every portfolio in this revision, ordered by number; absent in version 1",
        exclude_if=is_none,
    )
    portfolios: Annotated[Sequence[PortfolioRecord], AfterValidator(tuple)] = Field(
        default=(),
        description="every portfolio in this revision, ordered by number; absent in version 2",
        exclude_if=_is_listed,
    )

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        in_file = self.portfolio_list is not None
        if in_file != (self.schema_version == 2) or in_file == ("portfolios" in self.model_fields_set):
            raise ValueError("version 1 holds its portfolios, version 2 names their file")
        return self

    def listed_in(self, store: ObjectStore, key: str | None = None) -> Self:
        """Return the record with the portfolios that its file in ``store`` lists; ``key``: where a copy of it lies."""
        file = self.portfolio_list
        if file is None:
            return self
        at_key = file if key is None else file.model_copy(update={"key": key})
        return self.model_copy(update={"portfolios": stored_portfolios(store, at_key)})


def stored_portfolios(store: ObjectStore, file: PortfolioList) -> ListedPortfolios:
    """Return the portfolios that a file in ``store`` lists."""
    return ListedPortfolios(file, lambda: _rows(store, file))


def _rows(store: ObjectStore, file: PortfolioList) -> Iterator[PortfolioRecord]:
    with _opened(store, file) as path:
        yield from _read_rows(path, store.location(file.key))


@contextmanager
def _opened(store: ObjectStore, file: PortfolioList) -> Iterator[Path]:
    location = store.location(file.key)
    try:
        with store.local_file(file.key) as path:
            if file_facts(path) != (file.bytes, file.sha256):
                raise DamagedRecordError(location, "it is not the list of portfolios that its record names")
            yield path
    except ObjectNotFoundError:
        raise DamagedRecordError(location, "the list of portfolios that a manifest or build names is missing") from None


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


class PortfolioListWriter:
    """Writer of a list of portfolios to a file, in their order. Close it before the file is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[PortfolioRecord] = []
        self._rows = 0
        self._digest = hashlib.sha256()
        self._target: pq.ParquetWriter | None = None

    def __enter__(self) -> PortfolioListWriter:
        import pyarrow.parquet as pq

        self._target = pq.ParquetWriter(self.path, _table(()).schema, compression="zstd", write_statistics=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._target is not None:
            self._flush(self._target)
            self._target.close()

    def __len__(self) -> int:
        return self._rows

    def add(self, portfolio: PortfolioRecord) -> None:
        """Append one portfolio."""
        self._rows += 1
        self._digest.update(_RECORD.dump_json(portfolio))
        self._waiting.append(portfolio)
        if self._target is not None and len(self._waiting) == _ROW_GROUP:
            self._flush(self._target)

    def _flush(self, target: pq.ParquetWriter) -> None:
        if self._waiting:
            target.write_table(_table(self._waiting))
            self._waiting.clear()

    @property
    def rows_sha256(self) -> str:
        """Return a digest of the rows, whatever the bytes of their file."""
        return self._digest.hexdigest()

    def written(self) -> PortfolioList:
        """Return the facts of the closed file, which has no key yet."""
        size, digest = file_facts(self.path)
        return PortfolioList(key="", sha256=digest, bytes=size, rows=self._rows)


def stage_portfolios(store: ObjectStore, prefix: str, writer: PortfolioListWriter) -> PortfolioList:
    """Store a closed list below the prefix of its build. DamagedRecordError if other portfolios are staged there."""
    key = prefix + FILE_NAME
    listed = _kept(store, key, writer.path, len(writer))
    if listed is None:
        raise DamagedRecordError(store.location(key), "the staged list is not that of its build")
    return listed


def publish_portfolios(
    store: ObjectStore, feed: str, day: dt.date, revision: int, portfolios: Sequence[PortfolioRecord]
) -> PortfolioList | None:
    """Store the list of a revision's portfolios, and read it back.

    Return None if another attempt stored another list, or closed the revision. DamagedRecordError if the list read
    back is not the one written.
    """
    with _file_of(store, portfolios) as path:
        return _kept(store, f"{delivered_prefix(feed, day, revision)}{FILE_NAME}", path, len(portfolios))


@contextmanager
def _file_of(store: ObjectStore, portfolios: Sequence[PortfolioRecord]) -> Iterator[Path]:
    if isinstance(portfolios, ListedPortfolios):
        with _opened(store, portfolios.file) as path:
            yield path
        return
    with tempfile.TemporaryDirectory(prefix="classfeed-list-") as folder:
        with PortfolioListWriter(Path(folder) / FILE_NAME) as writer:
            for portfolio in portfolios:
                writer.add(portfolio)
        yield writer.path


def _kept(store: ObjectStore, key: str, path: Path, rows: int) -> PortfolioList | None:
    # The list stored under the key; None if it has other rows, or if nothing may be stored there any more.
    own, created = file_facts(path), store.create(key, path)
    try:
        with store.local_file(key) as stored:
            size, digest = file_facts(stored)
            if created and (size, digest) != own:
                raise DamagedRecordError(store.location(key), "the list read back differs from the one written")
            # Another release may have written the same rows in other bytes.
            same = (size, digest) == own or _same_rows(stored, path)
    except ObjectNotFoundError:
        return None
    return PortfolioList(key=key, sha256=digest, bytes=size, rows=rows) if same else None


def _same_rows(path: Path, other: Path) -> bool:
    try:
        return all(starmap(operator.eq, zip_longest(_read_rows(path, str(path)), _read_rows(other, str(other)))))
    except DamagedRecordError:
        return False


def _table(portfolios: Sequence[PortfolioRecord]) -> pa.Table:
    import polars as pl

    schema: dict[str, pl.DataType] = {
        "number": pl.String(),
        "change": pl.String(),
        "extract": pl.String(),
        "digest": pl.String(),
        "bytes": pl.Int64(),
        "consent_ids": pl.List(pl.Int64()),
        "page": pl.String(),
    }
    columns: dict[str, Any] = {name: [getattr(portfolio, name) for portfolio in portfolios] for name in schema}
    return pl.DataFrame(columns, schema).to_arrow(compat_level=pl.CompatLevel.oldest())
