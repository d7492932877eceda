"""Kinds of faults from public reports of this job; docs/results/fault-log.md names each report and its outcome."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster_tests.feed_run.test_bad_values import DAY, assert_reconciled, deliver
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio, Row
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

NEXT = "2026-03-03"


@pytest.fixture
def day(desk: Desk) -> Desk:
    """Create one date with every kind of row that must be delivered unchanged."""
    first_customer, other = desk.two_customers()
    bigsite = desk.bigsite
    for _ in range(2):  # two purchases that are equal in everything but their key
        first_customer.deposit("12.50", DAY, description="cinema")
    for fund, amount in (
        (first_customer, "50.00"),
        (first_customer, "-7.00"),
    ):  # units that a reversal removes, and units that it returns
        fund.reverse(fund.cash_transaction("FEE" if amount[0] == "-" else "DEPOSIT", amount, DAY), "2026-03-02T03:00Z")
    first_customer.cash_transaction("INTEREST", "0.00", DAY)  # a line that only informs
    first_customer.cash_transaction("DEPOSIT", "-3.00", DAY)  # a sign against its type
    other.cash_transaction("WITHDRAWAL", "-99999.00", DAY)  # overdrawn
    split = bigsite.security("SPLT", price={DAY: "2.00"})
    first_customer.security_movement(split, "TRANSFER_IN", "2", on=DAY)
    for units in ("-2", "10"):  # a split as the old units out and the new ones in
        first_customer.security_movement(split, "SPLIT", units, on=DAY)
    first_customer.security_movement(split, "SPLIT", "4.06", on=DAY)  # and one of an odd ratio
    free = bigsite.security("FREE", price={DAY: "1.00"})
    first_customer.buy(free, "5", "0.00", DAY, brokerage="0.00")  # reinvested at a price of nothing
    for exchange, currency in (("NASDAQ", "USD"), ("XETR", "EUR")):  # one ISIN, two listings
        listed = bigsite.security(
            "GOOG", price={DAY: "10.00"}, exchange=exchange, currency=currency, isin="US02079K1079"
        )
        first_customer.security_movement(listed, "TRANSFER_IN", "1", on=DAY)
    desk.end_of_day(DAY)
    deliver(desk)
    return desk


def moved(desk: Desk, **match: Any) -> pl.DataFrame:
    rows: pl.DataFrame = desk.records(DAY)["movement_transactions"].filter(pl.col("portfolio_number") == "SW00000001")
    return rows.filter(**match)


def test_unusual_rows_are_delivered_as_stated_and_balance(day: Desk) -> None:
    assert day.manifest(DAY).held_back == ()
    assert moved(day, narrative="cinema").height == 2
    undone = moved(day).filter(pl.col("reverses").is_not_null())
    assert sorted(undone["amount"].to_list()) == [Decimal("-50.00"), Decimal("7.00")]
    assert moved(day, transaction_type="CASH_INTEREST")["amount"].to_list() == [Decimal("0.00")]
    assert Decimal("-3.00") in moved(day, transaction_type="CASH_DEPOSIT")["amount"].to_list()
    assert sorted(moved(day, transaction_type="SPLIT")["units"].to_list()) == [-2, Decimal("4.06"), 10]
    assert moved(day, security_code="FREE")["price"].to_list() == [Decimal("0.000000")]
    holdings = day.records(DAY)["investment_holdings"].filter(pl.col("isin") == "US02079K1079")
    assert sorted(holdings["exchange"].to_list()) == ["NASDAQ", "XETR"]
    balances = day.records(DAY)["account_balances"]["ledger_balance"].to_list()
    assert min(balances) < 0
    assert_reconciled(day)


def _ledger_row(desk: Desk, fund: Portfolio, row: Row, **changes: Any) -> None:
    key = tables.cash_transaction.c.cash_transaction_id
    for rows in (desk.bigsite.rows, fund.ledger):
        rows[tables.cash_transaction].remove(row)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.delete(tables.cash_transaction).where(key == row.id))


def test_row_that_returns_under_another_id_is_held_back(desk: Desk) -> None:
    first_customer, _ = desk.two_customers()
    pending = first_customer.deposit("50.00", DAY)
    desk.end_of_day(DAY)
    deliver(desk)
    _ledger_row(desk, first_customer, pending)
    first_customer.deposit("50.00", DAY, recorded_at="2026-03-03T02:00Z")
    desk.end_of_day(NEXT)
    deliver(desk, NEXT)
    (hold,) = desk.manifest(NEXT).held_back
    assert (hold.number, hold.rules[0].rule) == (first_customer.number, "delivered_balance")


def test_id_sent_for_another_portfolio_is_not_sent_again(desk: Desk) -> None:
    """bigsite was restored from an older backup, and its sequence gives ids a second time."""
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    first_customer, other = desk.two_customers()
    third = desk.bigsite.portfolio("SW00000003").consent(granted_at="2026-02-20T00:00:00Z")
    third.deposit("1.00", "2026-02-23")
    lost = first_customer.deposit("50.00", DAY)
    desk.end_of_day(DAY)
    deliver(desk)
    _ledger_row(desk, first_customer, lost)
    again = other.deposit("50.00", NEXT)
    again.values["cash_transaction_id"] = lost.id
    desk.end_of_day(NEXT)
    deliver(desk, NEXT)
    assert sorted(hold.number for hold in desk.manifest(NEXT).held_back) == [first_customer.number, other.number]
    assert f"C{lost.id}" not in desk.records(NEXT)["movement_transactions"]["transaction_id"].to_list()


def test_code_given_to_a_new_company_names_each_by_its_date(desk: Desk) -> None:
    first_customer, _ = desk.two_customers()
    security = desk.bigsite.security("REUSE", price={"2026-02-25": "1.00"}, isin="AU000000BHP4")
    first_customer.buy(security, "10", "1.00", "2026-02-24")
    first_customer.sell(security, "10", "1.00", "2026-02-25")
    desk.bigsite.code_change(security, "2026-02-27", "REUSEX")
    fresh = desk.bigsite.security("REUSE", price={DAY: "9.00"}, isin="AU000000CBA7")
    first_customer.buy(fresh, "3", "9.00", DAY)
    desk.end_of_day(DAY)
    deliver(desk)
    named = moved(desk, security_code="REUSE").select("transaction_date", "isin").unique().sort("transaction_date")
    assert named["isin"].to_list() == ["AU000000BHP4", "AU000000BHP4", "AU000000CBA7"]
    holding = desk.records(DAY)["investment_holdings"].filter(pl.col("security_code") == "REUSE")
    assert holding["units"].to_list() == [Decimal("3.000000")]
    assert_reconciled(desk)


def test_equal_numbers_of_another_scale_are_no_change(desk: Desk) -> None:
    desk.two_customers(DAY)
    deliver(desk)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bigsite.security_price ALTER close_price TYPE numeric(18, 4)"))
    at = morning_after(dt.date.fromisoformat(DAY)) + dt.timedelta(hours=1)
    assert desk.run(DAY, at=at, fresh_snapshot=True).outcome in ("nothing to do", "stopped by checks")
    assert len(desk.status(DAY).deliveries) == 1


def test_schedules_avoid_the_hour_that_a_clock_change_skips(desk: Desk) -> None:
    crons = {
        schedule_def.name: schedule_def.cron_schedule
        for schedule_def in desk.definitions.get_repository_def().schedule_defs
    }
    assert len(crons) > 3
    assert [name for name, cron in crons.items() if str(cron).split()[1] == "2"] == []
