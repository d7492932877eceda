"""Landed facts of reversals, causes of cash, and numbers that several portfolios share."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Portfolio, Row
from classfeed_dagster_tests.fixtures.reading_back import CLASS, DAY, START, Frames, take

AT = START


def _land(bigsite: Bigsite, store: ObjectStore) -> Frames:
    assert bigsite.engine is not None
    bigsite.end_of_day(DAY).save()
    return take(bigsite.engine, store, DAY, (CLASS,))[1]


def _reversals(landed: Frames, table: str) -> list[tuple[bool, int]]:
    rows = landed[table].filter(pl.col(f"reverses_{table}_id").is_not_null())
    return [(row["undoes_exactly"], row["reversals_standing"]) for row in rows.iter_rows(named=True)]


def _originals(bigsite: Bigsite, fund: Portfolio) -> dict[str, Row]:
    bhp = bigsite.security("BHP")
    return {
        "trade": fund.buy(bhp, 10, "2", on=DAY, recorded_at=AT),
        "security_movement": fund.security_movement(bhp, "TRANSFER_IN", 5, on=DAY, recorded_at=AT),
        "income": fund.dividend(bhp, "0.50", on=DAY, recorded_at=AT),
        "cash_transaction": fund.deposit("7.00", on=DAY, recorded_at=AT),
    }


@pytest.fixture
def bigsite(bigsite_engine: sa.Engine) -> Bigsite:
    return Bigsite(bigsite_engine)


def test_reversal_of_the_whole_row_is_exact_and_unique(bigsite: Bigsite, local_store: ObjectStore) -> None:
    fund = bigsite.portfolio().consent()
    for row in _originals(bigsite, fund).values():
        fund.reverse(row, AT)
    landed = _land(bigsite, local_store)
    for table in ("trade", "security_movement", "income", "cash_transaction"):
        assert set(_reversals(landed, table)) == {(True, 1)}, table


def test_reference_lands_with_the_date_of_its_row(bigsite: Bigsite, local_store: ObjectStore) -> None:
    fund = bigsite.portfolio().consent()
    for row in _originals(bigsite, fund).values():
        fund.reverse(row, AT)
    landed = _land(bigsite, local_store)
    for table in ("trade", "security_movement", "income", "cash_transaction"):
        rows = landed[table].filter(pl.col(f"reverses_{table}_id").is_not_null())
        assert {str(day) for day in rows["reversed_on"]} == {str(DAY)}, table
    caused = landed["cash_transaction"].filter(pl.col("trade_id").is_not_null() | pl.col("income_id").is_not_null())
    assert caused["related_on"].null_count() == 0 < caused.height


@pytest.mark.parametrize(
    ("table", "changed"),
    [
        ("trade", {"units": Decimal(-8)}),
        ("trade", {"units": Decimal(10)}),
        ("trade", {"side": "SELL"}),
        ("trade", {"net_amount": Decimal("-1.00")}),
        ("trade", {"security_id": "other"}),
        ("security_movement", {"units_change": Decimal(5)}),
        ("security_movement", {"security_id": "other"}),
        ("income", {"net_amount": Decimal("-0.01")}),
        ("income", {"security_id": "other"}),
        ("cash_transaction", {"amount": Decimal("-6.99")}),
        ("cash_transaction", {"cash_account_id": "other"}),
    ],
)
def test_reversal_that_differs_in_one_value_is_not_exact(
    bigsite: Bigsite, local_store: ObjectStore, table: str, changed: dict[str, Any]
) -> None:
    fund = bigsite.portfolio().consent()
    row = _originals(bigsite, fund)[table]
    undone = fund.reverse(row, AT)
    others = {
        "security_id": lambda: bigsite.security("CBA").id,
        "cash_account_id": lambda: fund.cash_account("AUD").id,
    }
    for name, value in changed.items():
        undone[name] = others[name]() if value == "other" else value
    assert (False, 1) in _reversals(_land(bigsite, local_store), table)


def test_row_that_reverses_itself_is_not_exact(bigsite: Bigsite, local_store: ObjectStore) -> None:
    fund = bigsite.portfolio().consent()
    paid = fund.deposit("7.00", on=DAY, recorded_at=AT)
    paid["reverses_cash_transaction_id"] = paid.id
    assert _reversals(_land(bigsite, local_store), "cash_transaction") == [(False, 0)]


def test_second_reversal_counts_until_it_is_undone_itself(bigsite: Bigsite, local_store: ObjectStore) -> None:
    fund = bigsite.portfolio().consent()
    paid = fund.deposit("7.00", on=DAY, recorded_at=AT)
    fund.reverse(paid, AT)
    surplus = fund.reverse(paid, AT)
    assert _reversals(_land(bigsite, local_store), "cash_transaction") == [(True, 2), (True, 2)]
    fund.reverse(surplus, AT)
    again = Bigsite(bigsite.engine)
    assert again.engine is not None
    with again.engine.begin() as connection:
        values = {**surplus.values, "cash_transaction_id": 9_000_001, "amount": -surplus["amount"]}
        values["reverses_cash_transaction_id"] = surplus.id
        connection.execute(sa.insert(tables.cash_transaction).values(values))
    landed = take(again.engine, local_store, DAY, (CLASS,))[1]
    assert _reversals(landed, "cash_transaction") == [(True, 1), (True, 1), (True, 1)]


def test_owner_of_what_caused_a_cash_movement_lands(bigsite: Bigsite, local_store: ObjectStore) -> None:
    fund, other = bigsite.portfolio().consent(), bigsite.portfolio()
    bhp = bigsite.security("BHP")
    foreign = other.buy(bhp, 10, "2", on=DAY, recorded_at=AT)
    paid = other.dividend(bhp, "0.50", on=DAY, recorded_at=AT)
    fund.cash_transaction("SETTLEMENT", "-29.50", DAY, trade_id=foreign.id, recorded_at=AT, description="trade")
    fund.cash_transaction("INCOME", "5.00", DAY, income_id=paid.id, recorded_at=AT, description="income")
    fund.cash_transaction("DEPOSIT", "1.00", DAY, recorded_at=AT, description="none")
    landed = _land(bigsite, local_store)["cash_transaction"]
    owners = dict(landed.select("description", "related_portfolio_id").iter_rows())
    assert owners == {"trade": other.id, "income": other.id, "none": None}


def test_holders_of_one_hin_or_account_number_are_all_named(bigsite: Bigsite, local_store: ObjectStore) -> None:
    first, second = bigsite.portfolio().consent(), bigsite.portfolio()
    closed, alone = bigsite.portfolio(status="CLOSED").consent(), bigsite.portfolio().consent()
    second.row["hin"] = closed.row["hin"] = first.row["hin"]
    number = {"bsb": first.cash()["bsb"], "account_number": first.cash()["account_number"]}
    for name, value in number.items():
        second.cash()[name] = value
    alone.cash()
    both = f"{first.number}, {second.number}"
    landed = _land(bigsite, local_store)
    hins = dict(landed["portfolio"].select("portfolio_id", "hin_holders").iter_rows())
    assert hins == {first.id: both, closed.id: None, alone.id: None}
    accounts = dict(landed["cash_account"].select("portfolio_id", "number_holders").iter_rows())
    assert accounts[first.id] == both
    assert accounts[alone.id] is None
