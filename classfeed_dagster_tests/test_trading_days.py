"""Business days, cut-offs and windows: every instant belongs to exactly one business date."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import exchange_calendars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster import trading_days
from classfeed_dagster.orchestration.definitions import business_date_partitions

D = dt.date
SUPPORTED = st.dates(D(2010, 2, 1), D(2035, 11, 30))


def test_business_days_are_those_of_the_library() -> None:
    # The table is made by scripts/asx_holidays.py: run it after the library was updated.
    calendar = exchange_calendars.get_calendar("XASX", start="2010-01-01", end="2035-12-31")
    library = {session.date() for session in calendar.sessions}
    corrected = (library - trading_days.EXTRA_HOLIDAYS) | trading_days.EXTRA_BUSINESS_DAYS
    assert trading_days.business_days() == tuple(sorted(corrected))


def test_business_days_need_neither_the_library_nor_pandas() -> None:
    code = "import sys; from classfeed_dagster import trading_days; trading_days.business_days(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "classfeed_dagster.trading_days" in loaded
    assert not {"pandas", "numpy", "exchange_calendars", "dagster"} & set(loaded)


def test_closures_of_2026_are_not_business_days() -> None:
    closed = [
        D(2026, 1, 1),
        D(2026, 1, 26),
        D(2026, 4, 3),
        D(2026, 4, 6),
        D(2026, 6, 8),
        D(2026, 12, 25),
        D(2026, 12, 28),
    ]
    assert not any(map(trading_days.is_business_day, closed))
    # Anzac Day on a Saturday has no make-up day.
    assert trading_days.is_business_day(D(2026, 4, 27))
    assert not trading_days.is_business_day(D(2022, 9, 22))  # day of mourning


@pytest.mark.parametrize(
    ("traded", "settles"),
    [
        (D(2021, 7, 1), D(2021, 7, 5)),
        (D(2023, 5, 5), D(2023, 5, 9)),
        (D(2024, 3, 28), D(2024, 4, 3)),
        (D(2024, 4, 24), D(2024, 4, 29)),
        (D(2025, 12, 24), D(2025, 12, 30)),
        (D(2026, 1, 23), D(2026, 1, 28)),
        (D(2026, 6, 5), D(2026, 6, 10)),
    ],
)
def test_settlement_date_is_two_business_days_later(traded: dt.date, settles: dt.date) -> None:
    assert trading_days.add_business_days(traded, 2) == settles


def test_cutoff_is_sydney_midnight_in_summer_and_winter() -> None:
    assert trading_days.cutoff(D(2023, 1, 3)) == dt.datetime(2023, 1, 3, 13, tzinfo=dt.UTC)  # +11
    assert trading_days.cutoff(D(2023, 7, 3)) == dt.datetime(2023, 7, 3, 14, tzinfo=dt.UTC)  # +10


def test_window_is_an_hour_longer_or_shorter_when_the_clocks_change() -> None:
    ends = trading_days.window(D(2023, 4, 3))  # Friday's cut-off to Monday's, clocks back on Sunday
    starts = trading_days.window(D(2023, 10, 3))  # Monday 2 October is no business day in Sydney? it is on the ASX
    assert ends.end - ends.start == dt.timedelta(days=3, hours=1)
    assert (starts.end - starts.start) in (dt.timedelta(days=1), dt.timedelta(days=4, hours=-1))
    spring = trading_days.window(D(2023, 10, 2))
    assert spring.end - spring.start == dt.timedelta(days=3, hours=-1)


@given(SUPPORTED)
def test_windows_tile_time(day: dt.date) -> None:
    first = trading_days.next_business_day(day)
    then = trading_days.next_business_day(first)
    assert trading_days.window(first).end == trading_days.window(then).start
    assert trading_days.window(then).start in trading_days.window(then)
    assert trading_days.window(first).end not in trading_days.window(first)
    assert trading_days.previous_business_day(then) == first


def test_weekend_is_refused_with_its_neighbours() -> None:
    with pytest.raises(trading_days.NotABusinessDayError, match="the nearest ones are 2023-01-06 and 2023-01-09"):
        trading_days.require_business_day(D(2023, 1, 7))
    assert trading_days.require_business_day(D(2023, 1, 9)) == D(2023, 1, 9)


def test_dates_outside_the_calendar_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        trading_days.is_business_day(D(2009, 1, 1))
    with pytest.raises(ValueError, match="no business day before"):
        trading_days.previous_business_day(D(2010, 1, 1))
    with pytest.raises(ValueError, match="no business day after"):
        trading_days.next_business_day(D(2036, 1, 1))


def test_instants_are_written_in_utc_with_six_decimals() -> None:
    sydney = dt.datetime(2023, 1, 4, 9, 30, tzinfo=trading_days.SYDNEY)
    assert trading_days.instant_text(sydney) == "2023-01-03T22:30:00.000000Z"
    with pytest.raises(ValueError, match="naive"):
        trading_days.instant_text(dt.datetime(2023, 1, 4))  # noqa: DTZ001 - the bad input under test


def test_partitions_are_the_business_days() -> None:
    keys = business_date_partitions(D(2023, 1, 3)).get_partition_keys()
    listed = [day.isoformat() for day in trading_days.business_days_between(D(2023, 1, 3), D(2023, 12, 29))]
    assert keys[: len(listed)] == listed
    assert "2023-01-26" not in keys
