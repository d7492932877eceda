"""Every ASX business date from 2015 to 2030: windows tile time, without gap or overlap, through every odd day."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

from classfeed_dagster.orchestration.definitions import business_date_partitions
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.trading_days import (
    business_days_between,
    cutoff,
    instant_text,
    next_business_day,
    previous_business_day,
)
from classfeed_dagster_tests.torture.outcome import Budget, Row

FIRST, LAST = dt.date(2015, 1, 2), dt.date(2030, 12, 31)
SYDNEY = ZoneInfo("Australia/Sydney")
MICROSECOND = dt.timedelta(microseconds=1)


def attack(budget: Budget, folder: Path) -> Iterator[Row]:
    """Run all cases, about a second in any budget."""
    days = business_days_between(FIRST, LAST)
    for cadence in Cadence:
        audience = RecipientSchedule("CLASS", FIRST, cadence)
        dates = [day for day in audience.dates() if day <= LAST]
        yield Row("time", f"{cadence} windows, 2015 to 2030", len(dates), *_tiled(audience, dates))
    yield Row("time", "cut-offs are Sydney's midnight, whatever the clock does", len(days), *_midnights(days))
    yield Row("time", "partitions are the business dates", len(days), *_partitions(days))


def _tiled(audience: RecipientSchedule, dates: list[dt.date]) -> tuple[str, list[str]]:
    broken = []
    windows = [audience.window(day) for day in dates]
    for at in range(1, len(dates)):
        before, here = windows[at - 1], windows[at]
        edge = here.start
        if before.end != edge or not edge < here.end:
            broken.append(f"{dates[at]}: its window does not begin where the one before ends")
        inside = [(edge - MICROSECOND) in before, (edge - MICROSECOND) in here, edge in before, edge in here]
        if inside != [True, False, False, True]:
            broken.append(f"{dates[at]}: an instant at its edge is in {sum(inside)} windows")
        if audience.sequence_number(dates[at]) != at + 1 or audience.previous(dates[at]) != dates[at - 1]:
            broken.append(f"{dates[at]}: out of sequence")
    return "each instant is in exactly one window; sequence without gaps", broken


def _midnights(days: Sequence[dt.date]) -> tuple[str, list[str]]:
    broken, lengths = [], Counter[int]()
    for day in days:
        local = cutoff(day).astimezone(SYDNEY)
        if (local.hour, local.minute, local.second, local.microsecond) != (0, 0, 0, 0):
            broken.append(f"{day}: its cut-off is at {local.time()}")
        if local.date() != day + dt.timedelta(days=1):
            broken.append(f"{day}: its cut-off is on {local.date()}")
        if dt.datetime.fromisoformat(instant_text(cutoff(day))) != cutoff(day):
            broken.append(f"{day}: its cut-off doesn't survive being written")
        if previous_business_day(next_business_day(day)) != day:
            broken.append(f"{day}: next and previous disagree")
        hours = (cutoff(day) - cutoff(day - dt.timedelta(days=1))).total_seconds() / 3600
        lengths[int(hours)] += 1
    # The clock changes on Sundays, so the long and the short day lie inside a Monday's window.
    spans = Counter(int((cutoff(b) - cutoff(a)).total_seconds() // 3600) % 24 for a, b in itertools.pairwise(days))
    if spans[23] < 14 or spans[1] < 14:  # a change each way every year, some within holidays
        broken.append(f"changes of the clock are missing: {spans}")
    halves = [day for day in days if (day.month, day.day) in ((12, 24), (12, 31))]
    if len(halves) < 20:
        broken.append("Christmas Eve and New Year's Eve, half days, are business dates")
    return f"{spans[23]} windows an hour short, {spans[1]} an hour long, {len(halves)} half days", broken


def _partitions(days: Sequence[dt.date]) -> tuple[str, list[str]]:
    now = dt.datetime.combine(LAST + dt.timedelta(days=2), dt.time(12), tzinfo=SYDNEY)
    keys = business_date_partitions(FIRST).get_partition_keys(current_time=now)
    missing, more = {day.isoformat() for day in days} - set(keys), set(keys) - {day.isoformat() for day in days}
    broken = [f"{key} has no partition" for key in sorted(missing)] + [
        f"{key} is no business date" for key in sorted(more)
    ]
    return "Dagster's keys are exactly the ASX's days", broken
