"""Monthly figures of the owner's numbers: computed from observations, and closed for good after the month."""

from __future__ import annotations

import datetime as dt
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.service_levels.metrics import NUMBERS, Aggregate, OwnerNumber
from classfeed_dagster.service_levels.observations import Observation, observations
from classfeed_dagster.service_levels.toil import ManualReason, stored_months
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, find_record, to_json
from classfeed_dagster.trading_days import SYDNEY

MONTHS = 12
CURRENT_KEY = "owner-report/current.json"  # the running month's figures, for the metrics
# A month is closed once late credits and corrected dates are in.
CLOSED_AFTER = dt.timedelta(days=10)


class OwnerFigure(StoredRecord):
    """One number of a month, of one feed or of the project, with the target of that time."""

    metric: str
    feed: str | None = None
    value: Decimal
    p95: Decimal | None = Field(default=None, description="95th percentile, of a median")
    target: Decimal | None = None
    baseline: Decimal | None = Field(default=None, description="the old pipeline's figure")
    observations: NonNegativeInt
    note: str = ""

    @property
    def number(self) -> OwnerNumber | None:
        """Declaration of the number; None if it is no longer declared."""
        return NUMBERS.get(self.metric)


class OwnerMonth(StoredRecord):
    """The owner's numbers of one month."""

    schema_version: Literal[1] = 1
    month: str = Field(pattern=r"^\d{4}-\d\d$")
    computed_at: AwareDatetime
    figures: tuple[OwnerFigure, ...]
    damaged: tuple[str, ...] = Field(default=(), description="keys of observations that cannot be read")

    def find(self, metric: str, feed: str | None) -> OwnerFigure | None:
        """Return a number's figure, or None."""
        return next((figure for figure in self.figures if (figure.metric, figure.feed) == (metric, feed)), None)


def months_until(month: str, count: int = MONTHS) -> list[str]:
    """Return ``count`` months that end with ``month``, in order."""
    last = int(month[:4]) * 12 + int(month[5:]) - 1
    return [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in range(last - count + 1, last + 1)]


def compute_month(store: ObjectStore, feeds: Iterable[str], month: str, now: dt.datetime) -> OwnerMonth:
    """Return a month's figures from its observations and the toil of ``feeds``. ``now`` is UTC."""
    by_source: dict[str, list[Observation]] = defaultdict(list)
    damaged: list[str] = []
    for observation in observations(store, month, damaged):
        by_source[observation.source].append(observation)
    figures = [
        figure
        for number in NUMBERS.values()
        if number.source != "toil"
        for figure in _figures(number, by_source[number.source])
    ]
    toil = [figure for feed in feeds for figure in _toil(store, feed, month)]
    return OwnerMonth(month=month, computed_at=now, figures=(*toil, *figures), damaged=tuple(damaged))


def close_month(store: ObjectStore, feeds: Iterable[str], month: str, now: dt.datetime) -> bool:
    """Store a month's figures for good; False if they are stored, the month is too recent, or it has no figure."""
    following = (dt.date.fromisoformat(f"{month}-01") + dt.timedelta(days=32)).replace(day=1)
    if now < dt.datetime.combine(following, dt.time(), SYDNEY) + CLOSED_AFTER or store.exists(_key(month)):
        return False
    computed = compute_month(store, feeds, month, now)
    return bool(computed.figures) and store.create(_key(month), to_json(computed))


def owner_month(store: ObjectStore, feeds: Iterable[str], month: str, now: dt.datetime) -> OwnerMonth:
    """Return a month as it was closed, else as its observations are now."""
    return find_record(store, OwnerMonth, _key(month)) or compute_month(store, feeds, month, now)


def history(
    store: ObjectStore, feeds: Sequence[str], month: str, now: dt.datetime, count: int = MONTHS
) -> list[OwnerMonth]:
    """Return the last ``count`` months up to ``month``, in order."""
    return [owner_month(store, feeds, name, now) for name in months_until(month, count)]


def median_and_p95(values: Sequence[Decimal]) -> tuple[Decimal, Decimal]:
    """Return median and 95th percentile of at least one value."""
    ordered = sorted(values)
    place = Decimal(95 * (len(ordered) - 1)) / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return statistics.median(ordered), ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _key(month: str) -> str:
    return f"owner-numbers/months/{month}.json"


def _figures(number: OwnerNumber, observed: Sequence[Observation]) -> Iterator[OwnerFigure]:
    relevant = sorted(
        (observation for observation in observed if number.observed in observation.values),
        key=lambda observation: (observation.feed or "", observation.at),
    )
    for feed, group in itertools.groupby(relevant, key=lambda observation: observation.feed):
        yield _figure(number, feed, list(group))


def _figure(number: OwnerNumber, feed: str | None, group: Sequence[Observation]) -> OwnerFigure:
    values, p95 = [observation.values[number.observed] for observation in group], None
    if number.aggregate is Aggregate.MEDIAN_OF_DATES:
        by_date: dict[dt.date | None, Decimal] = defaultdict(Decimal)
        for observation in group:
            by_date[observation.business_date] += observation.values[number.observed]
        values = list(by_date.values())
    match number.aggregate:
        case Aggregate.LATEST:
            value = values[-1]
        case Aggregate.SUM:
            value = sum(values, Decimal(0))
        case Aggregate.PERCENT:
            value = 100 * sum(values, Decimal(0)) / len(values)
        case _:
            value, p95 = median_and_p95(values)
    # The pipeline states target and baseline with each run.
    stated = {
        name: statistics.median(observation.values[key] for observation in group if key in observation.values)
        for name in ("target", "baseline")
        for key in (f"{number.metric.removesuffix('_seconds')}_{name}_seconds",)
        if any(key in observation.values for observation in group)
    }
    return OwnerFigure(
        metric=number.metric, feed=feed, value=_rounded(value), p95=None if p95 is None else _rounded(p95),
        target=stated.get("target", number.target), baseline=stated.get("baseline"), observations=len(values),
    )  # fmt: skip


def _toil(store: ObjectStore, feed: str, month: str) -> Iterator[OwnerFigure]:
    number = NUMBERS["manual_retriggers"]
    for toil in stored_months(store, feed):
        if toil.month == month:
            planned = toil.manual_by_reason.get(ManualReason.BACKFILL, 0)
            reasons = [f"{count} {why}" for why, count in toil.manual_by_reason.items() if why != ManualReason.BACKFILL]
            yield OwnerFigure(
                metric=number.metric, feed=feed, value=Decimal(toil.manual_retriggers - planned), target=number.target,
                observations=toil.runs, note=", ".join(reasons),
            )  # fmt: skip


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.000001")).normalize() + 0
