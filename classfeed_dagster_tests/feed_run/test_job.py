"""The whole job, on real PostgreSQL, through Dagster: what people and the recipient see of a business date."""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.delivery.approve_removals import approve_removals
from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, monday_delivered

MONDAY, TUESDAY, WEDNESDAY = "2026-03-02", "2026-03-03", "2026-03-04"


def test_first_date_delivers_all_portfolios_in_full_once(desk_after: DeskAfter) -> None:
    desk = desk_after(monday_delivered)
    records = desk.records(MONDAY)
    assert records["accounts"]["portfolio_number"].to_list() == ["SW00000001", "SW00000002"]
    assert set(records["accounts"]["extract"]) == {"FULL"}
    assert desk.run(MONDAY).outcome is Outcome.NOTHING_TO_DO
    assert len(desk.status(MONDAY).deliveries) == 1


def test_source_not_ready_stops_the_run_before_landing(desk: Desk) -> None:
    desk.two_customers()
    desk.bigsite.save()
    report = desk.run(MONDAY)
    assert report.outcome is Outcome.SOURCE_NOT_READY
    assert list(desk.runtime.store.list("")) == []


def test_date_waits_for_the_one_before(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    desk.end_of_day(TUESDAY)
    early = desk.run(TUESDAY)
    assert early.outcome is Outcome.FAILED
    assert "2026-03-02" in early.message
    desk.run(MONDAY)
    assert desk.run(TUESDAY).outcome is Outcome.DELIVERED
    assert set(desk.records(TUESDAY)["accounts"]["extract"]) == {"DELTA"}


def test_held_back_share_above_the_limit_stops_the_feed(desk: Desk) -> None:
    desk.two_customers()
    desk.bigsite.end_of_day(MONDAY)
    for portfolio in desk.bigsite.portfolios[:2]:
        desk.break_units(portfolio, MONDAY)
    desk.bigsite.save()
    report = desk.run(MONDAY)
    assert report.outcome is Outcome.STOPPED_BY_CHECKS
    assert "held_back_share" in report.failed_checks
    assert desk.status(MONDAY).deliveries == ()


def test_unusual_removals_need_an_approval(desk_after: DeskAfter) -> None:
    desk = desk_after(monday_delivered)
    desk.bigsite.portfolios[0].consents[0]["revoked_at"] = dt.datetime(2026, 3, 3, 2, 0, tzinfo=dt.UTC)
    desk.end_of_day(TUESDAY)
    stopped = desk.run(TUESDAY)
    assert stopped.outcome is Outcome.STOPPED_BY_CHECKS
    assert stopped.failed_checks == ("consent_roll",)

    audience = CLASS_SUPER.audience(desk.runtime.settings.first_business_date)
    tuesday = dt.date.fromisoformat(TUESDAY)
    approve_removals(
        desk.runtime.store,
        audience,
        tuesday,
        ["SW00000001"],
        approved_by="pat",
        reason="asked client services",
        at=dt.datetime(2026, 3, 4, tzinfo=dt.UTC),
    )
    assert desk.run(TUESDAY).outcome is Outcome.DELIVERED
    accounts = desk.records(TUESDAY)["accounts"]
    assert dict(accounts.select("portfolio_number", "consent").iter_rows()) == {
        "SW00000001": "REMOVED",
        "SW00000002": "CURRENT",
    }
