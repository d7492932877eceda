"""Queries of the snapshot: columns, exact types and SQL of every landed table.

The SQL is standard apart from ``%(name)s`` placeholders and ``unnest``, which passes the consented portfolios to
bigsite. It needs no temporary table, so it runs on a read replica. Another dialect needs other scope relations and
another reader than COPY; the rest of the SQL stays.

Every query of a sliced table returns the portfolio's ``position`` first, in order. It determines the row's slice and
is not landed. Only columns that a document or a check needs are read.
"""

# ruff: noqa: S608  # SQL is composed of this package's own text; every value is a parameter

from __future__ import annotations

import pyarrow as pa

from classfeed_dagster.bigsite.ledgers import LEDGERS
from classfeed_dagster.bigsite.sql_types import (
    DATE,
    ID,
    INSTANT,
    MONEY,
    MONEY_SUM,
    OPENING,
    PRICE,
    SCOPE,
    SIGNED,
    TEXT,
    UNITS,
    UNITS_SUM,
    Query,
    columns,
)

CONSENTS = columns(
    portfolio_id=ID,
    portfolio_number=TEXT,
    consent_id=ID,
    recipient=TEXT,
    recipient_reference=TEXT,
    history_from=DATE,
    granted_at=INSTANT,
    expires_at=INSTANT,
    revoked_at=INSTANT,
)

READINESS = """
SELECT EXISTS (SELECT 1 FROM bigsite.holding_eod WHERE as_at_date = :business_date),
       EXISTS (SELECT 1 FROM bigsite.cash_balance_eod WHERE as_at_date = :business_date)
"""

PORTFOLIO = Query(
    "portfolio",
    columns(
        portfolio_id=ID,
        portfolio_name=TEXT,
        entity_type=TEXT,
        abn=TEXT,
        hin=TEXT,
        status=TEXT,
        opened_on=DATE,
        closed_on=DATE,
        hin_holders=TEXT,
    ),
    # ``hin_holders``: the portfolios, consented or not, that share a HIN while none of them is closed.
    f"""WITH wanted AS ({SCOPE}),
repeated AS (
    SELECT hin, STRING_AGG(portfolio_number, ', ' ORDER BY portfolio_number) AS holders
    FROM bigsite.portfolio WHERE hin IS NOT NULL AND status <> 'CLOSED'
    GROUP BY hin HAVING COUNT(*) > 1
)
SELECT w.position, p.portfolio_id, p.portfolio_name, p.entity_type, p.abn, p.hin, p.status, p.opened_on, p.closed_on,
       CASE WHEN p.status <> 'CLOSED' THEN r.holders END
FROM wanted w JOIN bigsite.portfolio p ON p.portfolio_id = w.portfolio_id
LEFT JOIN repeated r ON r.hin = p.hin
ORDER BY 1""",
)

CASH_ACCOUNT = Query(
    "cash_account",
    columns(
        portfolio_id=ID,
        cash_account_id=ID,
        bsb=TEXT,
        account_number=TEXT,
        account_name=TEXT,
        currency=TEXT,
        status=TEXT,
        opened_on=DATE,
        closed_on=DATE,
        number_holders=TEXT,
    ),
    # ``number_holders``: the portfolios with accounts of one BSB, number and currency, none of them closed.
    f"""WITH wanted AS ({SCOPE}),
repeated AS (
    SELECT a.bsb, a.account_number, a.currency,
           STRING_AGG(p.portfolio_number, ', ' ORDER BY p.portfolio_number) AS holders
    FROM bigsite.cash_account a JOIN bigsite.portfolio p ON p.portfolio_id = a.portfolio_id
    WHERE a.bsb IS NOT NULL AND a.status <> 'CLOSED'
    GROUP BY a.bsb, a.account_number, a.currency HAVING COUNT(*) > 1
)
SELECT w.position, a.portfolio_id, a.cash_account_id, a.bsb, a.account_number, a.account_name, a.currency, a.status,
       a.opened_on, a.closed_on, CASE WHEN a.status <> 'CLOSED' THEN r.holders END
FROM wanted w JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id
LEFT JOIN repeated r ON r.bsb = a.bsb AND r.account_number = a.account_number AND r.currency = a.currency
ORDER BY 1, 3""",
)

# A holding without a row is reported if its units are not zero as recorded before the cut-off. If a later correction
# undid it altogether, bigsite's rewritten end of day has no row for it: ledger_units and later_units add up to zero.
HOLDING = Query(
    "holding_eod",
    columns(
        portfolio_id=ID,
        security_id=ID,
        units=UNITS,
        cost_base=MONEY,
        updated_at=INSTANT,
        ledger_units=UNITS_SUM,
        unsettled_units=UNITS_SUM,
        later_units=UNITS_SUM,
    ),
    f"""WITH wanted AS ({SCOPE}),
stated AS (
    SELECT w.position, h.portfolio_id, h.security_id, h.units, h.cost_base, h.updated_at
    FROM wanted w JOIN bigsite.holding_eod h ON h.portfolio_id = w.portfolio_id
    WHERE h.as_at_date = %(business_date)s
),
moved AS (
    SELECT w.position, t.portfolio_id, t.security_id, {SIGNED} AS units, t.recorded_at,
           t.settlement_date > %(business_date)s AS unsettled
    FROM wanted w JOIN bigsite.trade t ON t.portfolio_id = w.portfolio_id
    WHERE t.trade_date <= %(business_date)s
    UNION ALL
    SELECT w.position, m.portfolio_id, m.security_id, m.units_change, m.recorded_at, FALSE
    FROM wanted w JOIN bigsite.security_movement m ON m.portfolio_id = w.portfolio_id
    WHERE m.effective_date <= %(business_date)s
),
summed AS (
    SELECT m.position, m.portfolio_id, m.security_id,
           SUM(CASE WHEN m.recorded_at <= s.updated_at THEN m.units ELSE 0 END) AS at_end_of_day,
           SUM(CASE WHEN m.recorded_at <= s.updated_at AND m.unsettled THEN m.units ELSE 0 END) AS unsettled,
           SUM(CASE WHEN m.recorded_at <= s.updated_at AND m.recorded_at >= %(cutoff)s THEN m.units ELSE 0 END)
               AS later,
           SUM(CASE WHEN m.recorded_at < %(cutoff)s THEN m.units ELSE 0 END) AS at_cutoff,
           SUM(m.units) AS by_now
    FROM moved m LEFT JOIN stated s ON s.portfolio_id = m.portfolio_id AND s.security_id = m.security_id
    GROUP BY m.position, m.portfolio_id, m.security_id
)
SELECT COALESCE(s.position, l.position), COALESCE(s.portfolio_id, l.portfolio_id),
       COALESCE(s.security_id, l.security_id), s.units, s.cost_base, s.updated_at,
       CASE WHEN s.portfolio_id IS NULL THEN l.at_cutoff ELSE COALESCE(l.at_end_of_day, 0) END,
       COALESCE(l.unsettled, 0),
       CASE WHEN s.portfolio_id IS NULL THEN l.by_now - l.at_cutoff ELSE COALESCE(l.later, 0) END
FROM stated s FULL JOIN summed l ON l.portfolio_id = s.portfolio_id AND l.security_id = s.security_id
WHERE s.portfolio_id IS NOT NULL OR l.at_cutoff <> 0
ORDER BY 1, 3""",
)

CASH_BALANCE = Query(
    "cash_balance_eod",
    columns(
        portfolio_id=ID,
        cash_account_id=ID,
        open_on_date=pa.bool_(),
        opened_by_date=pa.bool_(),
        ledger_balance=MONEY,
        available_balance=MONEY,
        updated_at=INSTANT,
        ledger_cash=MONEY_SUM,
        later_cash=MONEY_SUM,
    ),
    f"""WITH wanted AS ({SCOPE}),
account AS (
    SELECT w.position, a.portfolio_id, a.cash_account_id,
           a.opened_on <= %(business_date)s AND (a.closed_on IS NULL OR a.closed_on > %(business_date)s) AS is_open,
           a.opened_on <= %(business_date)s AS opened,
           b.ledger_balance, b.available_balance, b.updated_at
    FROM wanted w JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id
    LEFT JOIN bigsite.cash_balance_eod b
        ON b.cash_account_id = a.cash_account_id AND b.as_at_date = %(business_date)s
),
summed AS (
    SELECT a.cash_account_id, SUM(c.amount) AS amount,
           SUM(CASE WHEN c.recorded_at >= %(cutoff)s THEN c.amount ELSE 0 END) AS later
    FROM account a JOIN bigsite.cash_transaction c ON c.cash_account_id = a.cash_account_id
    WHERE c.transaction_date <= %(business_date)s
      AND (c.recorded_at <= a.updated_at OR (a.updated_at IS NULL AND c.recorded_at < %(cutoff)s))
    GROUP BY a.cash_account_id
)
SELECT a.position, a.portfolio_id, a.cash_account_id, a.is_open, a.opened, a.ledger_balance, a.available_balance,
       a.updated_at, COALESCE(s.amount, 0), COALESCE(s.later, 0)
FROM account a LEFT JOIN summed s ON s.cash_account_id = a.cash_account_id
WHERE a.opened OR s.amount <> 0
ORDER BY 1, 3""",
)

# Confirmations that are in force more than once. A reversal counts whenever it was recorded, so that a held back date
# can be delivered once bigsite has reversed one of them.
REPEATED_CONFIRMATION = Query(
    "repeated_confirmation",
    columns(portfolio_id=ID, confirmation_number=TEXT, side=TEXT, security_id=ID, units=UNITS, standing=ID),
    f"""WITH wanted AS ({SCOPE}),
repeated AS (
    SELECT w.position, t.portfolio_id, t.confirmation_number, t.side, t.security_id, t.units
    FROM wanted w JOIN bigsite.trade t ON t.portfolio_id = w.portfolio_id
    WHERE t.reverses_trade_id IS NULL AND t.recorded_at < %(cutoff)s
    GROUP BY w.position, t.portfolio_id, t.confirmation_number, t.side, t.security_id, t.units
    HAVING COUNT(*) > 1
)
SELECT r.position, r.portfolio_id, r.confirmation_number, r.side, r.security_id, r.units, COUNT(*)
FROM repeated r JOIN bigsite.trade t
    ON t.portfolio_id = r.portfolio_id AND t.confirmation_number = r.confirmation_number AND t.side = r.side
    AND t.security_id = r.security_id AND t.units = r.units
WHERE t.reverses_trade_id IS NULL AND t.recorded_at < %(cutoff)s
  AND NOT EXISTS (SELECT 1 FROM bigsite.trade v
                  WHERE v.portfolio_id = t.portfolio_id AND v.reverses_trade_id = t.trade_id)
GROUP BY r.position, r.portfolio_id, r.confirmation_number, r.side, r.security_id, r.units
HAVING COUNT(*) > 1
ORDER BY 1, 3, 4, 5, 6""",
)

OPENING_UNITS = Query(
    "opening_units",
    columns(portfolio_id=ID, audience=TEXT, security_id=ID, units=UNITS_SUM, recorded_at=INSTANT),
    f"""WITH wanted AS ({OPENING})
SELECT m.position, m.portfolio_id, m.audience, m.security_id, SUM(m.units), MAX(m.recorded_at)
FROM (
    SELECT w.position, w.portfolio_id, w.audience, t.security_id, {SIGNED} AS units, t.recorded_at
    FROM wanted w JOIN bigsite.trade t ON t.portfolio_id = w.portfolio_id
    WHERE t.trade_date < w.history_from AND t.recorded_at >= w.recorded_from AND t.recorded_at < %(cutoff)s
    UNION ALL
    SELECT w.position, w.portfolio_id, w.audience, s.security_id, s.units_change, s.recorded_at
    FROM wanted w JOIN bigsite.security_movement s ON s.portfolio_id = w.portfolio_id
    WHERE s.effective_date < w.history_from AND s.recorded_at >= w.recorded_from AND s.recorded_at < %(cutoff)s
) m
GROUP BY m.position, m.portfolio_id, m.audience, m.security_id
HAVING SUM(m.units) <> 0
ORDER BY 1, 3, 4""",
)

OPENING_CASH = Query(
    "opening_cash",
    columns(portfolio_id=ID, audience=TEXT, cash_account_id=ID, amount=MONEY_SUM, recorded_at=INSTANT),
    f"""WITH wanted AS ({OPENING})
SELECT w.position, w.portfolio_id, w.audience, c.cash_account_id, SUM(c.amount), MAX(c.recorded_at)
FROM wanted w JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id
JOIN bigsite.cash_transaction c ON c.cash_account_id = a.cash_account_id
WHERE c.transaction_date < w.history_from AND c.recorded_at >= w.recorded_from AND c.recorded_at < %(cutoff)s
GROUP BY w.position, w.portfolio_id, w.audience, c.cash_account_id
HAVING SUM(c.amount) <> 0
ORDER BY 1, 3, 4""",
)


_SECURITIES = "unnest(%(securities)s::bigint[]) AS w (security_id)"

SECURITY = Query(
    "security",
    columns(security_id=ID, exchange=TEXT, code=TEXT, isin=TEXT, name=TEXT, security_type=TEXT, currency=TEXT),
    f"""SELECT s.security_id, s.exchange, s.code, s.isin, s.name, s.security_type, s.currency
FROM {_SECURITIES} JOIN bigsite.security s ON s.security_id = w.security_id
ORDER BY 1""",
)

SECURITY_CODE_CHANGE = Query(
    "security_code_change",
    columns(security_id=ID, effective_on=DATE, old_code=TEXT, old_name=TEXT),
    f"""SELECT c.security_id, c.effective_on, c.old_code, c.old_name
FROM {_SECURITIES} JOIN bigsite.security_code_change c ON c.security_id = w.security_id
ORDER BY 1, 2""",
)

# Only days on which a security traded have a price: the last one on or before the business date.
SECURITY_PRICE = Query(
    "security_price",
    columns(security_id=ID, price_date=DATE, close_price=PRICE),
    f"""SELECT p.security_id, p.price_date, p.close_price
FROM {_SECURITIES} JOIN bigsite.security_price p ON p.security_id = w.security_id
WHERE p.price_date = (SELECT MAX(l.price_date) FROM bigsite.security_price l
                      WHERE l.security_id = w.security_id AND l.price_date <= %(business_date)s)
ORDER BY 1""",
)

CONSENT_TABLE = "data_sharing_consent"
# End of day first: if it is missing, nothing else is read.
END_OF_DAY = (HOLDING, CASH_BALANCE)
SLICED = (
    *END_OF_DAY,
    PORTFOLIO,
    CASH_ACCOUNT,
    *LEDGERS,
    OPENING_UNITS,
    OPENING_CASH,
    REPEATED_CONFIRMATION,
)
REFERENCES = (SECURITY, SECURITY_CODE_CHANGE, SECURITY_PRICE)
SCHEMAS: dict[str, pa.Schema] = {
    CONSENT_TABLE: CONSENTS,
    **{query.table: query.schema for query in (*SLICED, *REFERENCES)},
}
