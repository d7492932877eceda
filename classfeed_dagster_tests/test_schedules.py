"""For whom and on which dates: sequence numbers and windows of daily and weekly audiences."""

from __future__ import annotations

import datetime as dt

import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.schedules import Cadence, RecipientSchedule

START = dt.date(2023, 1, 3)


def test_sequence_numbers_have_no_gaps() -> None:
    daily = RecipientSchedule("CLASS", START)
    days = trading_days.business_days_between(START, dt.date(2023, 3, 31))
    assert [daily.sequence_number(day) for day in days] == list(range(1, len(days) + 1))
    assert daily.previous(START) is None
    assert daily.is_first(START)
    assert not daily.is_first(days[1])
    assert daily.previous(days[5]) == days[4]


def test_first_date_covers_the_business_day_before() -> None:
    assert RecipientSchedule("CLASS", START).window(START) == trading_days.window(START)


def test_weekly_audience_is_due_on_the_weeks_last_business_day() -> None:
    weekly = RecipientSchedule("BGL", START, Cadence.WEEKLY)
    assert weekly.is_due(dt.date(2023, 1, 6))
    assert not weekly.is_due(dt.date(2023, 1, 5))
    assert weekly.is_due(dt.date(2023, 4, 6))  # Good Friday follows
    assert weekly.window(dt.date(2023, 1, 13)).start == trading_days.cutoff(dt.date(2023, 1, 6))
    with pytest.raises(ValueError, match="not a date of BGL's weekly feed"):
        weekly.sequence_number(dt.date(2023, 1, 5))


def test_equal_audiences_share_a_key() -> None:
    assert RecipientSchedule("CLASS", START).key == RecipientSchedule("CLASS", START).key == "CLASS-20230103-daily"
    assert RecipientSchedule("CLASS", START).key != RecipientSchedule("CLASS", START, Cadence.WEEKLY).key
    assert RecipientSchedule("CLASS", START).reference("account_details") == "CLASS-20230103-daily/account_details"


def test_reason_for_nothing_due_depends_on_the_first_date() -> None:
    audience = RecipientSchedule("CLASS", dt.date(2023, 1, 4))
    assert "before the first business date, 2023-01-04" in audience.not_due(dt.date(2023, 1, 3))
    for day in (dt.date(2023, 1, 7), dt.date(2023, 1, 26)):
        assert audience.not_due(day) == f"{day.isoformat()} is not a date of CLASS's daily feed"
    weekly = RecipientSchedule("BGL", START, Cadence.WEEKLY)  # from a Tuesday on
    assert weekly.not_due(START) == f"{START.isoformat()} is not a date of BGL's weekly feed"
