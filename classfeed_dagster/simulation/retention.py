"""Retention of simulated rows, shorter than of real ones: old end-of-day rows, old prices and closed portfolios.

The ledgers of open portfolios are kept, because their balances are the sums of them.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import (
    cash_account,
    cash_balance_eod,
    cash_transaction,
    data_sharing_consent,
    fx_rate,
    holding_eod,
    income,
    metadata,
    portfolio,
    portfolio_member,
    security_movement,
    security_price,
    trade,
)
from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.guard import SimulationRefusedError, plan_table, world_table
from classfeed_dagster.simulation.identifiers import ID_BASE

KEEP_AT_LEAST = dt.timedelta(days=90)
"""Backdated rows still rewrite end-of-day rows this far back."""


def clean(engine: sa.Engine, before: dt.date, environment: Environment) -> dict[str, int]:
    """Delete expired simulated rows and return their number by table. Real rows are never changed.

    Expired are end-of-day rows and prices of days before ``before`` (each security keeps its last price), and
    all rows of portfolios that closed before it. ValueError if ``before`` is less than 90 days before the world's
    last day; SimulationRefusedError where simulation is forbidden, or there is no world.
    """
    guard.require_target(engine, environment)
    with engine.begin() as connection:
        guard.require_database(connection)
        last = _last_day(connection)
        if before > last - KEEP_AT_LEAST:
            raise ValueError(f"the world is at {last}: keep at least {KEEP_AT_LEAST.days} days, not from {before}")
        closed = sa.select(portfolio.c.portfolio_id).where(
            portfolio.c.portfolio_id >= ID_BASE, portfolio.c.closed_on < before
        )
        accounts = sa.select(cash_account.c.cash_account_id).where(cash_account.c.portfolio_id.in_(closed))
        other = security_price.alias("other")
        newer = sa.exists().where(
            other.c.security_id == security_price.c.security_id,
            other.c.price_date > security_price.c.price_date,
            other.c.price_date < before,
        )
        # Referring rows are deleted before the rows that they reference. Members may belong to several portfolios and
        # stay.
        doomed: list[tuple[sa.Table, sa.ColumnElement[bool]]] = [
            (holding_eod, (holding_eod.c.as_at_date < before) & (holding_eod.c.portfolio_id >= ID_BASE)),
            (holding_eod, holding_eod.c.portfolio_id.in_(closed)),
            (
                cash_balance_eod,
                (cash_balance_eod.c.as_at_date < before) & (cash_balance_eod.c.cash_account_id >= ID_BASE),
            ),
            (cash_balance_eod, cash_balance_eod.c.cash_account_id.in_(accounts)),
            (
                security_price,
                (security_price.c.price_date < before) & (security_price.c.security_id >= ID_BASE) & newer,
            ),
            (cash_transaction, cash_transaction.c.cash_account_id.in_(accounts)),
            (income, income.c.portfolio_id.in_(closed)),
            (security_movement, security_movement.c.portfolio_id.in_(closed)),
            (trade, trade.c.portfolio_id.in_(closed)),
            (data_sharing_consent, data_sharing_consent.c.portfolio_id.in_(closed)),
            (portfolio_member, portfolio_member.c.portfolio_id.in_(closed)),
            (cash_account, cash_account.c.portfolio_id.in_(closed)),
            (portfolio, portfolio.c.portfolio_id.in_(closed)),
        ]
        return _delete(connection, doomed)


def remove(engine: sa.Engine, environment: Environment) -> dict[str, int]:
    """Delete the whole world, so that another can be seeded, and return the deleted rows by table.

    Exchange rates stay, because they have no key of an owner. Real rows are never changed.
    """
    guard.require_target(engine, environment)
    with engine.begin() as connection:
        guard.require_database(connection)
        _last_day(connection)
        keys = {
            table: next(column for column in table.primary_key.columns if isinstance(column.type, sa.BigInteger))
            for table in metadata.sorted_tables
            if table is not fx_rate
        }
        deleted = _delete(connection, [(table, keys[table] >= ID_BASE) for table in reversed(list(keys))])
        guard.create_marker(connection)  # an older world may lack the table of plans
        connection.execute(sa.delete(plan_table))
        connection.execute(sa.delete(world_table))
        return deleted


def _last_day(connection: sa.Connection) -> dt.date:
    if sa.inspect(connection).has_table(world_table.name, schema=world_table.schema):
        last = connection.execute(sa.select(world_table.c.last_day)).scalar()
        if isinstance(last, dt.date):
            return last
    raise SimulationRefusedError("the database holds no simulated world, so there is nothing of it to delete")


def _delete(connection: sa.Connection, doomed: list[tuple[sa.Table, sa.ColumnElement[bool]]]) -> dict[str, int]:
    deleted: dict[str, int] = {}
    for table, condition in doomed:
        count = connection.execute(sa.delete(table).where(condition)).rowcount
        deleted[table.name] = deleted.get(table.name, 0) + count
    return deleted
