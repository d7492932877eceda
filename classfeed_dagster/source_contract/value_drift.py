"""Value drift: jumps in a date's null rates, lengths, ranges and numbers of values, and new codes.

``drift`` compares the schema with the contract. This module compares the landed values with the last business dates,
because new nulls, units or codes change a source's meaning and not its schema. Value drift stops nothing. It reports
the column and the exports that depend on it.

The statistics are computed slice by slice from the landed files, never from bigsite, and stored as one small object a
snapshot under ``values/<date>/``. Of a personal column only the number of nulls and the lengths are stored: no value,
no range, no number of distinct values.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl
from pydantic import BaseModel, ValidationError

from classfeed_dagster.bigsite.landing import WHOLE, DamagedFileError
from classfeed_dagster.bigsite.snapshot import Snapshot, open_slices
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.source_contract.drift import Export, Exports
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.wording import counted

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


DATES = 10  # earlier business dates to compare with
FEWEST_DATES = 3  # fewer give no basis
FEWEST_ROWS = 50  # of the date and of each earlier date; with fewer the statistics jump by chance
NULL_RATE_STEP = 0.10  # beyond the observed rates
LENGTH_FACTOR, LENGTH_STEP = 1.5, 4  # beyond the longest earlier text
RANGE_FACTOR = 100  # beyond the largest earlier number: other units, not another customer
DISTINCT_FACTOR, FEWEST_DISTINCT = 4, 8
DAYS_BEYOND = 400  # outside the observed days


class ValueAnomaly(enum.StrEnum):
    """Kind of anomaly."""

    NULL_RATE = "null rate"
    LENGTH = "length"
    RANGE = "range"
    DISTINCT = "number of different values"
    NEW_CODE = "new code"


@dataclass(frozen=True, slots=True)
class ValueDrift:
    """A column whose values differ from earlier dates. ``affected``: the exports that depend on it.

    ``expected``: a code that the contract lists but no earlier date had. It is rare and needs no investigation.
    """

    column: str
    jump: ValueAnomaly
    was: str
    now: str
    affected: tuple[Export, ...]
    expected: bool = False

    def __str__(self) -> str:
        listed = ", ".join(dict.fromkeys(str(export) for export in self.affected)) or "no document"
        return f"{self.column}: {self.jump} {self.now}, was {self.was}; exported to {listed}"


def value_drift(today: ValueStatistics, before: Sequence[ValueStatistics], exports: Exports) -> tuple[ValueDrift, ...]:
    """Return the anomalies of ``today``'s date; none while a column has fewer than ``FEWEST_DATES`` dates."""
    agreed = load_contract().vocabularies
    drifts: list[ValueDrift] = []
    for name, now in today.columns.items():
        known = [day.columns[name] for day in before if name in day.columns]
        usual = [column for column in known if column.rows >= FEWEST_ROWS]
        if len(known) >= FEWEST_DATES:
            drifts += _codes(name, now, known, exports, agreed.get(name, ()))
        jumps: list[tuple[ValueAnomaly, str, str]] = []
        if now.rows >= FEWEST_ROWS and len(usual) >= FEWEST_DATES:
            jumps += [*_nulls(now, usual), *_lengths(now, usual), *_ranges(now, usual), *_distinct(now, usual)]
        drifts += [ValueDrift(name, jump, was, is_now, exports.get(name, ())) for jump, was, is_now in jumps]
    return tuple(drifts)


_Jumps = Iterator[tuple[ValueAnomaly, str, str]]


def _nulls(now: ColumnStatistics, usual: Sequence[ColumnStatistics]) -> _Jumps:
    least, most = (choose(one.null_rate for one in usual) for choose in (min, max))
    if not least - NULL_RATE_STEP <= now.null_rate <= most + NULL_RATE_STEP:
        yield ValueAnomaly.NULL_RATE, f"{least:.1%} to {most:.1%}", f"{now.null_rate:.1%}"


def _lengths(now: ColumnStatistics, usual: Sequence[ColumnStatistics]) -> _Jumps:
    longest = max((one.longest for one in usual if one.longest is not None), default=None)
    if longest is None or now.longest is None:
        return
    if now.longest > longest * LENGTH_FACTOR and now.longest > longest + LENGTH_STEP:
        yield ValueAnomaly.LENGTH, f"at most {longest} characters", f"{now.longest} characters"
    shortest = min(one.shortest for one in usual if one.shortest is not None)
    if now.shortest == 0 < shortest:
        yield ValueAnomaly.LENGTH, f"at least {shortest} characters", "empty"


def _ranges(now: ColumnStatistics, usual: Sequence[ColumnStatistics]) -> _Jumps:
    bounded = [one for one in usual if one.least is not None and one.greatest is not None]
    if now.least is None or now.greatest is None or len(bounded) < FEWEST_DATES:
        return
    numbers = _numbers(now.least, now.greatest)
    if numbers is not None:
        ends = [end for one in bounded if (end := _numbers(str(one.least), str(one.greatest))) is not None]
        least, greatest = min(end[0] for end in ends), max(end[1] for end in ends)
        largest = max(abs(least), abs(greatest))
        jumped = max(map(abs, numbers)) > largest * RANGE_FACTOR and largest > 0
        if jumped or (least >= 0 > numbers[0]):
            yield ValueAnomaly.RANGE, f"{least} to {greatest}", f"{numbers[0]} to {numbers[1]}"
        return
    first, last = _day(now.least), _day(now.greatest)
    was_first, was_last = min(_day(str(one.least)) for one in bounded), max(_day(str(one.greatest)) for one in bounded)
    beyond = dt.timedelta(days=DAYS_BEYOND)
    if first < was_first - beyond or last > was_last + beyond:
        yield ValueAnomaly.RANGE, f"{was_first} to {was_last}", f"{first} to {last}"


def _distinct(now: ColumnStatistics, usual: Sequence[ColumnStatistics]) -> _Jumps:
    counts = [one.distinct for one in usual if one.distinct is not None]
    if now.distinct is None or not counts or now.codes is not None:
        return
    least, most = min(counts), max(counts)
    if now.distinct > max(most, FEWEST_DISTINCT) * DISTINCT_FACTOR or (
        least >= FEWEST_DISTINCT and now.distinct * DISTINCT_FACTOR < least
    ):
        yield ValueAnomaly.DISTINCT, f"{least} to {most}", str(now.distinct)


def _codes(
    name: str, now: ColumnStatistics, known: Sequence[ColumnStatistics], exports: Exports, agreed: Collection[str]
) -> Iterator[ValueDrift]:
    # Codes that no earlier date had. A code of the contract is rare, any other is new.
    earlier = {code for one in known for code in one.codes or {}}
    for code in sorted((now.codes or {}).keys() - earlier):
        label = "values that are not codes" if code == NO_CODE else code
        observed = f"{label} in {counted((now.codes or {})[code], 'row')}"
        was = ", ".join(sorted(earlier)) or "none"
        yield ValueDrift(name, ValueAnomaly.NEW_CODE, was, observed, exports.get(name, ()), code in agreed)


def _numbers(least: str, greatest: str) -> tuple[Decimal, Decimal] | None:
    try:
        return Decimal(least), Decimal(greatest)
    except InvalidOperation:
        return None


def _day(text: str) -> dt.date:
    return dt.date.fromisoformat(text[:10])
