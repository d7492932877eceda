"""A calendar that changes after dates were delivered: no row is sent twice, and no sequence number is used twice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.chain_integrity import CalendarChangedError
from classfeed_dagster.errors import ExitCode
from classfeed_dagster_tests.fixtures.desk import Desk

MONDAY, TUESDAY, WEDNESDAY, THURSDAY = "2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"


@pytest.fixture
def closed_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that sets the ASX's unscheduled closures."""

    def close(*days: str) -> None:
        monkeypatch.setattr(trading_days, "EXTRA_HOLIDAYS", frozenset(map(dt.date.fromisoformat, days)))
        trading_days.business_days.cache_clear()

    yield close
    monkeypatch.undo()
    trading_days.business_days.cache_clear()


def _deliver(desk: Desk, *days: str) -> None:
    for day in days:
        desk.bigsite.portfolios[0].deposit("1.00", day)
        desk.end_of_day(day)
        assert desk.deliver(day).kind == "DELIVERED"


@pytest.mark.parametrize("day", [WEDNESDAY, THURSDAY])
def test_closure_added_behind_a_delivered_date_stops_the_feed(
    desk: Desk, closed_on: Callable[..., None], day: str
) -> None:
    desk.two_customers()
    _deliver(desk, MONDAY, TUESDAY, WEDNESDAY)
    closed_on(TUESDAY)
    desk.end_of_day(THURSDAY)
    with pytest.raises(
        CalendarChangedError, match="2026-03-04 was delivered as business date 3 .* is number 2"
    ) as error:
        desk.deliver(day, fresh=True)
    assert error.value.exit_code is ExitCode.STOPPED
    closed_on()
    assert desk.deliver(THURSDAY).kind == "DELIVERED"


def test_date_added_before_a_delivered_one_stops_the_feed(desk: Desk, closed_on: Callable[..., None]) -> None:
    desk.two_customers()
    closed_on(TUESDAY)
    _deliver(desk, MONDAY, WEDNESDAY)
    closed_on()
    desk.end_of_day(TUESDAY)
    for day in (TUESDAY, THURSDAY):
        desk.end_of_day(day)
        with pytest.raises(CalendarChangedError, match="EXTRA_HOLIDAYS"):
            desk.deliver(day)
    closed_on(TUESDAY)
    _deliver(desk, THURSDAY)
    assert desk.manifest(THURSDAY).sequence_number == 3
