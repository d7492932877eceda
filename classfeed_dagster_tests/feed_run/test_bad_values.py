"""Values that are wrong without being unreadable: each touches its own customers, and the date is delivered."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

DAY = "2026-03-02"
LARGEST = Decimal("9999999999999999.99")


def deliver(desk: Desk, day: str = DAY, feed: str = "class_super") -> None:
    """Deliver a date by the steps of the job."""
    assert desk.deliver(day, feed=feed).kind == "DELIVERED", feed


def assert_reconciled(desk: Desk, day: str = DAY) -> None:
    """Reconcile a date with bigsite: no error, and nothing unexplained."""
    feed, date = desk.feed("class_super"), dt.date.fromisoformat(day)
    audience = feed.audience(desk.runtime.settings.first_business_date)
    result = PostDelivery(desk.runtime, feed, audience, date, "a1", morning_after(date)).source()
    assert (result.errors, result.metrics()["unexplained"]) == (0, 0), result.markdown()


def test_malformed_isin_is_excluded_with_a_warning(desk: Desk) -> None:
    first_customer, _ = desk.two_customers()
    desk.bigsite.rows[tables.security][0]["isin"] = "au000000bhp4"
    for code, isin in (("ONE", "AU000000BH4"), ("TWO", "AU 000000BHP")):
        first_customer.buy(desk.bigsite.security(code, price={DAY: "1.00"}, isin=isin), "10", "1.00", "2026-02-25")
    desk.end_of_day(DAY)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal("0.01")})
    deliver(desk)
    records = desk.records(DAY)
    holdings = records["investment_holdings"]
    assert holdings.height == 4
    assert holdings["isin"].null_count() == 4
    moved = records["movement_transactions"].filter(pl.col("security_code").is_not_null())
    assert moved["isin"].null_count() == moved.height > 0
    rules = desk.rules(DAY)
    assert (rules["holding_isin"], rules["movement_isin"]) == (4, 4)
    assert_reconciled(desk)


def test_page_ends_where_its_totals_cannot_be_stated(desk: Desk) -> None:
    """The largest balance by itself fits a control total; together with another customer's it does not."""
    largest_balance(desk)
    deliver(desk)
    assert_two_pages(desk)


def test_page_ends_where_its_totals_cannot_be_stated_in_shards(desk: Desk) -> None:
    small = {"executor": "multiprocess", "shard_portfolios": 1, "slice_portfolios": 1}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=small)
    desk.definitions = build_definitions(desk.runtime, desk.feeds)
    largest_balance(desk)
    report = desk.run(DAY)
    assert report.outcome == "delivered", report.message
    assert_two_pages(desk)


def largest_balance(desk: Desk) -> None:
    """Create two customers, and one with the largest balance that bigsite can state."""
    desk.two_customers()
    desk.bigsite.portfolio("SW00000003").consent(granted_at="2026-02-20T00:00:00Z").deposit(LARGEST, "2026-02-23")
    desk.end_of_day(DAY)


def assert_two_pages(desk: Desk) -> None:
    manifest = desk.manifest(DAY)
    assert (len(manifest.pages), manifest.held_back) == (2, ())
    assert_reconciled(desk)


def test_consent_with_an_impossible_history_excludes(desk: Desk) -> None:
    desk.two_customers()
    desk.bigsite.portfolio("SW00000003").consent(granted_at="2026-02-20T00:00:00Z").deposit("1.00", "2026-02-23")
    desk.end_of_day(DAY)
    poison = sa.text(
        "UPDATE bigsite.data_sharing_consent SET history_from = CAST(:day AS date) WHERE portfolio_id = :portfolio"
    )
    with desk.runtime.engine.begin() as connection:
        for portfolio, day in ((1, "infinity"), (2, "2202-04-01")):
            assert connection.execute(poison, {"day": day, "portfolio": portfolio}).rowcount == 1
    deliver(desk)
    assert desk.records(DAY)["accounts"]["portfolio_number"].to_list() == ["SW00000003"]
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
    deliver(desk)
    moved = desk.records(DAY)["movement_transactions"]
    whole = moved.filter(pl.col("portfolio_number") == other.number)
    shared = moved.filter(pl.col("portfolio_number") == first_customer.number)

    def references(rows: pl.DataFrame) -> set[str]:
        return {*rows["relates_to"].drop_nulls(), *rows["reverses"].drop_nulls()}

    assert references(whole) <= set(whole["transaction_id"])
    assert references(shared) <= set(shared["transaction_id"])
    assert len(references(whole)) > len(references(shared)) > 0
    assert_reconciled(desk)


@dataclass(frozen=True)
class Wrong:
    """A wrong value of one customer, the feeds that carry it, and a word of the reason."""

    statement: str  # with the customer's :portfolio, :bought and :moved securities and the :bystander's portfolio
    feeds: set[str]
    reason: str = ""


SUPER, TRADE, CASH = "class_super", "class_trade", "class_cash"
WRONG = {
    "HIN that is too short": Wrong(
        "UPDATE bigsite.portfolio SET hin = '12345' WHERE portfolio_id = :portfolio", {SUPER, TRADE}, "hin"
    ),
    "HIN without characters": Wrong(
        "UPDATE bigsite.portfolio SET hin = '' WHERE portfolio_id = :portfolio", {SUPER, TRADE}, "hin"
    ),
    "exchange without characters": Wrong(
        "UPDATE bigsite.security SET exchange = '' WHERE code = :bought", {SUPER, TRADE}, "exchange"
    ),
    "exchange with spaces": Wrong(
        "UPDATE bigsite.security SET exchange = E'A X\\t' WHERE code = :bought", {SUPER, TRADE}, "exchange"
    ),
    "exchange of a security that only moved": Wrong(
        "UPDATE bigsite.security SET exchange = 'A X' WHERE code = :moved", {SUPER}
    ),
    "price of a security": Wrong(
        "UPDATE bigsite.security_price SET close_price = 'NaN' WHERE security_id = "
        "(SELECT security_id FROM bigsite.security WHERE code = :bought)",
        {SUPER},
    ),
    "cash that another customer's trade caused": Wrong(
        "UPDATE bigsite.cash_transaction SET trade_id = (SELECT MIN(trade_id) FROM bigsite.trade WHERE portfolio_id = "
        ":bystander) WHERE cash_transaction_id = (SELECT MAX(cash_transaction_id) FROM bigsite.cash_transaction JOIN "
        "bigsite.cash_account USING (cash_account_id) WHERE portfolio_id = :portfolio AND transaction_type = 'DEPOSIT')",
        {SUPER, CASH},
    ),
    "confirmation recorded twice": Wrong(
        "UPDATE bigsite.trade SET confirmation_number = 'TWICE' WHERE portfolio_id = :portfolio AND price = 46",
        {SUPER, TRADE},
    ),
    "contract note that does not add up": Wrong(
        "UPDATE bigsite.trade SET net_amount = net_amount + 1 WHERE portfolio_id = :portfolio AND price = 2",
        {SUPER, TRADE},
    ),
    "price of a trade": Wrong(
        "UPDATE bigsite.trade SET price = 'NaN' WHERE portfolio_id = :portfolio AND price = 2", {SUPER, TRADE}
    ),
}


def test_wrong_value_holds_back_its_own_portfolio_where_it_is_carried(desk: Desk) -> None:
    """Each wrong value has a customer of its own. All are delivered in the feeds that do not carry the value."""
    bystander, _ = desk.two_customers()
    bhp = desk.bigsite.rows[tables.security][0]
    bystander.buy(bhp, "10", "46.00", DAY)
    customers: dict[str, Portfolio] = {}
    names: dict[str, dict[str, str]] = {}
    for at, wrong in enumerate(WRONG):
        customers[wrong] = fund = desk.bigsite.portfolio(f"SW0000010{at}").consent(granted_at="2026-02-20T00:00:00Z")
        names[wrong] = {"bought": f"B{at}", "moved": f"M{at}"}
        for _ in range(2):
            fund.buy(bhp, "10", "46.00", DAY)
        fund.buy(desk.bigsite.security(names[wrong]["bought"], price={DAY: "2.00"}), "10", "2.00", DAY)
        moved = desk.bigsite.security(names[wrong]["moved"], price={DAY: "1.00"})
        fund.security_movement(moved, "TRANSFER_IN", "5", DAY)
        fund.deposit("5000.00", DAY)
    desk.end_of_day(DAY)
    with desk.runtime.engine.begin() as connection:
        for wrong, case in WRONG.items():
            values = {"portfolio": customers[wrong].id, "bystander": bystander.id, **names[wrong]}
            bound = {name: value for name, value in values.items() if f":{name}" in case.statement}
            assert connection.execute(sa.text(case.statement), bound).rowcount > 0, wrong
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    report = desk.run(DAY, feed=SUPER)  # by the real job
    assert report.outcome == "delivered", report.message
    for feed in (SUPER, TRADE, CASH):
        if feed != SUPER:
            deliver(desk, feed=feed)
        manifest = desk.manifest(DAY, feed=feed)
        concerned = {wrong for wrong, case in WRONG.items() if feed in case.feeds}
        holds = {hold.number: " ".join(rule.detail or "" for rule in hold.rules) for hold in manifest.held_back}
        assert holds.keys() == {customers[wrong].number for wrong in concerned}, (feed, holds)
        everybody = {portfolio.number for portfolio in (*desk.bigsite.portfolios[:2], *customers.values())}
        assert {sent.number for sent in manifest.portfolios} == everybody - holds.keys()
        for wrong in concerned:
            assert WRONG[wrong].reason in holds[customers[wrong].number].lower(), (feed, wrong)
