"""Numbers of a transaction at each of its places, equal while nothing changed and apart once bigsite did."""

import datetime as dt
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds import class_cash, class_trade
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.tracing.numbers import NumberRow, numbers_of
from classfeed_dagster.tracing.trace import Trace, trace, trace_cash, trace_holding
from classfeed_dagster.tracing.trace_page import holding_page, transaction_page
from classfeed_dagster.warehouse.rows import key_of
from classfeed_dagster_tests.fixtures.desk import Desk, at_a_desk
from classfeed_dagster_tests.fixtures.morning import deliver_date

MONDAY = "2026-03-02"


def test_numbers_of_a_trade_are_shown_at_each_place(desk: Desk) -> None:
    share = desk.bigsite.security("WPL", price={"2026-02-27": "33.00"})
    portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    portfolio.buy(share, "100", "33.00", "2026-02-24")
    desk.end_of_day(MONDAY)
    runtime = desk.runtime
    audience = FEED.audience(dt.date.fromisoformat(MONDAY))

    def found(warehouse: duckdb.DuckDBPyConnection | None = None) -> tuple[Trace, dict[str, NumberRow]]:
        row = trace(runtime.engine, runtime.store, FEED.name, audience, "T1", document_format=EPI)
        numbers = numbers_of(runtime.engine, runtime.store, FEED.name, row, EPI, warehouse)
        return row, {number.field: number for number in numbers}

    assert found()[1] == {}  # not delivered yet
    deliver_date(runtime, FEED, dt.date.fromisoformat(MONDAY), desk.feeds)
    row, numbers = found()
    assert numbers["Units"].cells == ("Units", "100", "100", "100", "")
    assert numbers["Price"].cells == ("Price", "33", "33", "33", "")
    assert "Amount" not in numbers  # of cash transactions
    page = transaction_page(row, FEED.name, list(numbers.values()))
    assert "numbers of the latest delivery" in page
    fields = (
        "UNITS", "PRICE", "CONSIDERATION", "BROKERAGE", "GST", "OTHER_FEES", "NET_AMOUNT", "COST_BASE_CHANGE",
        "GROSS_AMOUNT", "FRANKED_AMOUNT", "UNFRANKED_AMOUNT", "FRANKING_CREDIT", "WITHHOLDING_TAX", "NET_INCOME",
        "AMOUNT",
    )  # fmt: skip
    declared = ", ".join(f"{name} DECIMAL(38,6)" for name in fields)
    key = "FEED, BUSINESS_DATE, TRANSACTION_ID"
    with duckdb.connect() as warehouse:
        warehouse.execute(
            f"CREATE TABLE DELIVERED_MOVEMENT (FEED TEXT, BUSINESS_DATE DATE, TRANSACTION_ID TEXT, {declared})"
        )
        assert found(warehouse)[1]["Units"].warehouse is None  # not loaded
        warehouse.execute(f"INSERT INTO DELIVERED_MOVEMENT ({key}, UNITS) VALUES ('class_super', '{MONDAY}', 'T1', 99)")
        assert found(warehouse)[1]["Units"].cells == ("Units", "100", "100", "100", "99")


def test_numbers_of_a_holding_are_shown_at_each_place(desk: Desk) -> None:
    share = desk.bigsite.security("WPL", price={"2026-02-27": "33.00"})
    portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    portfolio.buy(share, "100", "33.00", "2026-02-24")
    desk.end_of_day(MONDAY)
    deliver_date(desk.runtime, FEED, dt.date.fromisoformat(MONDAY), desk.feeds)
    runtime = desk.runtime
    day = dt.date.fromisoformat(MONDAY)
    holding = trace_holding(
        runtime.engine, runtime.store, FEED.name, "SW00000001", ("ASX", "WPL"), day, document_format=EPI
    )
    with duckdb.connect() as warehouse:
        warehouse.execute(
            "CREATE TABLE FACT_HOLDING_DAILY AS SELECT 'class_super' AS FEED, DATE '2026-03-02' AS BUSINESS_DATE, "
            "'SW00000001' AS PORTFOLIO_NUMBER, 'ASX' AS EXCHANGE, 'WPL' AS SECURITY_CODE, 100::DECIMAL(38,6) AS UNITS, "
            "100::DECIMAL(38,6) AS SETTLED_UNITS, 33::DECIMAL(38,6) AS PRICE, 3300.5::DECIMAL(38,6) AS MARKET_VALUE, "
            "NULL::DECIMAL(38,6) AS COST_BASE"
        )
        numbers = numbers_of(runtime.engine, runtime.store, FEED.name, holding, EPI, warehouse)
    cells = {number.field: number.cells[1:] for number in numbers}
    assert cells["Units"] == ("100", "100", "100", "100")
    assert cells["Price"] == ("33", "33", "33", "33")
    assert cells["MarketValue"] == ("", "", "3300", "3300.5")  # computed from units and price
    assert "numbers of the latest delivery" in holding_page(holding, FEED.name, numbers)


def test_numbers_of_a_cash_balance_are_shown_at_each_place(desk: Desk) -> None:
    portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    desk.end_of_day(MONDAY)
    deliver_date(desk.runtime, FEED, dt.date.fromisoformat(MONDAY), desk.feeds)
    runtime, day = desk.runtime, dt.date.fromisoformat(MONDAY)
    record = trace_cash(runtime.engine, runtime.store, FEED.name, "SW00000001", "AUD", day, document_format=EPI)
    with runtime.engine.connect() as connection:
        account = connection.execute(sa.text("SELECT account_number FROM bigsite.cash_account")).scalar_one()
    with duckdb.connect() as warehouse:
        warehouse.execute(
            "CREATE TABLE FACT_CASH_BALANCE_DAILY AS SELECT 'class_super' AS FEED, DATE '2026-03-02' AS BUSINESS_DATE, "
            f"'{key_of('CLASS', 'SW00000001', 'AUD', account)}' AS CASH_ACCOUNT_KEY, "
            "10000.00::DECIMAL(38,6) AS LEDGER_BALANCE, 9999.5::DECIMAL(38,6) AS AVAILABLE_BALANCE"
        )
        numbers = numbers_of(runtime.engine, runtime.store, FEED.name, record, EPI, warehouse)
    assert [number.cells for number in numbers] == [
        ("LedgerBalance", "10000", "10000", "10000", "10000"),
        ("AvailableBalance", "10000", "10000", "10000", "9999.5"),
    ]


@pytest.mark.parametrize(
    ("feed", "transaction", "field", "number"),
    [(class_trade.FEED, "T1", "units", "100"), (class_cash.FEED, "C1", "amount", "10000")],
)
def test_numbers_of_a_csv_line_are_shown_at_each_place(
    bigsite_engine: sa.Engine, tmp_path: Path, feed: Feed, transaction: str, field: str, number: str
) -> None:
    with at_a_desk(bigsite_engine, tmp_path, [feed]) as desk:
        share = desk.bigsite.security("WPL", price={"2026-02-27": "33.00"})
        portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(share, "100", "33.00", "2026-02-24")
        desk.end_of_day(MONDAY)
        deliver_date(desk.runtime, feed, dt.date.fromisoformat(MONDAY), desk.feeds)
        runtime, audience = desk.runtime, feed.audience(dt.date.fromisoformat(MONDAY))
        row = trace(runtime.engine, runtime.store, feed.name, audience, transaction, document_format=feed.format)
        numbers = numbers_of(runtime.engine, runtime.store, feed.name, row, feed.format, None)
    assert {item.field: item.cells for item in numbers}[field] == (field, number, number, number, "")
