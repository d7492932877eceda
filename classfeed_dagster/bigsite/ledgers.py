"""Queries of the four ledgers: a FULL extract, or the rows of a window (DELTA)."""

# ruff: noqa: S608  # SQL is composed of this package's own text; every value is a parameter

from __future__ import annotations

import pyarrow as pa

from classfeed_dagster.bigsite.ledger_tables import DATES
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

_OF_PORTFOLIO = "JOIN bigsite.{table} l ON l.portfolio_id = w.portfolio_id"
_SOURCES = {
    **{table: _OF_PORTFOLIO.format(table=table) for table in ("trade", "security_movement", "income")},
    "cash_transaction": "JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id "
    "JOIN bigsite.cash_transaction l ON l.cash_account_id = a.cash_account_id",
}


def _ledger(table: str, **own: pa.DataType) -> Query:
    # Separate branches for FULL and DELTA portfolios, so that a DELTA can use the index on recorded_at. The third
    # branch reads rows of closed windows that no earlier snapshot saw, by primary key. Facts of a reversed row are
    # looked up by primary key, for the few rows that reverse another.
    source, date = _SOURCES[table], DATES[table]
    schema = columns(
        **{"portfolio_id": ID, f"{table}_id": ID, **own, f"reverses_{table}_id": ID},
        reversed_portfolio_id=ID,
        reversed_on=DATE,
        reversed_recorded_at=INSTANT,
        undoes_exactly=pa.bool_(),
        reversals_standing=ID,
        recorded_at=INSTANT,
    )

    def branch(scope: str, extra: str) -> str:
        listed = ", ".join(_expression(name, table) for name in schema.names)
        return f"""SELECT w.position AS position, {listed}
FROM {scope} w {source}
WHERE l.{date} >= w.history_from AND l.recorded_at < %(cutoff)s{extra}"""

    delta = " AND l.recorded_at >= w.recorded_from AND l.recorded_at >= %(earliest)s"
    late = f" AND l.recorded_at < w.recorded_from AND l.{table}_id = ANY(%(late_{table})s::bigint[])"
    sql = f"""WITH wanted_full AS ({FULL}), wanted_delta AS ({DELTA})
{branch("wanted_full", "")}
UNION ALL
{branch("wanted_delta", delta)}
UNION ALL
{branch("wanted_delta", late)}
ORDER BY position, recorded_at, {table}_id"""
    return Query(table, schema, sql)


def _expression(name: str, table: str) -> str:
    if name == "portfolio_id":
        return "w.portfolio_id"
    if name in _OF_CAUSES:
        trade, income = _OF_CAUSES[name]
        return _of_cause(trade, income, name)
    if name not in _OF_REVERSALS:
        return f"l.{name}"
    reverses = f"l.reverses_{table}_id"
    return f"CASE WHEN {reverses} IS NOT NULL THEN ({_OF_REVERSALS[name](table)}) END AS {name}"


# Facts of the row that caused a cash movement: the columns of a trade and of an income.
_OF_CAUSES = {
    "related_portfolio_id": ("portfolio_id", "portfolio_id"),
    "related_on": ("trade_date", "payment_date"),
    "related_recorded_at": ("recorded_at", "recorded_at"),
}


def _of_cause(trade: str, income: str, name: str) -> str:
    # Looked up by primary key.
    return f"""CASE WHEN l.trade_id IS NOT NULL
    THEN (SELECT o.{trade} FROM bigsite.trade o WHERE o.trade_id = l.trade_id)
    WHEN l.income_id IS NOT NULL
    THEN (SELECT o.{income} FROM bigsite.income o WHERE o.income_id = l.income_id)
    END AS {name}"""


# Columns in which a reversal equals its original, and columns in which it has the opposite sign.
SAME_IN_REVERSALS = {
    "trade": ("security_id", "cash_account_id", "side", "currency"),
    "security_movement": ("security_id",),
    "income": ("security_id", "currency"),
    "cash_transaction": ("cash_account_id", "currency"),
}
OPPOSITE_IN_REVERSALS = {
    "trade": ("units", "consideration", "brokerage", "gst", "other_fees", "net_amount"),
    "security_movement": ("units_change", "cost_base_change"),
    "income": (
        "gross_amount",
        "franked_amount",
        "unfranked_amount",
        "franking_credit",
        "withholding_tax",
        "net_amount",
    ),
    "cash_transaction": ("amount",),
}


def _reversed_portfolio(table: str) -> str:
    if table == "cash_transaction":
        return (
            "SELECT oa.portfolio_id FROM bigsite.cash_transaction o "
            "JOIN bigsite.cash_account oa ON oa.cash_account_id = o.cash_account_id "
            "WHERE o.cash_transaction_id = l.reverses_cash_transaction_id"
        )
    return f"SELECT o.portfolio_id FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"


def _reversed_on(table: str) -> str:
    return f"SELECT o.{DATES[table]} FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"


def _reversed_recorded_at(table: str) -> str:
    return f"SELECT o.recorded_at FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"


def _reversed_type(table: str) -> str:
    return f"SELECT o.movement_type FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"


def _undoes_exactly(table: str) -> str:
    # A row that names its own id undoes nothing. A row that was itself undone later is harmless.
    same = [f"o.{name} = l.{name}" for name in SAME_IN_REVERSALS[table]]
    opposite = [f"o.{name} IS NOT DISTINCT FROM -l.{name}" for name in OPPOSITE_IN_REVERSALS[table]]
    exact = " AND ".join([f"o.{table}_id <> l.{table}_id", *same, *opposite])
    return (
        f"SELECT ({exact}) OR {_undone(table, 'l')} FROM bigsite.{table} o WHERE o.{table}_id = l.reverses_{table}_id"
    )


def _reversals_standing(table: str) -> str:
    # Number of rows recorded by the cut-off that undo the same original and were not undone themselves.
    key, owner = f"{table}_id", _OWNER[table]
    return (
        f"SELECT COUNT(*) FROM bigsite.{table} v WHERE v.{owner} = l.{owner} AND v.reverses_{key} = l.reverses_{key} "
        f"AND v.{key} <> v.reverses_{key} AND v.recorded_at < %(cutoff)s AND NOT {_undone(table, 'v')}"
    )


def _undone(table: str, row: str) -> str:
    key, owner = f"{table}_id", _OWNER[table]
    return (
        f"EXISTS (SELECT 1 FROM bigsite.{table} u WHERE u.{owner} = {row}.{owner} AND u.reverses_{key} = {row}.{key} "
        f"AND u.{key} <> {row}.{key})"
    )


_OWNER = {
    "trade": "portfolio_id",
    "security_movement": "portfolio_id",
    "income": "portfolio_id",
    "cash_transaction": "cash_account_id",
}
_OF_REVERSALS = {
    "reversed_portfolio_id": _reversed_portfolio,
    "reversed_on": _reversed_on,
    "reversed_recorded_at": _reversed_recorded_at,
    "reversed_type": _reversed_type,
    "undoes_exactly": _undoes_exactly,
    "reversals_standing": _reversals_standing,
}

TRADE = _ledger(
    "trade",
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
)

SECURITY_MOVEMENT = _ledger(
    "security_movement",
    security_id=ID,
    movement_type=TEXT,
    effective_date=DATE,
    units_change=UNITS,
    cost_base_change=MONEY,
    description=TEXT,
    reversed_type=TEXT,
)

INCOME = _ledger(
    "income",
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
)

CASH_TRANSACTION = _ledger(
    "cash_transaction",
    cash_account_id=ID,
    transaction_type=TEXT,
    transaction_date=DATE,
    amount=MONEY,
    currency=TEXT,
    description=TEXT,
    trade_id=ID,
    income_id=ID,
    related_portfolio_id=ID,
    related_on=DATE,
    related_recorded_at=INSTANT,
)

LEDGERS = (TRADE, SECURITY_MOVEMENT, INCOME, CASH_TRANSACTION)


def look_back(query: Query) -> str:
    """Return the SQL for the ids of a ledger's rows in closed windows of the look-back, of DELTA portfolios.

    The date condition equals that of the ledger's own query: rows that no window sends are not read.
    """
    table, source, date = query.table, _SOURCES[query.table], DATES[query.table]
    return f"""WITH wanted_delta AS ({DELTA})
SELECT l.{table}_id FROM wanted_delta w {source}
WHERE l.{date} >= w.history_from AND l.recorded_at >= %(late_from)s AND l.recorded_at < %(latest)s
  AND l.recorded_at < w.recorded_from"""
