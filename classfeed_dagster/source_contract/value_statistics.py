"""Statistics of a date's landed values by column: null share, length, range, number of distinct values.

Worked out slice by slice from the landed files, never from bigsite, and kept as one small object a snapshot under
``values/<date>/``. Of a personal column only the number of nulls and the lengths are kept: no value, no range, no count
of different values.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ValidationError

from classfeed_dagster.bigsite.landing import WHOLE, DamagedFileError
from classfeed_dagster.bigsite.snapshot import Snapshot, open_slices
from classfeed_dagster.source_contract.contract import Contract, load_contract
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

_ROOT = "values"
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,29}\Z")
NO_CODE = "(no code)"  # stands for every value that doesn't look like a code: it could be somebody's words
MOST_DISTINCT = 2_000  # more different values than this are only "more"


class ColumnStatistics(BaseModel, frozen=True):
    """One landed column on one date. What a kind of column has no use for is null."""

    rows: int
    nulls: int
    shortest: int | None = None  # characters of a text
    longest: int | None = None
    least: str | None = None  # smallest number, day or instant, as text
    greatest: str | None = None
    distinct: int | None = None  # different values, at most MOST_DISTINCT + 1; null for keys and personal columns
    codes: dict[str, int] | None = None  # rows by value, of a column with a closed vocabulary

    @property
    def null_rate(self) -> float:
        """The share of null values, from 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0


class ValueStatistics(BaseModel, frozen=True):
    """The statistics of a snapshot, by ``table.column`` of bigsite."""

    business_date: dt.date
    snapshot_id: str
    columns: dict[str, ColumnStatistics]


class _Column:
    """Adds up one column over slices."""

    def __init__(self, dtype: pl.DataType, *, personal: bool, coded: bool, key: bool) -> None:
        self.dtype, self.personal, self.coded, self.key = dtype, personal, coded, key
        self.rows = self.nulls = 0
        self.shortest: int | None = None
        self.longest: int | None = None
        self.least: Any = None
        self.greatest: Any = None
        self.different: set[Any] = set()
        self.codes: dict[str, int] = {}

    def add(self, values: pl.Series) -> None:
        self.rows += len(values)
        self.nulls += values.null_count()
        stated = values.drop_nulls()
        if stated.is_empty():
            return
        if isinstance(self.dtype, pl.String):
            lengths = stated.str.len_chars()
            self.shortest = _either(min, self.shortest, lengths.min())
            self.longest = _either(max, self.longest, lengths.max())
        elif not self.personal and not self.key:
            self.least, self.greatest = (
                _either(min, self.least, stated.min()),
                _either(max, self.greatest, stated.max()),
            )
        if self.coded:
            for value, count in stated.value_counts().iter_rows():
                name = value if _CODE.match(value) else NO_CODE
                self.codes[name] = self.codes.get(name, 0) + count
        if not self.personal and not self.key and len(self.different) <= MOST_DISTINCT:
            self.different.update(stated.unique().head(MOST_DISTINCT + 1).to_list())

    def statistics(self) -> ColumnStatistics:
        counted = not (self.personal or self.key)
        return ColumnStatistics(
            rows=self.rows,
            nulls=self.nulls,
            shortest=self.shortest,
            longest=self.longest,
            least=None if self.least is None else str(self.least),
            greatest=None if self.greatest is None else str(self.greatest),
            distinct=min(len(self.different), MOST_DISTINCT + 1) if counted else None,
            codes=dict(sorted(self.codes.items())) if self.coded else None,
        )


def _either(choose: Any, one: Any, other: Any) -> Any:
    return other if one is None else choose(one, other)


def statistics_of(
    slices: Iterable[Mapping[str, pl.DataFrame]], contract: Contract | None = None
) -> dict[str, ColumnStatistics]:
    """The statistics of landed tables, for those of their columns that the contract has; one slice in memory."""
    agreed = contract or load_contract()
    columns: dict[str, _Column] = {}
    whole: set[str] = set()
    for tables in slices:
        for table, frame in tables.items():
            if table in whole:
                continue  # a small table that every slice is handed whole
            if table in WHOLE:
                whole.add(table)
            for name in frame.columns:
                full = f"{table}.{name}"
                if full not in agreed.classifications:
                    continue  # worked out by bigsite while it was read
                if full not in columns:
                    columns[full] = _Column(
                        frame.schema[name],
                        personal=full in agreed.personal,
                        coded=full in agreed.vocabularies,
                        key=name.endswith("_id"),
                    )
                columns[full].add(frame[name])
    return {name: column.statistics() for name, column in sorted(columns.items())}


def keep_statistics(store: ObjectStore, snapshot: Snapshot) -> ValueStatistics:
    """The statistics of a snapshot: as they were kept, or worked out now and kept. DamagedFileError as the landing."""
    key = f"{_ROOT}/{snapshot.business_date.isoformat()}/{snapshot.snapshot_id}.json"
    try:
        return _read(store, key)
    except ObjectNotFoundError:
        with open_slices(snapshot, store) as slices:
            columns = statistics_of(slices)
    found = ValueStatistics(business_date=snapshot.business_date, snapshot_id=snapshot.snapshot_id, columns=columns)
    store.create(key, found.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
    return found


def statistics_before(store: ObjectStore, day: dt.date, dates: int) -> list[ValueStatistics]:
    """The statistics of the last ``dates`` dates before ``day`` that have any, oldest first; of a date the latest."""
    latest: dict[str, str] = {}
    for key in store.list(f"{_ROOT}/"):  # in order: a snapshot's id begins with when it was read
        _, of, _ = key.split("/")
        if of < day.isoformat():
            latest[of] = key
    return [_read(store, latest[of]) for of in sorted(latest)[-dates:]]


def _read(store: ObjectStore, key: str) -> ValueStatistics:
    try:
        return ValueStatistics.model_validate_json(store.read(key))
    except ValidationError as error:
        raise DamagedFileError(
            f"{store.location(key)} is not what was kept there: delete it, it is made anew from the landed files"
        ) from error
