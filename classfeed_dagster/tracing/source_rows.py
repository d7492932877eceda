"""Rows of bigsite that a trace begins with. Imports nothing of the data path: an unknown id is refused at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.ledger_tables import DATES, LETTERS
from classfeed_dagster.errors import UsageError
from classfeed_dagster.tracing.transaction_id import split_transaction_id

_TABLES = {letter: table for table, letter in LETTERS.items()}


class NotAHoldingError(UsageError):
    """bigsite has no such portfolio, or no security with this code on the date."""


class NotACashAccountError(UsageError):
    """The portfolio has no such cash account, or several in the currency."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """The row as it is in bigsite now."""

    table: str
    key: int
    portfolio_number: str
    business_date: dt.date  # date of the transaction
    recorded_at: dt.datetime  # UTC


def ledger_row(engine: sa.Engine, transaction_id: str) -> SourceRow | None:
    """Return the ledger row with this id, or None. NotATransactionError for any other text."""
    letter, key = split_transaction_id(transaction_id)
    table = _TABLES[letter]
    ledger = tables.metadata.tables[f"{tables.SCHEMA}.{table}"]
    owner = ledger
    joined: sa.FromClause = ledger
    if "portfolio_id" not in ledger.c:
        joined = ledger.join(tables.cash_account, ledger.c.cash_account_id == tables.cash_account.c.cash_account_id)
        owner = tables.cash_account
    joined = joined.join(tables.portfolio, tables.portfolio.c.portfolio_id == owner.c.portfolio_id)
    query = (
        sa.select(tables.portfolio.c.portfolio_number, ledger.c[DATES[table]], ledger.c.recorded_at)
        .select_from(joined)
        .where(ledger.c[f"{table}_id"] == key)
    )
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else SourceRow(table, key, row[0], row[1], row[2].astimezone(dt.UTC))


def holding_keys(connection: sa.Connection, number: str, security: tuple[str, str], day: dt.date) -> tuple[int, int]:
    """Return the keys of a portfolio and of a security (exchange, code as on ``day``). NotAHoldingError."""
    exchange, code = security
    portfolio_id: int | None = connection.execute(
        sa.select(tables.portfolio.c.portfolio_id).where(tables.portfolio.c.portfolio_number == number)
    ).scalar_one_or_none()
    security_id = _security_id(connection, exchange, code, day)
    if portfolio_id is None or security_id is None:
        missing = f"portfolio {number}" if portfolio_id is None else f"security {exchange}:{code} on {day.isoformat()}"
        raise NotAHoldingError(f"bigsite has no {missing}: give the number and code as in the document")
    return portfolio_id, security_id


def _security_id(connection: sa.Connection, exchange: str, code: str, day: dt.date) -> int | None:
    # The code on a day is the old code of the earliest change after it, else today's.
    security, change = tables.security.c, tables.security_code_change.c
    old_code = (
        sa.select(change.old_code)
        .where(change.security_id == security.security_id, change.effective_on > day)
        .order_by(change.effective_on)
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(security.security_id).where(
        security.exchange == exchange, sa.func.coalesce(old_code, security.code) == code
    )
    security_id: int | None = connection.execute(query).scalar()
    return security_id


def cash_account(connection: sa.Connection, number: str, account: str) -> tuple[int, str, str]:
    """Return key, number and currency of a portfolio's account, by currency or key. NotACashAccountError."""
    cash, portfolio = tables.cash_account, tables.portfolio
    accounts = connection.execute(
        sa.select(cash.c.cash_account_id, cash.c.account_number, cash.c.currency)
        .join(portfolio, portfolio.c.portfolio_id == cash.c.portfolio_id)
        .where(portfolio.c.portfolio_number == number)
        .order_by(cash.c.cash_account_id)
    ).all()
    chosen = [row for row in accounts if account in (str(row[0]), row[2])]
    if len(chosen) == 1:
        return chosen[0][0], chosen[0][1], chosen[0][2]
    if not accounts:
        raise NotACashAccountError(
            f"bigsite has no cash account of portfolio {number}: give the number as in the document"
        )
    choices = ", ".join(f"CASH:{row[0]} ({row[2]})" for row in chosen or accounts)
    problem = "several cash accounts" if chosen else "no cash account"
    raise NotACashAccountError(f"Portfolio {number} has {problem} {account}: give one of {choices}")
