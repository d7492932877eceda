"""Measurements for dashboards and alarms: a delivery is measured once, a feed's state at every tick."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import ServiceLevel
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.orchestration.sensors.metrics import measuring_sensor
from classfeed_dagster.service_levels import measurements as measuring
from classfeed_dagster.service_levels.measurements import of_feed
from classfeed_dagster.service_levels.metrics import METRICS, NUMBERS
from classfeed_dagster.service_levels.owner_months import CURRENT_KEY, OwnerFigure, OwnerMonth
from classfeed_dagster.service_levels.service_levels import Delivery, due
from classfeed_dagster.stored_records import to_json
from classfeed_dagster_tests.fixtures.desk import Desk
from deploy.objectives import OBJECTIVES, WATCHED_FEEDS

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
Lines = list[dict[str, Any]]


@pytest.fixture
def look(desk: Desk, capsys: pytest.CaptureFixture[str]) -> Any:
    """Evaluate the sensor; return the lines that it writes, and its cursor."""
    sensor = measuring_sensor([FEED], DefaultStatus(running=False))

    def ask(cursor: str | None = None) -> tuple[Lines, str | None]:
        capsys.readouterr()
        context = dg.build_sensor_context(instance=desk.instance, cursor=cursor, resources={"runtime": desk.runtime})
        sensor.evaluate_tick(context)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
        return lines, context.cursor

    return ask


def one_customer(desk: Desk) -> None:
    fund = desk.bigsite.portfolio("SW00000001")
    fund.consent(granted_at="2026-02-20T00:00:00Z")
    fund.deposit("10.00", "2026-02-23")
    desk.end_of_day(MONDAY)


def test_metrics_of_a_delivery_are_recorded_once(desk: Desk, look: Any) -> None:
    one_customer(desk)
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    (delivery, *stages, standing), cursor = look()
    assert {name: delivery[name] for name in ("documents", "portfolios", "repair_attempts", "feed")} == {
        "documents": 1,
        "portfolios": 1,
        "repair_attempts": 0,
        "feed": "class_super",
    }
    assert delivery["correlation_id"] == desk.manifest(MONDAY).correlation_id
    assert {"landing", "delivery"} <= {line["stage"] for line in stages}
    assert all(line["stage_seconds"] >= 0 and line["correlation_id"] == delivery["correlation_id"] for line in stages)
    assert standing["held_back"] == standing["breaks"] == 0
    assert "newest_delivery_age_seconds" in standing
    (again,), _ = look(cursor)
    assert "documents" not in again
    # Every declared figure is written, and every shown figure is declared.
    feeds = {name for name, metric in METRICS.items() if not metric.of_owner}
    assert feeds == {name for line in (delivery, *stages, standing) for name in line} & set(METRICS)


@pytest.mark.parametrize("edited", ["reset", "class_super=", "class_super=x class_super", "a=b=c", "@owner"])
def test_measures_cursor_edited_by_a_person_counts_as_none(desk: Desk, look: Any, edited: str) -> None:
    one_customer(desk)
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    lines, cursor = look(edited)
    assert sum("documents" in line for line in lines) == 1
    assert "class_super=1" in str(cursor).split()


def test_explained_difference_is_not_measured_as_a_break(desk: Desk) -> None:
    desk.two_customers(MONDAY, wrong_units=True)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    day = dt.date.fromisoformat(MONDAY)
    audience = FEED.audience(desk.runtime.settings.first_business_date)
    work = PostDelivery(desk.runtime, FEED, audience, day, "a1", morning_after(day))
    result = work.source()
    assert (result.errors, len(result.breaks)) == (0, 1)  # the portfolio held back, with its reason
    work.keep(result)
    assert of_feed(desk.runtime, FEED, morning_after(day), lambda _: 0)["breaks"] == 0


def test_owners_numbers_are_emitted_once_after_each_computation(desk: Desk, look: Any) -> None:
    at = dt.datetime(2026, 3, 3, 22, 30, tzinfo=dt.UTC)
    figures = [
        OwnerFigure(
            metric=name, feed=FEED.name if METRICS[name].by_feed else None, value=Decimal("1.5"), observations=1
        )
        for name in NUMBERS
    ]
    stale = OwnerFigure(metric="no_longer_declared", value=Decimal(1), observations=1)
    month = OwnerMonth(month="2026-03", computed_at=at, figures=(*figures, stale))
    desk.runtime.store.put(CURRENT_KEY, to_json(month))
    lines, cursor = look()
    owners = [line for line in lines if line.keys() & NUMBERS.keys()]
    assert {name: line["feed"] for line in owners for name in NUMBERS if name in line} == {
        name: FEED.name if METRICS[name].by_feed else "project" for name in NUMBERS
    }
    assert {line["_aws"]["Timestamp"] for line in owners} == {int(at.timestamp() * 1000)}
    assert all(1.5 in line.values() for line in owners)
    lines, cursor = look(cursor)
    assert not any(line.keys() & NUMBERS.keys() for line in lines)
    desk.runtime.store.put(CURRENT_KEY, to_json(month.model_copy(update={"computed_at": at + dt.timedelta(days=1)})))
    lines, _ = look(cursor)
    assert any(line.keys() & NUMBERS.keys() for line in lines)


@pytest.mark.parametrize(
    ("at", "overdue"),
    [
        ("2026-03-03T05:00:00+11:00", 0),  # before the morning's start
        ("2026-03-03T08:59:00+11:00", 0),  # after the target, before the deadline
        ("2026-03-03T10:00:00+11:00", 3600),
        ("2026-03-05T09:00:00+11:00", 2 * 86400),  # the oldest missing date counts
    ],
)
def test_missing_date_is_overdue_from_its_deadline_on(desk: Desk, at: str, overdue: int) -> None:
    with desk.at(at):
        now = desk.runtime.settings.now
        assert now is not None
        assert of_feed(desk.runtime, FEED, now, lambda _: 0)["overdue_seconds"] == overdue


def test_overdue_excludes_holidays_and_shadow_feeds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Easter, Christmas and both changes of the clock: everything due was delivered, an hour looked at is never late."""
    sent = (Delivery(0, dt.datetime(2026, 3, 2, tzinfo=dt.UTC), dt.datetime(2026, 3, 2, tzinfo=dt.UTC), 1, 0),)
    delivered: set[dt.date] = set()
    monkeypatch.setattr(measuring, "deliveries", lambda _s, _f, day: sent if day in delivered else ())
    # Easter with its change of the clock, the other change, Christmas with New Year.
    for first, last in (("2026-03-31", "2026-04-09"), ("2026-10-01", "2026-10-07"), ("2026-12-22", "2027-01-06")):
        day = dt.date.fromisoformat(first)
        delivered.update(trading_days.business_days_between(day - dt.timedelta(days=30), day))
        while day < dt.date.fromisoformat(last):
            following = trading_days.next_business_day(day)
            # The last second before the next date's deadline: all before it has been delivered.
            just_before = due(FEED, following).deadline_at - dt.timedelta(seconds=1)
            assert of_feed(desk.runtime, FEED, just_before, lambda _: 0)["overdue_seconds"] == 0, day
            day = following
            delivered.add(day)
    delivered.remove(day)
    late = due(FEED, day).deadline_at + dt.timedelta(hours=1)
    assert of_feed(desk.runtime, FEED, late, lambda _: 0)["overdue_seconds"] > 0
    monkeypatch.setattr(measuring, "is_live", lambda *_: False)
    assert of_feed(desk.runtime, FEED, late, lambda _: 0)["overdue_seconds"] == 0


def test_repair_attempts_of_a_missing_date_are_counted(desk: Desk) -> None:
    with desk.at("2026-03-03T08:00:00+11:00"):
        now = desk.runtime.settings.now
        assert now is not None
        tried = {dt.date(2026, 3, 2): 3}
        assert of_feed(desk.runtime, FEED, now, lambda day: tried.get(day, 0))["repair_attempts"] == 3


def test_morning_that_will_be_late_is_forecast(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    one_customer(desk)
    assert desk.run(MONDAY, at=morning_after(dt.date(2026, 3, 2))).outcome is Outcome.DELIVERED

    def late(at: str) -> float:
        with desk.at(at):
            now = desk.runtime.settings.now
            assert now is not None
            return float(of_feed(desk.runtime, FEED, now, lambda _: 0)["expected_late_seconds"])

    # Too little is known; then Tuesday's date, which has not been read, needs the usual half an hour from now on.
    assert late("2026-03-04T06:50:00+11:00") == 0
    monkeypatch.setattr(measuring, "_durations", lambda *_: [1800.0] * 5)
    assert late("2026-03-04T05:20:00+11:00") == 0  # more than ninety minutes before its target
    assert late("2026-03-04T06:20:00+11:00") == 0
    assert late("2026-03-04T06:50:00+11:00") == 1200
    assert late("2026-03-04T07:10:00+11:00") == 2400
    # From bigsite's snapshot on, once there is one: Monday's was read in the morning and would take until 06:30.
    monkeypatch.setattr(measuring, "deliveries", lambda *_: ())
    snapshot = desk.manifest(MONDAY).snapshot.snapshot_at
    with desk.at("2026-03-03T06:20:00+11:00"):
        now = desk.runtime.settings.now
        assert now is not None
        # The database of the test has a clock of its own; what counts is that the snapshot's instant is used.
        expected = max(
            0.0,
            (max(now, snapshot + dt.timedelta(minutes=30)) - due(FEED, dt.date(2026, 3, 2)).target_at).total_seconds(),
        )
        assert measuring.expected_late(desk.runtime, FEED, [due(FEED, dt.date(2026, 3, 2))], now) == expected


def test_median_is_of_first_deliveries(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = dt.datetime(2026, 3, 2, 19, tzinfo=dt.UTC)
    two = (
        Delivery(0, begun + dt.timedelta(minutes=7), begun, 1, 0),
        Delivery(1, begun + dt.timedelta(hours=9), begun, 1, 0),
    )
    monkeypatch.setattr(measuring, "delivered_dates", lambda *_: [dt.date(2026, 3, 2)] * 30)
    monkeypatch.setattr(measuring, "deliveries", lambda *_: two)
    assert measuring._durations(desk.runtime.store, FEED) == [420.0] * 20


def test_objectives_match_the_feeds_hours_and_live_feeds() -> None:
    live = tuple(feed.name for feed in FEEDS if feed.mode is FeedMode.LIVE)
    assert live == WATCHED_FEEDS
    text = " ".join(objective.objective for objective in OBJECTIVES)
    assert f"{ServiceLevel().target:%H:%M} Sydney" in text
    assert f"{ServiceLevel().deadline:%H:%M} Sydney" in text
    assert all(feed.service_level == ServiceLevel() for feed in FEEDS if feed.name in WATCHED_FEEDS)
    assert {objective.metric for objective in OBJECTIVES} <= set(METRICS)
