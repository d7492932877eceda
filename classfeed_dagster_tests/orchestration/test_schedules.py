"""The morning: which business date each 06:00 in Sydney asks for."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.definitions import business_date_partitions
from classfeed_dagster.orchestration.schedules import date_due, morning_schedule
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.tags import CORRELATION_TAG

DAILY = RecipientSchedule("CLASS", dt.date(2023, 1, 3))


@pytest.mark.parametrize(
    ("morning", "expected"),
    [
        (dt.date(2023, 1, 10), dt.date(2023, 1, 9)),
        (dt.date(2023, 1, 9), dt.date(2023, 1, 6)),  # Monday delivers Friday
        (dt.date(2023, 1, 7), "2023-01-07 is not an ASX business day"),  # Saturday
        (dt.date(2023, 1, 27), dt.date(2023, 1, 25)),  # the day after Australia Day
        (dt.date(2023, 4, 11), dt.date(2023, 4, 6)),  # after Easter
        (dt.date(2023, 1, 3), "2022-12-30 is before the feed's first business date, 2023-01-03"),
    ],
)
def test_schedule_delivers_the_previous_business_date(morning: dt.date, expected: object) -> None:
    assert date_due(morning, DAILY) == expected


def test_weekly_schedule_skips_other_mornings() -> None:
    weekly = RecipientSchedule("BGL", dt.date(2023, 1, 3), Cadence.WEEKLY)
    assert date_due(dt.date(2023, 1, 9), weekly) == dt.date(2023, 1, 6)
    assert date_due(dt.date(2023, 1, 10), weekly) == "2023-01-09 is not a date of this weekly feed"


@pytest.mark.parametrize("clocks_change", [dt.date(2023, 4, 3), dt.date(2023, 10, 2)])
def test_schedule_ticks_at_six_in_sydney_around_a_clock_change(clocks_change: dt.date) -> None:
    @dg.asset(partitions_def=business_date_partitions(DAILY.first_business_date))
    def nothing() -> None: ...

    job = dg.define_asset_job("class_super_job", selection=[nothing])
    schedule = morning_schedule(FEED, DAILY, DefaultStatus(running=True))
    definitions = dg.Definitions(assets=[nothing], jobs=[job], schedules=[schedule])
    six = dt.datetime.combine(clocks_change, dt.time(6), tzinfo=trading_days.SYDNEY)
    with dg.build_schedule_context(
        scheduled_execution_time=six.astimezone(dt.UTC), repository_def=definitions.get_repository_def()
    ) as context:
        tick = schedule.evaluate_tick(context)
    (request,) = tick.run_requests or []
    expected = trading_days.previous_business_day(clocks_change).isoformat()
    assert (request.partition_key, request.run_key) == (expected, f"class_super-{expected}")
    assert len(request.tags[CORRELATION_TAG]) == 32
    assert schedule.execution_timezone == "Australia/Sydney"
