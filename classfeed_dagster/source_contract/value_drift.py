"""Value drift: jumps in a date's null rates, lengths, ranges and numbers of values, and new codes.

``drift`` compares the schema with the contract. This module compares the landed values with the last business dates,
because new nulls, units or codes change a source's meaning and not its schema. Value drift
stops nothing. It reports the column and the exports that depend on it.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.source_contract.drift import Export, Exports
from classfeed_dagster.source_contract.value_statistics import NO_CODE, ColumnStatistics, ValueStatistics
from classfeed_dagster.wording import counted

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
