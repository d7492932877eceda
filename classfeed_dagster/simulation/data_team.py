"""The data team's side of a rehearsal: their metrics, from their own SQL on bigsite, written to their own table.

It shares nothing with the feed: consent, windows, sums and values are queried as the contract of CLASS_FEED_METRICS
defines them. For rehearsals only; the real table belongs to the data team.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from classfeed_dagster.reconciliation.data_team import COLUMNS, TABLE
from classfeed_dagster.warehouse.database import Connection

MetricRow = tuple[str, str, str | None, Decimal]  # portfolio number, metric, currency, value

_TABLE = f"CREATE TABLE IF NOT EXISTS {TABLE} ({COLUMNS})"

_METRICS = """
WITH shared AS (
    SELECT DISTINCT p.portfolio_id, p.portfolio_number
    FROM bigsite.data_sharing_consent c JOIN bigsite.portfolio p USING (portfolio_id)
    WHERE c.recipient = :recipient AND c.granted_at < :ends
      AND (c.expires_at IS NULL OR c.expires_at >= :ends) AND (c.revoked_at IS NULL OR c.revoked_at >= :ends)
), accounts AS (
    SELECT s.portfolio_number, a.cash_account_id
    FROM shared s JOIN bigsite.cash_account a USING (portfolio_id) WHERE a.opened_on <= :day
), held AS (
    SELECT s.portfolio_number, h.units, y.currency,
           (SELECT q.close_price FROM bigsite.security_price q
            WHERE q.security_id = h.security_id AND q.price_date <= :day ORDER BY q.price_date DESC LIMIT 1) AS close
    FROM shared s JOIN bigsite.holding_eod h USING (portfolio_id) JOIN bigsite.security y USING (security_id)
    WHERE h.as_at_date = :day
), traded AS (
    SELECT s.portfolio_number, t.net_amount, t.currency, CASE t.side WHEN 'BUY' THEN t.units ELSE -t.units END AS moved
    FROM shared s JOIN bigsite.trade t USING (portfolio_id) WHERE t.recorded_at >= :begins AND t.recorded_at < :ends
), moved AS (
    SELECT s.portfolio_number, m.units_change AS moved
    FROM shared s JOIN bigsite.security_movement m USING (portfolio_id)
    WHERE m.recorded_at >= :begins AND m.recorded_at < :ends
), earned AS (
    SELECT s.portfolio_number FROM shared s JOIN bigsite.income i USING (portfolio_id)
    WHERE i.recorded_at >= :begins AND i.recorded_at < :ends
), paid AS (
    SELECT s.portfolio_number, c.amount, c.currency
    FROM shared s JOIN bigsite.cash_account a USING (portfolio_id)
    JOIN bigsite.cash_transaction c USING (cash_account_id)
    WHERE c.recorded_at >= :begins AND c.recorded_at < :ends
)
SELECT portfolio_number, 'CASH_ACCOUNTS', NULL, COUNT(*)::numeric FROM accounts GROUP BY 1
UNION ALL
SELECT a.portfolio_number, 'LEDGER_BALANCE', c.currency, SUM(b.ledger_balance)
FROM accounts a JOIN bigsite.cash_balance_eod b ON b.cash_account_id = a.cash_account_id AND b.as_at_date = :day
JOIN bigsite.cash_account c ON c.cash_account_id = a.cash_account_id GROUP BY 1, 3
UNION ALL SELECT portfolio_number, 'HOLDINGS', NULL, COUNT(*) FROM held WHERE units <> 0 GROUP BY 1
UNION ALL SELECT portfolio_number, 'UNITS_HELD', NULL, SUM(units) FROM held GROUP BY 1
UNION ALL SELECT portfolio_number, 'MARKET_VALUE', currency, SUM(ROUND(units * close, 2)) FROM held
          WHERE close IS NOT NULL GROUP BY 1, 3
UNION ALL SELECT portfolio_number, 'MOVEMENTS', NULL, COUNT(*) FROM (
    SELECT portfolio_number FROM traded UNION ALL SELECT portfolio_number FROM moved
    UNION ALL SELECT portfolio_number FROM earned UNION ALL SELECT portfolio_number FROM paid) l GROUP BY 1
UNION ALL SELECT portfolio_number, 'UNITS_MOVED', NULL, SUM(moved) FROM (
    SELECT portfolio_number, moved FROM traded UNION ALL SELECT portfolio_number, moved FROM moved) u GROUP BY 1
UNION ALL SELECT portfolio_number, 'CASH_MOVED', currency, SUM(amount) FROM paid GROUP BY 1, 3
UNION ALL SELECT portfolio_number, 'TRADED', currency, SUM(net_amount) FROM traded GROUP BY 1, 3
"""


def data_team_metrics(engine: sa.Engine, recipient: str, day: dt.date, previous: dt.date) -> list[MetricRow]:
    """Return the metrics of ``day`` as the data team would compute them. ``previous``: the previous business date."""
    sydney = ZoneInfo("Australia/Sydney")

    def midnight_after(date: dt.date) -> dt.datetime:
        return dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), tzinfo=sydney)

    parameters = {
        "recipient": recipient,
        "day": day,
        "begins": midnight_after(previous),
        "ends": midnight_after(day),
    }
    with engine.connect() as connection:
        return [(row[0], row[1], row[2], row[3]) for row in connection.execute(sa.text(_METRICS), parameters)]


def publish_metrics(
    connection: Connection, recipient: str, day: dt.date, metrics: list[MetricRow], computed_at: dt.datetime
) -> None:
    """Write the metrics into the data team's table as a further computation of the date."""
    cursor = connection.cursor()
    try:
        cursor.execute(_TABLE)
        rows = [
            (day.isoformat(), recipient, number, metric, currency, str(value), computed_at.isoformat())
            for number, metric, currency, value in metrics
        ]
        for start in range(0, len(rows), 1000):
            cursor.executemany(
                "INSERT INTO CLASS_FEED_METRICS (BUSINESS_DATE, RECIPIENT, PORTFOLIO_NUMBER, METRIC, CURRENCY, VALUE, "
                "COMPUTED_AT) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                rows[start : start + 1000],
            )
    finally:
        cursor.close()
