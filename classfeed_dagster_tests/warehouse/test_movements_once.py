"""FACT_MOVEMENT counts each movement once a feed, whatever dates carry it in full."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from classfeed_dagster.delivery.sent import positions_at
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.warehouse.database import query
from classfeed_dagster.warehouse.load import load_delivery
from classfeed_dagster_tests.fixtures.prepared_mornings import AUDIENCE, FRIDAY, MONDAY, TUESDAY, Morning

_SUMS = """SELECT PORTFOLIO_NUMBER, COALESCE(SUM(AMOUNT), 0)::NUMBER(38,2), COALESCE(SUM(UNITS), 0)::NUMBER(38,6),
    COUNT(*), COUNT(DISTINCT TRANSACTION_ID) FROM FACT_MOVEMENT GROUP BY 1 ORDER BY 1"""


def ledger_sums(morning: Morning) -> list[tuple[Decimal, Decimal]]:
    positions = positions_at(morning.runtime.store, FEED.name, AUDIENCE, TUESDAY)
    assert positions is not None
    cash = pl.col("kind") == "CASH"
    return [
        (Decimal(rows.filter(cash)["sent"].sum()), Decimal(rows.filter(~cash)["sent"].sum()))
        for fund in sorted(morning.funds, key=lambda item: item.number)
        for rows in [positions.filter(pl.col("portfolio_id") == fund.id)]
    ]


@pytest.fixture
def refreshed(morning: Morning) -> Morning:
    """Return three dates; on the second the first portfolio, which has an opening, was sent again in full."""
    first, second = morning.funds
    third = morning.bigsite.portfolio("SW00005003").consent(
        granted_at="2020-03-01T00:00:00Z", history_from=dt.date(2020, 4, 2)
    )
    third.deposit("1000.00", "2020-04-01")
    assert morning.bhp is not None
    third.buy(morning.bhp, "10", "20.00", "2020-04-01")
    morning.funds.append(third)
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY)
    for fund in (first, second, third):
        fund.deposit("5.00", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    for fund in (first, third):
        morning.refresh(fund, MONDAY)
    assert morning.run(MONDAY).kind == "DELIVERED"
    first.withdraw("7.00", TUESDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    return morning


def test_fact_adds_up_to_the_ledger_after_a_full_refresh(refreshed: Morning, warehouse: Any) -> None:
    expected = ledger_sums(refreshed)
    rows = 0
    for days in ((FRIDAY, MONDAY, TUESDAY, MONDAY), (TUESDAY, MONDAY, FRIDAY)):
        for day in days:
            load_delivery(warehouse, refreshed.runtime.store, FEED.name, day, EPI)
        loaded = query(warehouse, _SUMS)
        assert [(amount, units) for _, amount, units, *_ in loaded] == expected, days
        assert [(count, distinct) for *_, count, distinct in loaded] == [(count, count) for *_, count, _ in loaded]
        rows = sum(count for *_, count, _ in loaded)
    # What each date delivered stays readable.
    ((delivered,),) = query(warehouse, "SELECT COUNT(*) FROM DELIVERED_MOVEMENT")
    assert delivered > rows
