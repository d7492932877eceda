"""Unusual inputs, a customer each, through the steps of every feed's job over three dates; see the fault log."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster_tests.feed_run.test_bad_values import DAY, assert_reconciled, deliver
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio, Row
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

NEXT, THIRD = "2026-03-03", "2026-03-04"
SUPER, CASH, TRADE = FEEDS = ("class_super", "class_cash", "class_trade")
GRANTED = "2026-02-20T00:00:00Z"
EARLY = "2026-03-02T02:00:00Z"  # in the window of DAY


@dataclass
class Inputs:
    """A desk with a customer for each kind of input, by its name."""

    desk: Desk
    bhp: Row
    customers: dict[str, Portfolio] = field(default_factory=dict)

    def customer(self, kind: str, **consent: str) -> Portfolio:
        """Add a customer who has cash and a share."""
        number = f"SW{len(self.customers) + 101:08d}"
        fund = self.desk.bigsite.portfolio(number).consent(**({"granted_at": GRANTED} | consent))
        fund.deposit("10000.00", "2026-02-23")
        fund.buy(self.bhp, "100", "45.00", "2026-02-24")
        self.customers[kind] = fund
        return fund

    def sql(self, statement: str, **values: object) -> None:
        """Change bigsite."""
        with self.desk.runtime.engine.begin() as connection:
            assert connection.execute(sa.text(statement), values).rowcount > 0, statement

    def run(self, day: str, *feeds: str) -> None:
        """Deliver a date of some feeds, or of every feed."""
        for feed in feeds or FEEDS:
            deliver(self.desk, day, feed)

    def held_back(self, day: str, feed: str) -> dict[str, str]:
        """Return the reason of each kind of input that is held back."""
        kinds = {fund.number: kind for kind, fund in self.customers.items()}
        return {kinds[hold.number]: hold.reason for hold in self.desk.manifest(day, feed=feed).held_back}

    def ids(self, day: str, kind: str, feed: str = SUPER) -> list[str]:
        """Return the TransactionIds that a date sends of a kind of input."""
        moved = self.desk.records(day, feed=feed)["movement_transactions"]
        rows = moved.filter(pl.col("portfolio_number") == self.customers[kind].number)
        return list(rows["transaction_id"])


@pytest.fixture
def inputs(desk: Desk) -> Inputs:
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    return Inputs(desk, desk.bigsite.security("BHP", price={"2026-02-27": "45.10", DAY: "45.50"}))


def last(fund: Portfolio, table: sa.Table) -> int:
    """Return the key of the customer's last row of a ledger."""
    return fund.ledger[table][-1].id


def test_unusual_rows_of_one_date_hold_back_their_own_feeds_alone(inputs: Inputs) -> None:
    bigsite, bhp = inputs.desk.bigsite, inputs.bhp
    moved = inputs.customer("cost base change that is no number")
    moved.security_movement(bhp, "TRANSFER_IN", "5", DAY, cost_base_change="10.00")
    paid = inputs.customer("franking credit that is no number")
    paid.dividend(bhp, "30.00", DAY)
    holder = inputs.customer("cost base of a holding that is no number")
    ancient = inputs.customer("recorded before all time")
    ancient.deposit("2.00", DAY)
    fund = inputs.customer("reversal of a reversal")
    undone = fund.reverse(fund.deposit("5.00", DAY), "2026-03-02T04:00:00Z")
    fund.reverse(undone, "2026-03-02T05:00:00Z")
    fund = inputs.customer("reversal recorded before its original")
    fund.reverse(fund.deposit("4.00", DAY, recorded_at="2026-03-02T05:00:00Z"), "2026-03-02T01:00:00Z")
    fund = inputs.customer("reversal dated later than its original")
    undone = fund.deposit("4.00", DAY)
    fund.reverse(undone, "2026-03-02T04:00:00Z", transaction_date=dt.date(2026, 3, 9))
    inputs.customer("trade dated in the future").buy(bhp, "7", "45.00", "2026-03-09", recorded_at=EARLY)
    inputs.customer("settled before it was traded").buy(bhp, "7", "45.00", DAY, settlement_date=dt.date(2026, 2, 26))
    inputs.customer("trade of no units").buy(bhp, "0", "45.00", DAY, brokerage="0.00")
    inputs.customer("amount in another currency than its account's").cash_transaction(
        "DEPOSIT", "5.00", DAY, currency="USD"
    )
    inputs.customer("dated before the account was opened").deposit("3.00", "2019-05-01", recorded_at=EARLY)
    inputs.customer("dated in the year 1").deposit("2.00", "0001-01-01", recorded_at=EARLY)
    for kind in ("a confirmation number", "the same confirmation number of another customer"):
        inputs.customer(kind).buy(bhp, "1", "45.00", DAY, confirmation_number="SAME")
    inputs.customer("share that never had a price").security_movement(
        bigsite.security("NOPRICE"), "TRANSFER_IN", "3", DAY
    )
    fund = inputs.customer("two securities that swap their codes")
    swapped = [bigsite.security(code, price={DAY: price}) for code, price in (("SWA", "1.00"), ("SWB", "2.00"))]
    for security, units in zip(swapped, ("1", "2"), strict=True):
        fund.buy(security, units, "1.00", "2026-02-27")
    for security, code in zip(swapped, ("SWB", "SWA"), strict=True):
        bigsite.code_change(security, DAY, code)
    inputs.customer("income of a security that was never held").dividend(
        bigsite.security("NEVER", price={DAY: "1.00"}), "9.00", DAY
    )
    fund = inputs.customer("consent that ends as another begins")
    fund.consents[0]["revoked_at"] = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    fund.consent(granted_at="2026-03-01T00:00:00Z")
    fund = inputs.customer("two consents with other histories", history_from="2026-02-26")
    fund.consent(granted_at="2026-02-25T00:00:00Z", history_from="2026-02-24")
    fund = inputs.customer("two consents with other references")
    fund.consent(granted_at="2026-02-25T00:00:00Z", reference="OTHER")
    inputs.customer("narrative without characters").deposit("1.00", DAY, description="")
    inputs.customer("narrative with a control character").deposit("1.00", DAY, description="a\u0007b")
    inputs.customer("reference with markup", reference=' A<&"> ')
    fund = inputs.customer("two accounts with one number")
    fund.cash_account("USD", account_number=fund.cash()["account_number"])
    fund = inputs.customer("HIN of somebody who does not share")
    bigsite.portfolio("SW00000990", hin=fund.row["hin"])
    inputs.desk.end_of_day(DAY)
    inputs.sql("UPDATE bigsite.security_movement SET cost_base_change = 'NaN' WHERE portfolio_id = :id", id=moved.id)
    inputs.sql("UPDATE bigsite.income SET franking_credit = 'NaN' WHERE portfolio_id = :id", id=paid.id)
    inputs.sql("UPDATE bigsite.holding_eod SET cost_base = 'NaN' WHERE portfolio_id = :id", id=holder.id)
    inputs.sql(
        "UPDATE bigsite.cash_transaction SET recorded_at = '-infinity' WHERE cash_transaction_id = :id",
        id=last(ancient, tables.cash_transaction),
    )
    report = inputs.desk.run(DAY)  # by the real job, whose metadata and events carry the same inputs
    assert report.outcome == "delivered", report.message
    inputs.run(DAY, CASH, TRADE)
    everywhere = {"HIN of somebody who does not share"}
    with_cash = everywhere | {"amount in another currency than its account's", "recorded before all time"}
    assert inputs.held_back(DAY, TRADE).keys() == everywhere
    assert inputs.held_back(DAY, CASH).keys() == with_cash
    assert inputs.held_back(DAY, SUPER).keys() == with_cash | {
        "cost base change that is no number",
        "franking credit that is no number",
        "cost base of a holding that is no number",
        "narrative with a control character",
        "reference with markup",
    }
    accounts = inputs.desk.records(DAY)["accounts"]
    fund = inputs.customers["two consents with other references"]
    reference = accounts.filter(pl.col("portfolio_number") == fund.number)["recipient_reference"]
    assert reference.to_list() == ["OTHER"]
    assert_reconciled(inputs.desk)  # one event for each portfolio that is held back, and no error


def test_changes_between_two_dates_are_sent_once_or_held_back(inputs: Inputs) -> None:
    bhp, desk = inputs.bhp, inputs.desk
    for kind in (
        "rows of every ledger that are visible late", "account that is closed", "portfolio that is closed",
        "instant moved into the next window", "row moved to another account", "account that receives the row",
        "number that swaps", "number that is swapped", "consent extended by another", "consent with a shorter history",
        "trade that undoes a late one",
    ):  # fmt: skip
        inputs.customer(kind)
    funds = inputs.customers
    extended = funds["consent extended by another"]
    extended.consents[0]["expires_at"] = dt.datetime(2026, 3, 3, 1, tzinfo=dt.UTC)
    extended.consent(granted_at="2026-03-03T00:00:00Z")
    funds["consent with a shorter history"].consent(granted_at="2026-03-03T00:00:00Z", history_from="2026-03-01")
    desk.end_of_day(DAY)
    inputs.run(DAY)
    assert_reconciled(desk)
    late = funds["rows of every ledger that are visible late"]
    late.buy(bhp, "3", "45.00", DAY, recorded_at=EARLY)
    late.security_movement(bhp, "TRANSFER_IN", "2", DAY, recorded_at=EARLY)
    late.dividend(bhp, "8.00", DAY, recorded_at=EARLY)
    late.deposit("6.00", DAY, recorded_at=EARLY)
    fund = funds["trade that undoes a late one"]
    fund.reverse(fund.buy(bhp, "4", "45.00", DAY, recorded_at=EARLY), "2026-03-03T03:00:00Z")
    desk.end_of_day(NEXT)
    swapping, swapped = funds["number that swaps"], funds["number that is swapped"]
    for number, key in (("X", swapping.id), (swapping.number, swapped.id), (swapped.number, swapping.id)):
        inputs.sql(
            "UPDATE bigsite.portfolio SET portfolio_number = :number WHERE portfolio_id = :id", number=number, id=key
        )
    at = {"at": dt.datetime(2026, 3, 3, 2, tzinfo=dt.UTC)}
    for table, kind in (("cash_account", "account that is closed"), ("portfolio", "portfolio that is closed")):
        inputs.sql(
            f"UPDATE bigsite.{table} SET status = 'CLOSED', closed_on = '2026-03-03', updated_at = :at "
            "WHERE portfolio_id = :id",
            id=funds[kind].id,
            **at,
        )
    moved = funds["instant moved into the next window"]
    inputs.sql(
        "UPDATE bigsite.cash_transaction SET recorded_at = :at WHERE cash_transaction_id = :id",
        id=moved.ledger[tables.cash_transaction][0].id,
        **at,
    )
    inputs.sql(
        "UPDATE bigsite.cash_transaction SET cash_account_id = :account WHERE cash_transaction_id = :id",
        account=funds["account that receives the row"].cash().id,
        id=funds["row moved to another account"].ledger[tables.cash_transaction][0].id,
    )
    inputs.run(NEXT)
    of_cash = {"instant moved into the next window", "row moved to another account", "account that receives the row"}
    swap = {"number that swaps", "number that is swapped"}
    for feed, kinds in ((SUPER, of_cash | swap), (CASH, of_cash | swap), (TRADE, swap)):
        assert inputs.held_back(NEXT, feed).keys() == kinds, feed
    sent = inputs.ids(NEXT, "rows of every ledger that are visible late")
    assert sorted(name[0] for name in sent) == ["C", "C", "I", "S", "T"]
    undone = inputs.ids(NEXT, "trade that undoes a late one")
    assert [name[0] for name in undone] == ["T", "T"]
    changes = {entry.number: (entry.change, entry.extract) for entry in desk.manifest(NEXT).portfolios}
    for kind in ("consent extended by another", "consent with a shorter history"):
        assert changes[funds[kind].number] == ("CURRENT", "DELTA"), kind
    # Numbers restored, account and portfolio reopened: the next end of day saves the customers as they were.
    for number, fund in (("X1", swapping), ("X2", swapped)):
        inputs.sql(
            "UPDATE bigsite.portfolio SET portfolio_number = :number WHERE portfolio_id = :id",
            number=number,
            id=fund.id,
        )
    desk.end_of_day(THIRD)
    inputs.run(THIRD, SUPER)
    reopened = {"account that is closed", "portfolio that is closed"}
    held_back = inputs.held_back(THIRD, SUPER)
    assert not reopened & held_back.keys()
    assert {held_back[kind] for kind in swap} == {f"waiting for {NEXT}"}
    again = inputs.ids(THIRD, "rows of every ledger that are visible late")
    assert [name[0] for name in again] == ["C"]  # the trade's settlement
    assert not set(again) & set(sent)


def test_late_reversal_at_the_edge_of_the_look_back(inputs: Inputs) -> None:
    desk = inputs.desk
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"late_row_days": 4})
    recorded = {"within the look-back": "2026-02-28T02:00:00Z", "before the look-back": "2026-02-26T02:00:00Z"}
    originals = {kind: inputs.customer(kind).deposit("50.00", "2026-02-25") for kind in recorded}
    desk.end_of_day(DAY)
    inputs.run(DAY, SUPER)
    undone = {
        kind: inputs.customers[kind].reverse(originals[kind], recorded_at) for kind, recorded_at in recorded.items()
    }
    desk.end_of_day(NEXT)
    inputs.run(NEXT, SUPER)
    assert f"C{undone['within the look-back'].id}" in inputs.ids(NEXT, "within the look-back")
    held_back = inputs.held_back(NEXT, SUPER)
    assert held_back.keys() == {"before the look-back"}
    assert "delivered_balance" in held_back["before the look-back"]
