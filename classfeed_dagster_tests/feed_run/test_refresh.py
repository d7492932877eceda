"""Refreshes through the real steps: one portfolio in full, in order, once, and what later dates make of it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.ledger_rebuild import rebuild_ledger
from classfeed_dagster.delivery.refreshes import (
    Refresh,
    RefreshRecordsLostError,
    record_refresh,
    undelivered_refreshes,
)
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.domains.build import AudienceNotReadError
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds import FEEDS, class_cash
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.reconciliation.source import reconcile_source
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, deliver_date, prepare
from classfeed_dagster_tests.fixtures.prepared_mornings import (
    AUDIENCE,
    FRIDAY,
    MONDAY,
    TUESDAY,
    Morning,
    MorningWith,
    friday_delivered,
    monday_delivered,
)


def refresh(
    morning: Morning,
    day: dt.date,
    number: str,
    *,
    early: bool = False,
    at: str = "2020-04-05T00:00:00",
    feed: str = FEED.name,
) -> None:
    record = Refresh(
        feed=feed,
        business_date=day,
        portfolio_number=number,
        early=early,
        consented_at=dt.datetime.fromisoformat(f"{at}+00:00"),
        request="reruns/class_super/00000001.json",
        correlation_id="c" * 32,
    )
    assert record_refresh(morning.runtime.store, record)


def sent(morning: Morning, day: dt.date, revision: int) -> dict[str, tuple[str, str]]:
    manifest = next(entry for entry in morning.sent(day).state.deliveries if entry.revision == revision)
    return {entry.number: (entry.change, entry.extract) for entry in manifest.portfolios}


def errors(morning: Morning, day: dt.date) -> list[str]:
    result = reconcile_source(
        morning.runtime.store,
        morning.runtime.engine,
        FEED.name,
        day,
        "attempt",
        audience=AUDIENCE.key,
        previous=AUDIENCE.previous(day),
    )
    return [f"{entry.portfolio_number} {entry.record} {entry.field}" for entry in result.breaks]


def require_sound(morning: Morning, *days: dt.date) -> None:
    assert verify_feed(morning.runtime.store, FEED.name, FEED.format).problems == []
    store = live_and_shadow(morning.runtime.store, FEED.name)
    assert all(item.proven for item in rebuild_ledger(store, FEED.name, FEED.format, AUDIENCE))
    for day in days:
        assert errors(morning, day) == []


def test_refresh_current_portfolio_is_sent_in_full_alone(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    first, second = morning.funds
    first.deposit("5.00", MONDAY)
    second.deposit("6.00", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    refresh(morning, MONDAY, first.number)
    outcome = morning.run(MONDAY)
    assert outcome.kind == "DELIVERED"
    assert sent(morning, MONDAY, 1) == {first.number: ("CURRENT", "FULL")}
    assert set(morning.sent(FRIDAY).frame("records").filter(portfolio_id=first.id)["transaction_id"]) < set(
        morning.ids(MONDAY)
    )
    assert morning.run(MONDAY).kind == "NOTHING_TO_DO"
    require_sound(morning, FRIDAY, MONDAY)
    first.deposit("7.00", TUESDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert sent(morning, TUESDAY, 0)[first.number] == ("CURRENT", "DELTA")
    assert morning.position(first, TUESDAY) == Decimal("802.50")
    assert morning.reasons(TUESDAY) == {}
    require_sound(morning, FRIDAY, MONDAY, TUESDAY)


def test_record_lost_in_a_restore_stops_the_refreshed_date_alone(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    fund, store = morning.funds[0], morning.runtime.store
    refresh(morning, MONDAY, fund.number)
    morning.run(MONDAY)
    for key in list(store.list("reruns/")):
        store.delete(key)
    with pytest.raises(
        RefreshRecordsLostError, match=f"{fund.number} sent in full .* restore the newer version of reruns/"
    ):
        morning.run(MONDAY)
    morning.end_of_day(TUESDAY)
    assert morning.run(TUESDAY).kind == "DELIVERED"
    refresh(morning, MONDAY, fund.number)
    assert morning.run(MONDAY).kind == "NOTHING_TO_DO"


def test_refresh_of_rows_that_the_date_sent_sends_them_again(morning: Morning) -> None:
    fund = morning.bigsite.portfolio("SW00005003").consent(granted_at="2020-03-01T00:00:00Z")
    fund.deposit("5.00", MONDAY)
    cash, others = class_cash.FEED, ("class_super", "class_trade")
    flags = {"mode": {cash.name: "live", **dict.fromkeys(others, "off")}, "live-override": {cash.name: "a test"}}
    morning.runtime.settings = morning.runtime.settings.model_copy(update={"flags": flags})
    start_flags(morning.runtime.settings, FEEDS)
    for day in (FRIDAY, MONDAY):
        morning.end_of_day(day)
        deliver_date(morning.runtime, cash, day)
    refresh(morning, MONDAY, fund.number, feed=cash.name)
    deliver_date(morning.runtime, cash, MONDAY)
    latest = delivered_state(morning.runtime.store, cash.name, MONDAY).latest
    assert latest is not None
    assert [(entry.number, entry.extract) for entry in latest.portfolios] == [(fund.number, "FULL")]
    again = attempt(morning.runtime, cash, MONDAY)
    prepare(again)
    assert deliver(again).kind == "NOTHING_TO_DO"
    at = morning_after(MONDAY)
    assert undelivered_refreshes(morning.runtime.store, cash.name, at - dt.timedelta(days=9), at) == ()
    assert verify_feed(morning.runtime.store, cash.name, cash.format).problems == []


def test_refresh_with_shared_history_repeats_openings_and_balances(morning: Morning) -> None:
    fund = morning.bigsite.portfolio("SW00005003").consent(
        granted_at="2020-03-01T00:00:00Z", history_from=dt.date(2020, 4, 2)
    )
    fund.deposit("1000.00", "2020-04-01")
    assert morning.bhp is not None
    fund.buy(morning.bhp, "10", "20.00", "2020-04-01")
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    fund.deposit("5.00", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    refresh(morning, MONDAY, fund.number)
    morning.run(MONDAY)
    types = morning.sent(MONDAY).frame("records").filter(portfolio_id=fund.id)["transaction_type"].to_list()
    assert {"OPENING_UNITS", "OPENING_CASH"} <= set(types)
    require_sound(morning, FRIDAY, MONDAY)


def test_refresh_lapses_once_the_next_date_is_delivered(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    fund = morning.funds[0]
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    refresh(morning, MONDAY, fund.number)
    assert morning.run(MONDAY, fresh=True).kind == "NOTHING_TO_DO"
    require_sound(morning, MONDAY, TUESDAY)


def test_refresh_reissued_after_later_dates_stays_in_full_and_balances(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    fund = morning.funds[0]
    refresh(morning, MONDAY, fund.number)
    morning.run(MONDAY)
    fund.deposit("7.00", TUESDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    visible = fund.deposit("3.00", FRIDAY, recorded_at="2020-04-06T02:00:00Z")
    morning.bigsite.save()
    morning.execute(
        sa.update(tables.cash_balance_eod)
        .where(tables.cash_balance_eod.c.as_at_date >= FRIDAY)
        .where(tables.cash_balance_eod.c.cash_account_id == visible["cash_account_id"])
        .values(
            ledger_balance=tables.cash_balance_eod.c.ledger_balance + 3,
            available_balance=tables.cash_balance_eod.c.available_balance + 3,
            updated_at=dt.datetime(2020, 4, 8, tzinfo=dt.UTC),
        )
    )
    morning.run(MONDAY, fresh=True)
    assert sent(morning, MONDAY, 2) == {fund.number: ("CURRENT", "FULL")}
    morning.run(TUESDAY, fresh=True)
    assert morning.reasons(TUESDAY) == {}
    assert morning.position(fund, TUESDAY) == Decimal("800.50")
    require_sound(morning, TUESDAY)


def test_refresh_requested_after_the_snapshot_asks_for_another_attempt(morning_with: MorningWith) -> None:
    morning = morning_with(friday_delivered)
    morning.end_of_day(MONDAY)
    work = attempt(morning.runtime, FEED, FRIDAY, (FEED,))
    prepare(work)
    refresh(morning, FRIDAY, morning.funds[0].number)
    with pytest.raises(AudienceNotReadError, match="take a fresh snapshot"):
        deliver(work)


def test_refresh_overtaken_by_the_next_date_is_not_published(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    fund = morning.funds[0]
    morning.end_of_day(TUESDAY)
    refresh(morning, MONDAY, fund.number)
    work = attempt(morning.runtime, FEED, MONDAY, (FEED,))
    prepare(work)
    work.hold_back()
    work.evaluate_checks(work.stage())
    morning.run(TUESDAY)
    assert work.publish().kind == "NOTHING_TO_DO"
    require_sound(morning, MONDAY, TUESDAY)


def test_refresh_of_two_portfolios_one_after_the_other_keeps_both(morning_with: MorningWith) -> None:
    morning = morning_with(monday_delivered)
    first, second = morning.funds
    refresh(morning, MONDAY, second.number)
    morning.run(MONDAY)
    refresh(morning, MONDAY, first.number, at="2020-04-05T01:00:00")
    morning.run(MONDAY)
    assert [set(sent(morning, MONDAY, revision)) for revision in (1, 2)] == [{second.number}, {first.number}]
    require_sound(morning, MONDAY)


def consenting_late(morning: Morning, **consent: str) -> Portfolio:
    """Deliver Friday without a third fund, and ask for an early refresh of it."""
    fund = morning.bigsite.portfolio("SW00005003").consent(granted_at="2020-04-05T00:00:00Z", **consent)
    morning.funds.append(fund)
    fund.deposit("1000.00", "2020-04-01")
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    assert fund.number not in sent(morning, FRIDAY, 0)
    refresh(morning, FRIDAY, fund.number, early=True, at="2020-04-05T01:00:00")
    return fund


def test_refresh_early_consent_is_new_then_current(morning_with: MorningWith) -> None:
    morning = morning_with(consenting_late)
    fund = morning.funds[2]
    morning.run(FRIDAY)
    assert sent(morning, FRIDAY, 1) == {fund.number: ("NEW", "FULL")}
    require_sound(morning, FRIDAY)
    fund.deposit("5.00", MONDAY)
    for day in (MONDAY, TUESDAY):
        morning.end_of_day(day)
        morning.run(day)
        assert sent(morning, day, 0)[fund.number] == ("CURRENT", "DELTA")
    assert morning.position(fund, TUESDAY) == 1005
    require_sound(morning, FRIDAY, MONDAY, TUESDAY)


def test_refresh_early_consent_that_ends_in_its_window_is_announced(morning: Morning) -> None:
    settings = morning.runtime.settings.model_copy(update={"max_removed_share": Decimal(1)})
    morning.runtime.settings = settings
    fund = consenting_late(morning, revoked_at="2020-04-06T03:00:00Z")
    morning.run(FRIDAY)
    assert fund.number in sent(morning, FRIDAY, 1)
    for day in (MONDAY, TUESDAY):
        morning.end_of_day(day)
        morning.run(day)
    assert sent(morning, MONDAY, 0)[fund.number] == ("REMOVED", "NONE")
    assert fund.number not in sent(morning, TUESDAY, 0)
    require_sound(morning, FRIDAY, MONDAY, TUESDAY)


def test_refresh_consent_withdrawn_before_the_run_sends_nothing(morning: Morning) -> None:
    fund = consenting_late(morning, revoked_at="2020-04-05T02:00:00Z")
    assert morning.run(FRIDAY).kind == "NOTHING_TO_DO"
    for day in (MONDAY, TUESDAY):
        morning.end_of_day(day)
        morning.run(day)
        assert fund.number not in sent(morning, day, 0)
    require_sound(morning, FRIDAY, MONDAY, TUESDAY)


def test_refresh_early_while_the_next_date_is_staged_makes_it_stage_again(morning_with: MorningWith) -> None:
    morning = morning_with(consenting_late)
    fund = morning.funds[2]
    morning.end_of_day(MONDAY)
    work = attempt(morning.runtime, FEED, MONDAY, (FEED,))
    prepare(work)
    work.hold_back()
    work.evaluate_checks(work.stage())
    morning.run(FRIDAY)
    with pytest.raises(AudienceNotReadError):
        work.publish()
    morning.run(MONDAY)
    assert sent(morning, MONDAY, 0)[fund.number] == ("CURRENT", "DELTA")
    require_sound(morning, FRIDAY, MONDAY)
