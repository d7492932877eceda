"""ASX business days, their cut-off and their window.

A *business date* is a day on which the ASX trades: a weekday that is not in ``asx_holidays.txt``. That table is
generated from the XASX calendar of ``exchange_calendars``, since importing the library costs each process half a
second and 40 MB. All functions here are pure functions of dates and never read the clock. Instants are timezone-aware
UTC ``datetime`` values; dates are calendar days in Australia/Sydney.
"""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from classfeed_dagster.errors import UsageError

SYDNEY = ZoneInfo("Australia/Sydney")
FIRST_SUPPORTED = dt.date(2010, 1, 1)
LAST_SUPPORTED = dt.date(2035, 12, 31)
HOLIDAYS_FILE = "asx_holidays.txt"

# Corrections to the table, each with its reason. A wrong holiday would stop or double a feed, and the library behind
# the table has its own release schedule, so a known error is corrected here at once. Only before the next date is
# delivered: later, a feed refuses the change (``CalendarChangedError``). A date that was delivered stays, and the rows
# of a day without a date have travelled in the next one.
EXTRA_HOLIDAYS: frozenset[dt.date] = frozenset()
EXTRA_BUSINESS_DAYS: frozenset[dt.date] = frozenset()


class NotABusinessDayError(UsageError):
    """Refusal of a date that is not an ASX business day."""

    def __init__(self, day: dt.date) -> None:
        before = [d for d in business_days() if d < day][-1:]
        after = [d for d in business_days() if d > day][:1]
        near = " and ".join(d.isoformat() for d in before + after)
        super().__init__(
            f"{day.isoformat()} is not an ASX business day; the nearest ones are {near}. "
            "Weekends and ASX holidays have no feed."
        )
        self.day = day


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open interval of ``recorded_at`` that one business date covers: start <= recorded_at < end."""

    start: dt.datetime
    end: dt.datetime

    def __contains__(self, instant: dt.datetime) -> bool:
        return self.start <= instant < self.end


@cache
def business_days() -> tuple[dt.date, ...]:
    """Return every ASX business day in the supported range (2010 to 2035), in order."""
    days = (FIRST_SUPPORTED + dt.timedelta(days=at) for at in range((LAST_SUPPORTED - FIRST_SUPPORTED).days + 1))
    weekdays = {day for day in days if day.weekday() < 5}
    return tuple(sorted((weekdays - _holidays() - EXTRA_HOLIDAYS) | EXTRA_BUSINESS_DAYS))


def _holidays() -> set[dt.date]:
    table = resources.files("classfeed_dagster").joinpath(HOLIDAYS_FILE).read_text()
    return {dt.date.fromisoformat(line) for line in table.splitlines() if not line.startswith("#")}


def is_business_day(day: dt.date) -> bool:
    """Return True if the ASX trades on ``day``. Raise ValueError outside the supported range."""
    days = business_days()
    if not FIRST_SUPPORTED <= day <= LAST_SUPPORTED:
        raise UsageError(f"{day.isoformat()} is outside {FIRST_SUPPORTED} to {LAST_SUPPORTED}, the calendar's range")
    at = bisect.bisect_left(days, day)
    return at < len(days) and days[at] == day


def require_business_day(day: dt.date) -> dt.date:
    """Return ``day``; raise NotABusinessDayError if the ASX does not trade on it."""
    if not is_business_day(day):
        raise NotABusinessDayError(day)
    return day


def previous_business_day(day: dt.date) -> dt.date:
    """Return the last business day strictly before ``day``, which need not be a business day itself."""
    days = business_days()
    at = bisect.bisect_left(days, day)
    if at == 0:
        raise UsageError(f"no business day before {day.isoformat()} in the calendar's range")
    return days[at - 1]


def next_business_day(day: dt.date) -> dt.date:
    """Return the first business day strictly after ``day``."""
    days = business_days()
    at = bisect.bisect_right(days, day)
    if at == len(days):
        raise UsageError(f"no business day after {day.isoformat()} in the calendar's range")
    return days[at]


def add_business_days(day: dt.date, count: int) -> dt.date:
    """Return the day ``count`` business days after ``day`` (T+2 settlement: ``add_business_days(trade_date, 2)``)."""
    for _ in range(count):
        day = next_business_day(day)
    return day


def business_days_between(first: dt.date, last: dt.date) -> Sequence[dt.date]:
    """Return the business days from ``first`` to ``last``, both included."""
    days = business_days()
    return days[bisect.bisect_left(days, first) : bisect.bisect_right(days, last)]


def cutoff(day: dt.date) -> dt.datetime:
    """Return 00:00 Australia/Sydney on the calendar day after ``day`` as a UTC instant, the end of ``day``'s window.

    Source: design, "Time". Around the two changes of clock a calendar day of the window lasts 23 or 25 hours.
    """
    midnight = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), tzinfo=SYDNEY)
    return midnight.astimezone(dt.UTC)


def window(day: dt.date, previous: dt.date | None = None) -> Window:
    """Return the window of business date ``day``: from the cut-off of ``previous`` to its own.

    ``previous`` is the feed's business date before ``day``; by default the ASX business day before it.
    """
    return Window(cutoff(previous or previous_business_day(day)), cutoff(day))


def instant_text(instant: dt.datetime) -> str:
    """Return an instant in the documents' form: UTC, six decimals, ``Z``. Raise ValueError for a naive ``datetime``."""
    if instant.tzinfo is None:
        raise ValueError("naive datetime: give it a time zone")
    return instant.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
