"""A bigsite of any size for benchmarks, written by PostgreSQL itself: consistent with every rule, in seconds.

Each portfolio has a fund's shape: one cash account, 30 securities, and 100 movements over the year before the date
(30 buys with their settlements, 19 dividends with their cash, a deposit, a withdrawal). ``add_day`` adds an ordinary
day: one trade in ten portfolios, its settlement later, and the end of day of all portfolios.
"""

# statements are made of this file's own text and whole numbers

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.tables import SCHEMA, metadata

SECURITIES = 300
HELD = 30
DIVIDENDS = 19
FIRST_DAY = dt.date(2023, 1, 3)

_NUMBER = "'SW' || lpad(p::text, 8, '0')"


def create(engine: sa.Engine, portfolios: int, day: dt.date = FIRST_DAY) -> None:
    """Fill bigsite with ``portfolios`` consented portfolios, its end of day for ``day`` done."""
    statements = [
        f"""INSERT INTO security SELECT s, 'ASX', 'S' || lpad(s::text, 3, '0'), NULL, 'SECURITY ' || s || ' LIMITED',
            'ORDINARY', 'AUD', '2000-01-01', NULL, '2022-01-01Z' FROM generate_series(1, {SECURITIES}) s""",
        f"""INSERT INTO security_price SELECT s, '2022-12-30', (s % 97 + 1) * 1.17, '2022-12-30Z'
            FROM generate_series(1, {SECURITIES}) s""",
        f"""INSERT INTO portfolio SELECT p, {_NUMBER}, 'The Trustee for Fund ' || p || ' & Sons', 'SMSF', NULL,
            'X' || lpad(p::text, 10, '0'), 'ACTIVE', '2015-01-01', NULL, '2022-01-01Z'
            FROM generate_series(1, {portfolios}) p""",
        f"""INSERT INTO data_sharing_consent SELECT p, p, 'CLASS', 'F' || p, NULL, '2022-06-01Z', NULL, NULL,
            '2022-06-01Z' FROM generate_series(1, {portfolios}) p""",
        f"""INSERT INTO cash_account SELECT p, p, '062-000', lpad(p::text, 9, '0'), 'Fund ' || p, 'AUD', 'ACTIVE',
            '2015-01-01', NULL, '2022-01-01Z' FROM generate_series(1, {portfolios}) p""",
        # 30 buys, and their settlements two days later.
        f"""INSERT INTO trade
            SELECT p * 1000 + h, p, p, (p * 7 + h * 11) % {SECURITIES} + 1, 'CN' || p || '-' || h, 'BUY', d, d + 2,
                   u, 2.50, u * 2.50, 9.50, 0.86, 0, u * 2.50 + 9.50, 'AUD', NULL, d + interval '6 hours'
            FROM generate_series(1, {portfolios}) p, generate_series(1, {HELD}) h,
                 LATERAL (SELECT (DATE '2022-02-01' + h * 7) AS d, (h * 13 + p % 50 + 1)::numeric AS u) v""",
        """INSERT INTO cash_transaction
            SELECT trade_id, cash_account_id, 'SETTLEMENT', settlement_date, -net_amount, 'AUD', 'Settlement',
                   trade_id, NULL, NULL, settlement_date + interval '6 hours' FROM trade""",
        f"""INSERT INTO cash_transaction
            SELECT p * 1000 + 800 + k, p, CASE k WHEN 1 THEN 'DEPOSIT' ELSE 'WITHDRAWAL' END,
                   DATE '2022-01-10' + k, CASE k WHEN 1 THEN 250000 ELSE -1000 END, 'AUD', 'Transfer', NULL, NULL, NULL,
                   DATE '2022-01-10' + k + interval '6 hours'
            FROM generate_series(1, {portfolios}) p, generate_series(1, 2) k""",
        f"""INSERT INTO income
            SELECT p * 1000 + h, p, (p * 7 + h * 11) % {SECURITIES} + 1, 'DIVIDEND', DATE '2022-09-01' + h,
                   DATE '2022-09-20' + h, 100, 70, 70, 0, 30, 0, 70, 'AUD', NULL,
                   DATE '2022-09-20' + h + interval '6 hours'
            FROM generate_series(1, {portfolios}) p, generate_series(1, {DIVIDENDS}) h""",
        f"""INSERT INTO cash_transaction
            SELECT p * 1000 + 900 + h, p, 'INCOME', DATE '2022-09-20' + h, 70, 'AUD', 'Dividend', NULL, p * 1000 + h,
                   NULL, DATE '2022-09-20' + h + interval '6 hours'
            FROM generate_series(1, {portfolios}) p, generate_series(1, {DIVIDENDS}) h""",
    ]
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
        connection.execute(sa.text(f"SET search_path TO {SCHEMA}"))
        connection.execute(sa.text("SET session_replication_role = replica"))  # foreign keys hold by construction
        for statement in statements:
            connection.execute(sa.text(statement))
    _end_of_day(engine, day)


def add_day(engine: sa.Engine, portfolios: int, day: dt.date) -> None:
    """Add an ordinary day: one portfolio in ten buys, and all end-of-day rows are written."""
    settles = trading_days.add_business_days(day, 2)
    at = trading_days.cutoff(day) - dt.timedelta(hours=9)
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET search_path TO {SCHEMA}"))
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(
            sa.text(
                f"""INSERT INTO trade
                SELECT p * 1000 + 100 + :n, p, p, (p * 7 + 11) % {SECURITIES} + 1, 'CN' || p || '-' || :n, 'BUY', :day,
                       :settles, 10, 2.50, 25.00, 9.50, 0.86, 0, 34.50, 'AUD', NULL, :at
                FROM generate_series(1, {portfolios}, 10) p"""
            ),
            {"n": day.toordinal() % 600, "day": day, "settles": settles, "at": at},
        )
    _end_of_day(engine, day)


def _end_of_day(engine: sa.Engine, day: dt.date) -> None:
    ran = trading_days.cutoff(day) + dt.timedelta(hours=1)
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET search_path TO {SCHEMA}"))
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(
            sa.text("""INSERT INTO holding_eod (portfolio_id, security_id, as_at_date, units, updated_at)
            SELECT portfolio_id, security_id, :day, SUM(units), :ran
            FROM trade WHERE trade_date <= :day GROUP BY 1, 2"""),
            {"day": day, "ran": ran},
        )
        connection.execute(
            sa.text("""INSERT INTO cash_balance_eod
            (cash_account_id, as_at_date, ledger_balance, available_balance, updated_at)
            SELECT cash_account_id, :day, SUM(amount), SUM(amount), :ran
            FROM cash_transaction WHERE transaction_date <= :day GROUP BY 1"""),
            {"day": day, "ran": ran},
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
