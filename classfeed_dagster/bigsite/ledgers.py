"""The four ledgers as the snapshot reads them: a FULL extract, or the rows of a window (DELTA)."""

# ruff: noqa: S608  # SQL is put together from this package's own text alone; every value travels as a parameter

from __future__ import annotations

import pyarrow as pa

from classfeed_dagster.bigsite.sql_types import (
    DATE,
    DELTA,
    FULL,
    ID,
    INSTANT,
    MONEY,
    PRICE,
    TEXT,
    UNITS,
    Query,
    columns,
)


def _ledger(table: str, schema: pa.Schema, source: str, date: str) -> Query:
    # The rows of one ledger, for FULL and DELTA portfolios apart: a DELTA can then go by the index on recorded_at.
    # ``reversed_portfolio_id`` is looked up by primary key, for the few rows that reverse another.
    def branch(wanted: str, extra: str) -> str:
        listed = ", ".join(_expression(name, table) for name in schema.names)
        return f"""SELECT w.position AS position, {listed}
FROM {wanted} w {source}
WHERE l.{date} >= w.history_from AND l.recorded_at < %(cutoff)s{extra}"""

    delta = " AND l.recorded_at >= w.recorded_from AND l.recorded_at >= %(earliest)s"
    sql = f"""WITH wanted_full AS ({FULL}), wanted_delta AS ({DELTA})
{branch("wanted_full", "")}
UNION ALL
{branch("wanted_delta", delta)}
ORDER BY position, recorded_at, {table}_id"""
    return Query(table, schema, sql)


def _expression(name: str, table: str) -> str:
    if name == "portfolio_id":
        return "w.portfolio_id"
    if name != "reversed_portfolio_id":
        return f"l.{name}"
    other = f"FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"
    owner = "o.portfolio_id"
    if table == "cash_transaction":
        other = (
            "FROM bigsite.cash_transaction o JOIN bigsite.cash_account oa ON oa.cash_account_id = o.cash_account_id "
            "WHERE o.cash_transaction_id = l.reverses_cash_transaction_id"
        )
        owner = "oa.portfolio_id"
    return f"CASE WHEN l.reverses_{table}_id IS NOT NULL THEN (SELECT {owner} {other}) END AS reversed_portfolio_id"


TRADE = _ledger(
    "trade",
    columns(
        portfolio_id=ID,
        trade_id=ID,
        security_id=ID,
        confirmation_number=TEXT,
        side=TEXT,
        trade_date=DATE,
        settlement_date=DATE,
        units=UNITS,
        price=PRICE,
        consideration=MONEY,
        brokerage=MONEY,
        gst=MONEY,
        other_fees=MONEY,
        net_amount=MONEY,
        currency=TEXT,
        reverses_trade_id=ID,
        reversed_portfolio_id=ID,
        recorded_at=INSTANT,
    ),
    "JOIN bigsite.trade l ON l.portfolio_id = w.portfolio_id",
    "trade_date",
)

SECURITY_MOVEMENT = _ledger(
    "security_movement",
    columns(
        portfolio_id=ID,
        security_movement_id=ID,
        security_id=ID,
        movement_type=TEXT,
        effective_date=DATE,
        units_change=UNITS,
        cost_base_change=MONEY,
        description=TEXT,
        reverses_security_movement_id=ID,
        reversed_portfolio_id=ID,
        recorded_at=INSTANT,
    ),
    "JOIN bigsite.security_movement l ON l.portfolio_id = w.portfolio_id",
    "effective_date",
)

INCOME = _ledger(
    "income",
    columns(
        portfolio_id=ID,
        income_id=ID,
        security_id=ID,
        income_type=TEXT,
        ex_date=DATE,
        payment_date=DATE,
        units_held=UNITS,
        gross_amount=MONEY,
        franked_amount=MONEY,
        unfranked_amount=MONEY,
        franking_credit=MONEY,
        withholding_tax=MONEY,
        net_amount=MONEY,
        currency=TEXT,
        reverses_income_id=ID,
        reversed_portfolio_id=ID,
        recorded_at=INSTANT,
    ),
    "JOIN bigsite.income l ON l.portfolio_id = w.portfolio_id",
    "payment_date",
)

CASH_TRANSACTION = _ledger(
    "cash_transaction",
    columns(
        portfolio_id=ID,
        cash_transaction_id=ID,
        cash_account_id=ID,
        transaction_type=TEXT,
        transaction_date=DATE,
        amount=MONEY,
        currency=TEXT,
        description=TEXT,
        trade_id=ID,
        income_id=ID,
        reverses_cash_transaction_id=ID,
        reversed_portfolio_id=ID,
        recorded_at=INSTANT,
    ),
    "JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id "
    "JOIN bigsite.cash_transaction l ON l.cash_account_id = a.cash_account_id",
    "transaction_date",
)

LEDGERS = (TRADE, SECURITY_MOVEMENT, INCOME, CASH_TRANSACTION)
