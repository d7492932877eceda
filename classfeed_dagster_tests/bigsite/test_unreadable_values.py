"""A value that no feed can hold holds back its own portfolio, named by table, row and column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import snapshot, tables
from classfeed_dagster.bigsite.queries import CONSENT_TABLE, SCHEMAS
from classfeed_dagster.bigsite.source_connection import UnreadableSourceError
from classfeed_dagster.errors import CauseKind
from classfeed_dagster_tests.feed_run.test_bad_values import assert_reconciled
from classfeed_dagster_tests.fixtures.bigsite_builder import Portfolio, Row
from classfeed_dagster_tests.fixtures.desk import Desk, desk

__all__ = ["desk"]
DAY = "2026-03-02"
TO_COME = {("income", "recorded_at"), ("security_price", "price_date"), ("security_code_change", "effective_on")}
DATES = ("infinity", "-infinity", "20020-04-07", "0044-03-15 BC")
LANDED = (
    tables.portfolio,
    tables.cash_account,
    tables.holding_eod,
    tables.cash_balance_eod,
    tables.trade,
    tables.security_movement,
    tables.income,
    tables.cash_transaction,
    tables.security_price,
    tables.security_code_change,
    tables.data_sharing_consent,
)


@dataclass
class Case:
    """One unreadable value in one column of one portfolio's row."""

    column: sa.Column[Any]
    value: str
    portfolio: Portfolio
    row: Row


def poison_of(column: sa.Column[Any]) -> tuple[str, ...]:
    if isinstance(column.type, sa.Numeric):
        return ("NaN",)
    return DATES if isinstance(column.type, sa.Date | sa.DateTime) else ()


def customer(desk: Desk, number: str) -> dict[sa.Table, Row]:
    """Add a portfolio with a row in every landed table, each security its own."""
    bigsite = desk.bigsite
    share = bigsite.security(f"X{len(bigsite.portfolios):03d}", price={DAY: "45.50"})
    price = bigsite.rows[tables.security_price][-1]
    renamed = bigsite.code_change(share, "2026-03-01", f"Y{len(bigsite.portfolios):03d}")
    portfolio = bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z", expires_at="2027-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    trade = portfolio.buy(share, "100", "45.00", "2026-02-24")
    moved = portfolio.security_movement(share, "TRANSFER_IN", "5", on="2026-02-25")
    portfolio.dividend(share, "0.10", on="2026-02-27")
    return {
        tables.portfolio: portfolio.row,
        tables.cash_account: portfolio.accounts[0],
        tables.trade: trade,
        tables.security_movement: moved,
        tables.income: portfolio.ledger[tables.income][-1],
        tables.cash_transaction: portfolio.ledger[tables.cash_transaction][0],
        tables.security_price: price,
        tables.security_code_change: renamed,
        tables.data_sharing_consent: portfolio.consents[-1],
    }


def end_of_day_row(desk: Desk, table: sa.Table, portfolio: Portfolio) -> Row:
    owner = portfolio.row if table is tables.holding_eod else portfolio.accounts[0]
    (key,) = (column.name for column in owner.table.primary_key)
    return next(row for row in desk.bigsite.rows[table] if row[key] == owner[key])


@pytest.fixture
def cases(desk: Desk) -> list[Case]:
    """Put every unreadable value into every column of every landed table, each in a portfolio of its own."""
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": 1})
    matches: list[tuple[sa.Column[Any], str, Portfolio, dict[sa.Table, Row]]] = []
    for table in LANDED:
        for column in table.c:
            for value in poison_of(column):
                rows = customer(desk, f"SW{len(matches) + 1:08d}")
                matches.append((column, value, desk.bigsite.portfolios[-1], rows))
    for number in ("SW90000001", "SW90000002"):
        customer(desk, number)
    desk.end_of_day(DAY)
    created = []
    for column, value, portfolio, rows in matches:
        row = rows.get(column.table) or end_of_day_row(desk, column.table, portfolio)
        created.append(Case(column, value, portfolio, row))
    with desk.runtime.engine.begin() as connection:
        for case in created:
            keys = sa.and_(*(key == case.row[key.name] for key in case.column.table.primary_key))
            poison = sa.cast(sa.literal(case.value, sa.String), case.column.type)
            connection.execute(sa.update(case.column.table).where(keys).values({case.column.name: poison}))
    return created


def test_unreadable_value_holds_back_its_own_portfolio_only(desk: Desk, cases: list[Case]) -> None:
    report = desk.run(DAY)
    assert report.outcome == "delivered", report.message
    manifest = desk.manifest(DAY)
    sent = set(desk.records(DAY)["accounts"]["portfolio_number"])
    assert {"SW90000001", "SW90000002"} <= sent
    reasons = {hold.number: hold.reason for hold in manifest.held_back}
    assert not sent & reasons.keys()
    message = {case.portfolio.number for case in cases}
    assert reasons.keys() <= message
    silent = [case for case in cases if case.portfolio.number not in reasons]
    assert [f"{case.column} {case.value}" for case in silent if not harmless(case)] == []
    trade = next(case for case in cases if case.column is tables.trade.c.price)
    (record,) = [hold for hold in desk.status(DAY).quarantined if hold.number == trade.portfolio.number]
    details = {rule.rule: rule.detail for rule in record.held_back.rules}
    row = f"trade_id {trade.row.id}"
    wrong = f"trade.price of the row with {row} is not a number: correct the row in bigsite"
    assert details["unreadable_value"] == wrong


def harmless(case: Case) -> bool:
    """Return True if the value has no effect: not read, a consent's, or of a row of a later window."""
    table, column = case.column.table.name, case.column.name
    to_come = case.value in ("infinity", "20020-04-07") and (table, column) in TO_COME
    return column not in SCHEMAS[table].names or table == CONSENT_TABLE or to_come


def test_unreadable_values_above_the_limit_stop_the_snapshot(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit nothing is landed and the cause is bad data, so repair does not wait for bigsite."""
    monkeypatch.setattr(snapshot, "MAX_VALUES", 1)
    for number in ("SW00000001", "SW00000002"):
        customer(desk, number)
    desk.end_of_day(DAY)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("UPDATE bigsite.trade SET price = 'NaN'"))
    report = desk.run(DAY)
    assert report.outcome == "stopped"
    assert "more than 1 values that no feed can hold" in report.message
    assert UnreadableSourceError.kind is CauseKind.DATA


def test_widened_decimals_hold_back_only_what_a_document_cannot_hold(desk: Desk) -> None:
    first_customer, other = desk.two_customers(DAY)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": 1})
    with desk.runtime.engine.begin() as connection:
        for column in ("trade.units", "trade.net_amount", "cash_transaction.amount", "holding_eod.units"):
            table, _, name = column.partition(".")
            connection.execute(sa.text(f"ALTER TABLE bigsite.{table} ALTER {name} TYPE numeric(30, 8)"))
        change = "UPDATE bigsite.cash_transaction SET amount = amount + 0.004 WHERE cash_transaction_id = 1"
        connection.execute(sa.text(change))
    assert desk.deliver(DAY).kind == "DELIVERED"
    manifest = desk.manifest(DAY)
    assert [portfolio.number for portfolio in manifest.portfolios] == [other.number]
    (hold,) = manifest.held_back
    assert hold.number == first_customer.number
    assert "1 has more than 2 decimals: correct the row" in " ".join(rule.detail or "" for rule in hold.rules)
    assert_reconciled(desk, DAY)
