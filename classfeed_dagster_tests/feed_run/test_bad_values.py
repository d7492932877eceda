"""Values that are wrong without being unreadable: each touches its own customers, and the date is delivered."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.rehearsal import _reconcile
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

DAY = "2026-03-02"
LARGEST = Decimal("9999999999999999.99")


def assert_reconciled(desk: Desk) -> None:
    feed = desk.feed("class_super")
    proofs = _reconcile(desk.definitions, desk.instance, desk.runtime, feed, dt.date.fromisoformat(DAY))
    failures = [
        str(event.dagster_event.step_failure_data.error)[-3000:]
        for event in desk.instance.all_logs(desk.instance.get_runs(limit=1)[0].run_id)
        if event.dagster_event is not None and event.dagster_event.is_step_failure
    ]
    assert proofs[0].holds, (proofs[0].statement, failures)


@pytest.mark.parametrize("isin", ["au000000bhp4", "AU000000BH4", "AU 000000BHP"])
def test_malformed_isin_is_excluded_with_a_warning(desk: Desk, isin: str) -> None:
    desk.two_customers()
    desk.bigsite.rows[tables.security][0]["isin"] = isin
    desk.end_of_day(DAY)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal("0.01")})
    report = desk.run(DAY)
    assert report.outcome == "delivered", report.message
    records = desk.records(DAY)
    holdings = records["investment_holdings"]
    assert holdings.height == 2
    assert holdings["isin"].null_count() == 2
    moved = records["movement_transactions"].filter(pl.col("security_code").is_not_null())
    assert moved["isin"].null_count() == moved.height > 0
    rules = desk.rules(DAY)
    assert (rules["holding_isin"], rules["movement_isin"]) == (2, 2)
    assert_reconciled(desk)


def test_page_ends_where_its_totals_cannot_be_stated(desk: Desk) -> None:
    """The largest balance by itself fits a control total; together with another customer's it does not."""
    desk.two_customers()
    desk.bigsite.portfolio("SW00000003").consent(granted_at="2026-02-20T00:00:00Z").deposit(LARGEST, "2026-02-23")
    desk.end_of_day(DAY)
    report = desk.run(DAY)
    assert report.outcome == "delivered", report.message
    manifest = desk.manifest(DAY)
    assert (len(manifest.pages), manifest.held_back) == (2, ())
    assert_reconciled(desk)


def test_page_ends_where_its_totals_cannot_be_stated_in_shards(desk: Desk) -> None:
    small = {"executor": "multiprocess", "shard_portfolios": 1, "slice_portfolios": 1}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=small)
    desk.definitions = build_definitions(desk.runtime, desk.feeds)
    test_page_ends_where_its_totals_cannot_be_stated(desk)


@pytest.mark.parametrize("history", ["infinity", "2202-04-01"])
def test_consent_with_an_impossible_history_excludes(desk: Desk, history: str) -> None:
    desk.two_customers(DAY)
    with desk.runtime.engine.begin() as connection:
        poison = sa.text(
            "UPDATE bigsite.data_sharing_consent SET history_from = CAST(:day AS date) WHERE portfolio_id = 1"
        )
        connection.execute(poison, {"day": history})
    report = desk.run(DAY)
    assert report.outcome == "delivered", report.message
    assert desk.records(DAY)["accounts"]["portfolio_number"].to_list() == ["SW00000002"]
    assert_reconciled(desk)


def test_references_to_rows_before_the_shared_history_are_left_out(desk: Desk) -> None:
    first_customer, other = desk.two_customers()
    bhp = desk.bigsite.rows[tables.security][0]
    for fund, history in ((first_customer, dt.date(2026, 2, 26)), (other, None)):
        bought = fund.buy(bhp, "7", "45.00", "2026-02-25")  # settles on the 27th, which is shared
        fund.reverse(bought, "2026-02-26T03:00:00Z", trade_date=dt.date(2026, 2, 26))
        for row in desk.bigsite.rows[tables.data_sharing_consent]:
            if row["portfolio_id"] == fund.id:
                row["history_from"] = history
    desk.end_of_day(DAY)
    assert desk.run(DAY).outcome == "delivered"
    moved = desk.records(DAY)["movement_transactions"]
    whole = moved.filter(pl.col("portfolio_number") == other.number)
    shared = moved.filter(pl.col("portfolio_number") == first_customer.number)

    def references(rows: pl.DataFrame) -> set[str]:
        return {*rows["relates_to"].drop_nulls(), *rows["reverses"].drop_nulls()}

    assert references(whole) <= set(whole["transaction_id"])
    assert references(shared) <= set(shared["transaction_id"])
    assert len(references(whole)) > len(references(shared)) > 0
    assert_reconciled(desk)


@pytest.mark.parametrize("feed", ["class_super", "class_trade", "class_cash"])
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (tables.portfolio, "hin", "12345"),
        (tables.portfolio, "hin", ""),
        (tables.security, "exchange", ""),
        (tables.security, "exchange", "A X\t"),
    ],
)
def test_malformed_code_holds_its_own_portfolio_back(
    desk: Desk, table: sa.Table, column: str, value: str, feed: str
) -> None:
    first_customer, other = desk.two_customers()
    rare = desk.bigsite.security("RARE", price={DAY: "1.00"})
    first_customer.buy(rare, "10", "1.00", DAY)
    other.deposit("5.00", DAY)
    row = first_customer.row if table is tables.portfolio else rare
    desk.end_of_day(DAY)
    key = next(iter(table.primary_key))
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.update(table).where(key == row[key.name]).values({column: value}))
    report = desk.run(DAY, feed=feed)
    assert report.outcome == "delivered", report.message
    manifest = desk.manifest(DAY, feed=feed)
    # class_cash states neither HIN nor security: the portfolio is held back only in the feeds that would state it.
    concerned = [] if feed == "class_cash" else [first_customer.number]
    assert [hold.number for hold in manifest.held_back] == concerned
    assert {sent.number for sent in manifest.portfolios} == {first_customer.number, other.number} - {*concerned}
    reasons = " ".join(rule.detail or "" for hold in manifest.held_back for rule in hold.rules)
    assert not concerned or column in reasons.lower()


def test_row_of_another_ledger_holds_back_only_where_it_is_carried(desk: Desk) -> None:
    first_customer, other = desk.two_customers()
    bhp = desk.bigsite.security("BHP", price={DAY: "45.10"})
    bought = first_customer.buy(bhp, "10", "45.00", DAY)
    desk.end_of_day(DAY)
    with desk.runtime.engine.begin() as connection:  # the contract note of one trade is wrong
        changed = sa.update(tables.trade).where(tables.trade.c.trade_id == bought.id)
        connection.execute(changed.values(net_amount=tables.trade.c.net_amount + 1))
    holds = {}
    for feed in ("class_trade", "class_cash"):
        assert desk.run(DAY, feed=feed).outcome == "delivered"
        manifest = desk.manifest(DAY, feed=feed)
        holds[feed] = [entry.number for entry in manifest.held_back]
        assert other.number in {sent.number for sent in manifest.portfolios}
    assert holds == {"class_trade": [first_customer.number], "class_cash": []}


@pytest.mark.parametrize(("feed", "count"), [("class_trade", 1), ("class_cash", 0), ("class_super", 1)])
def test_unreadable_row_holds_back_only_where_it_is_carried(desk: Desk, feed: str, count: int) -> None:
    first_customer, _ = desk.two_customers()
    bhp = desk.bigsite.security("BHP", price={DAY: "45.10"})
    bought = first_customer.buy(bhp, "10", "45.00", DAY)
    desk.end_of_day(DAY)
    with desk.runtime.engine.begin() as connection:
        poison = sa.text("UPDATE bigsite.trade SET price = 'NaN' WHERE trade_id = :id")
        connection.execute(poison, {"id": bought.id})
    assert desk.run(DAY, feed=feed).outcome == "delivered"
    assert len(desk.manifest(DAY, feed=feed).held_back) == count


# What is wrong in bigsite, as statements, and the feeds that carry it.
CARRIED_BY = {
    "exchange of a security that only moved": (
        "UPDATE bigsite.security SET exchange = 'A X' WHERE code = 'RARE'",
        {"class_super"},
    ),
    "price of a security": (
        "UPDATE bigsite.security_price SET close_price = 'NaN' WHERE security_id = (SELECT security_id FROM "
        "bigsite.security WHERE code = 'BOUGHT')",
        {"class_super"},
    ),
    "cash that another customer's trade caused": (
        "UPDATE bigsite.cash_transaction SET trade_id = (SELECT MIN(trade_id) FROM bigsite.trade WHERE portfolio_id = 2) "
        "WHERE cash_transaction_id = (SELECT MAX(cash_transaction_id) FROM bigsite.cash_transaction WHERE "
        "transaction_type = 'DEPOSIT')",
        {"class_super", "class_cash"},
    ),
    "confirmation recorded twice": (
        "UPDATE bigsite.trade SET confirmation_number = 'TWICE' WHERE portfolio_id = 1 AND price = 45",
        {"class_super", "class_trade"},
    ),
}


@pytest.mark.parametrize("wrong", CARRIED_BY)
def test_wrong_value_holds_back_only_in_feeds_that_carry_it(desk: Desk, wrong: str) -> None:
    first_customer, other = desk.two_customers()
    bhp = desk.bigsite.rows[tables.security][0]
    rare = desk.bigsite.security("RARE", price={DAY: "1.00"})
    for fund in (other, first_customer, first_customer):
        fund.buy(bhp, "10", "45.00", DAY)
    first_customer.security_movement(rare, "TRANSFER_IN", "5", DAY)
    first_customer.buy(desk.bigsite.security("BOUGHT", price={DAY: "2.00"}), "10", "2.00", DAY)
    first_customer.deposit("5.00", DAY)
    desk.end_of_day(DAY)
    statement, concerned = CARRIED_BY[wrong]
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text(statement))
    holds: dict[str, set[str]] = {}
    for feed in ("class_super", "class_trade", "class_cash"):
        assert desk.run(DAY, feed=feed).outcome == "delivered"
        holds[feed] = {hold.number for hold in desk.manifest(DAY, feed=feed).held_back}
    assert {feed for feed, numbers in holds.items() if first_customer.number in numbers} == concerned, holds
