"""Statistics of a date's landed values by column: null share, length, range, number of distinct values.

Computed slice by slice from the landed files, never from bigsite, and stored as one small object a snapshot under
``values/<date>/``. For a personal column only the number of nulls and the lengths are stored: no value, no range, no
number of distinct values.
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
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

_ROOT = "values"
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,29}\Z")
NO_CODE = "(no code)"  # replaces every value without the form of a code: it may be personal
MOST_DISTINCT = 2_000  # the count of distinct values ends here


class ColumnStatistics(BaseModel, frozen=True):
    """Statistics of one landed column on one date. Facts that do not apply to its type are null."""

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
        """Return the share of null values, from 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0


class ValueStatistics(BaseModel, frozen=True):
    """Statistics of a snapshot, by bigsite's ``table.column``."""

    business_date: dt.date
    snapshot_id: str
    columns: dict[str, ColumnStatistics]


class _Column:
    """Accumulated statistics of one column over slices."""

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
        present = values.drop_nulls()
        if present.is_empty():
            return
        if isinstance(self.dtype, pl.String):
            lengths = present.str.len_chars()
            self.shortest = _either(min, self.shortest, lengths.min())
            self.longest = _either(max, self.longest, lengths.max())
        elif not self.personal and not self.key:
            self.least, self.greatest = (
                _either(min, self.least, present.min()),
                _either(max, self.greatest, present.max()),
            )
        if self.coded:
            for value, count in present.value_counts().iter_rows():
                name = value if _CODE.match(value) else NO_CODE
                self.codes[name] = self.codes.get(name, 0) + count
        if not self.personal and not self.key and len(self.different) <= MOST_DISTINCT:
            self.different.update(present.unique().head(MOST_DISTINCT + 1).to_list())

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


def statistics_of(slices: Iterable[Mapping[str, pl.DataFrame]]) -> dict[str, ColumnStatistics]:
    """Return statistics by column of the landed tables, for the contract's columns, with one slice in memory."""
    agreed = load_contract()
    columns: dict[str, _Column] = {}
    whole: set[str] = set()
    for tables in slices:
        for table, frame in tables.items():
            if table in whole:
                continue  # a small table that every slice contains whole
            if table in WHOLE:
                whole.add(table)
            for name in frame.columns:
                full = f"{table}.{name}"
                if full not in agreed.classifications:
                    continue  # computed by bigsite during the extraction
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
    """Return a snapshot's stored statistics, or compute and store them. DamagedFileError as for the landing."""
    key = f"{_ROOT}/{snapshot.business_date.isoformat()}/{snapshot.snapshot_id}.json"
    try:
        return _read(store, key)
    except ObjectNotFoundError:
        with open_slices(snapshot, store) as slices:
            columns = statistics_of(slices)
    statistics = ValueStatistics(
        business_date=snapshot.business_date, snapshot_id=snapshot.snapshot_id, columns=columns
    )
    store.create(key, statistics.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
    return statistics


def statistics_before(store: ObjectStore, day: dt.date, dates: int) -> list[ValueStatistics]:
    """Return the last ``dates`` statistics before ``day``, oldest first, the latest of each date."""
    latest: dict[str, str] = {}
    for key in store.list(f"{_ROOT}/"):  # in order: a snapshot's id begins with its time of reading
        _, date, _ = key.split("/")
        if date < day.isoformat():
            latest[date] = key
    return [_read(store, latest[date]) for date in sorted(latest)[-dates:]]


def _read(store: ObjectStore, key: str) -> ValueStatistics:
    try:
        return ValueStatistics.model_validate_json(store.read(key))
    except ValidationError as error:
        raise DamagedFileError(
            f"{store.location(key)} is damaged: delete it, it is computed again from the landed files"
        ) from error
