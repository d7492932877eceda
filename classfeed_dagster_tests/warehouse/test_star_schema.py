"""The star schema as an analyst meets it: every declared dimension is filled, and ten questions have answers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.columns import warehouse_tables
from classfeed_dagster.warehouse.database import query
from classfeed_dagster.warehouse.load import FACTS, load_delivery
from classfeed_dagster.warehouse.schema import ensure_dates, stored_table
from classfeed_dagster_tests.fixtures import reconciliation_world as w

# Two feeds may deliver the same row: figures are by feed.
QUESTIONS = {
    "value of all holdings by financial year and currency":
        "SELECT F.FEED, D.FINANCIAL_YEAR, F.CURRENCY, SUM(F.MARKET_VALUE) FROM FACT_HOLDING_DAILY F "
        "JOIN DIM_DATE D ON D.CALENDAR_DATE = F.BUSINESS_DATE GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    "value by security type":
        "SELECT FEED, SECURITY_TYPE, SUM(MARKET_VALUE) FROM HOLDING_AS_WAS GROUP BY 1, 2 ORDER BY 1, 2",
    "largest holding of each portfolio":
        "SELECT FEED, PORTFOLIO_NUMBER, SECURITY_CODE, MARKET_VALUE FROM HOLDING_AS_WAS "
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY FEED, PORTFOLIO_NUMBER ORDER BY MARKET_VALUE DESC) = 1 ORDER BY 1, 2",
    "cash by entity type":
        "SELECT F.FEED, P.ENTITY_TYPE, SUM(F.LEDGER_BALANCE) FROM FACT_CASH_BALANCE_DAILY F "
        "JOIN DIM_PORTFOLIO P ON P.PORTFOLIO_KEY = F.PORTFOLIO_KEY AND P.IS_CURRENT GROUP BY 1, 2 ORDER BY 1, 2",
    "cash accounts by status":
        "SELECT STATUS, COUNT(*) FROM DIM_CASH_ACCOUNT WHERE IS_CURRENT GROUP BY 1",
    "movements by weekday":
        "SELECT F.FEED, D.WEEKDAY_NUMBER, COUNT(*) FROM FACT_MOVEMENT F "
        "JOIN DIM_DATE D ON D.CALENDAR_DATE = F.TRANSACTION_DATE GROUP BY 1, 2 ORDER BY 1, 2",
    "brokerage by month":
        "SELECT F.FEED, D.YEAR_NUMBER, D.MONTH_NUMBER, SUM(F.BROKERAGE) FROM FACT_MOVEMENT F "
        "JOIN DIM_DATE D ON D.CALENDAR_DATE = F.TRANSACTION_DATE WHERE F.BROKERAGE IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    "movements recorded after their own day's cut-off":
        "SELECT F.FEED, COUNT(*) FROM FACT_MOVEMENT F JOIN DIM_DATE D ON D.CALENDAR_DATE = F.TRANSACTION_DATE "
        "WHERE F.RECORDED_AT >= D.CUTOFF_AT GROUP BY 1",
    "trades that settle on a business day":
        "SELECT F.FEED, COUNT(*) FROM FACT_MOVEMENT F JOIN DIM_DATE D ON D.CALENDAR_DATE = F.SETTLEMENT_DATE "
        "WHERE D.IS_BUSINESS_DAY GROUP BY 1",
    "portfolios delivered by change of consent":
        "SELECT F.FEED, CONSENT_CHANGE, COUNT(DISTINCT PORTFOLIO_NUMBER) FROM FACT_DELIVERY F "
        "JOIN DIM_DATE D ON D.CALENDAR_DATE = F.BUSINESS_DATE WHERE F.IS_LATEST GROUP BY 1, 2 ORDER BY 1, 2",
}  # fmt: skip


def _to_cents(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    # The local Snowflake adds NUMBERs up in binary.
    return [tuple(round(value, 2) if isinstance(value, float) else value for value in row) for row in rows]


def _copy(warehouse: Any, table: str, feed: str) -> int:
    query(warehouse, f"CREATE TEMPORARY TABLE COPIES AS SELECT * FROM {table}")
    query(warehouse, f"UPDATE COPIES SET FEED = '{feed}'")
    query(warehouse, f"INSERT INTO {table} SELECT * FROM COPIES")
    query(warehouse, "DROP TABLE COPIES")
    ((rows,),) = query(warehouse, f"SELECT COUNT(*) FROM {table} WHERE FEED = '{feed}'")
    return int(rows)


@pytest.fixture
def loaded(bigsite_engine: sa.Engine, local_store: ObjectStore, warehouse: Any) -> tuple[w.World, Any]:
    world = w.make_world(6)
    world.load(bigsite_engine)
    w.deliver(local_store, world, world.frames(), w.land(bigsite_engine, local_store))
    load_delivery(warehouse, local_store, w.FEED, w.DAY, EPI)
    return world, warehouse


def test_load_fills_every_dimension_and_answers_ten_questions(loaded: tuple[w.World, Any]) -> None:
    world, warehouse = loaded
    for table in warehouse_tables():
        if table.startswith("DIM_"):
            ((rows,),) = query(warehouse, f"SELECT COUNT(*) FROM {table}")
            assert rows, table
    answers = {name: query(warehouse, text) for name, text in QUESTIONS.items()}
    assert [name for name, rows in answers.items() if not rows] == []
    frames = world.frames()
    value = answers["value of all holdings by financial year and currency"]
    assert {row[1] for row in value} == {2025}
    assert sum(row[3] for row in value) == frames["investment_holdings"]["market_value"].sum()
    assert sum(rows for _, _, rows in answers["movements by weekday"]) == frames["movement_transactions"].height
    # Another feed delivers the same rows: each feed's figures stay, and no dimension has a row twice.
    copies = {table: _copy(warehouse, table, "class_trade") for table in map(stored_table, FACTS)}
    assert all(copies.values())
    for name in QUESTIONS.keys() - {"cash accounts by status"}:  # a question of a dimension alone
        both = _to_cents(query(warehouse, QUESTIONS[name]))
        assert [row for row in both if row[0] == w.FEED] == _to_cents(answers[name]), name
        assert [row[1:] for row in both if row[0] == "class_trade"] == [row[1:] for row in _to_cents(answers[name])], (
            name
        )
    assert answers["portfolios delivered by change of consent"] == [
        (w.FEED, "CURRENT", 4),
        (w.FEED, "NEW", 1),
        (w.FEED, "REMOVED", 1),
    ]


def test_dates_grow_with_the_years_and_are_filled_once(warehouse: Any) -> None:
    first = ensure_dates(warehouse, dt.date(2025, 3, 12))
    assert ensure_dates(warehouse, dt.date(2025, 6, 30)) == first
    assert ensure_dates(warehouse, dt.date(2026, 1, 5)) == first + 365
    ((rows, distinct),) = query(warehouse, "SELECT COUNT(*), COUNT(DISTINCT CALENDAR_DATE) FROM DIM_DATE")
    assert rows == distinct == first + 365
