"""What the snapshot asks of bigsite: for every landed table its columns, exact types and SQL.

The SQL is standard but for ``unnest``, by which the answer to the consent question is pushed down (it needs no
temporary table, so it runs on a read replica), and ``%(name)s`` placeholders. Another dialect needs another
rendering of the ``wanted`` relations and another reader than COPY; the bodies stay.

Every query of a sliced table returns the portfolio's ``position`` first, in order: it says which slice a row
belongs to and is not landed. Only columns that a document or a check needs are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

ID = pa.int64()
DATE = pa.date32()
INSTANT = pa.timestamp("us", "UTC")
TEXT = pa.string()
MONEY = pa.decimal128(18, 2)
PRICE = pa.decimal128(18, 6)
UNITS = pa.decimal128(20, 6)
MONEY_SUM = pa.decimal128(38, 2)  # a sum may be wider than what it adds up
UNITS_SUM = pa.decimal128(38, 6)

POSITION = pa.field("position", pa.int32())

_WANTED = "SELECT * FROM unnest(%(ids)s::bigint[], %(positions)s::int[]) AS w (portfolio_id, position)"
_FULL = """SELECT * FROM unnest(%(full_ids)s::bigint[], %(full_positions)s::int[], %(full_history)s::date[])
    AS w (portfolio_id, position, history_from)"""
_DELTA = """SELECT * FROM unnest(%(delta_ids)s::bigint[], %(delta_positions)s::int[], %(delta_history)s::date[],
    %(delta_recorded_from)s::timestamptz[]) AS w (portfolio_id, position, history_from, recorded_from)"""
_OPENING = """SELECT * FROM unnest(%(opening_ids)s::bigint[], %(opening_positions)s::int[], %(opening_history)s::date[],
    %(opening_recorded_from)s::timestamptz[], %(opening_audiences)s::text[])
    AS w (portfolio_id, position, history_from, recorded_from, audience)"""
_SIGNED = "CASE t.side WHEN 'BUY' THEN t.units WHEN 'SELL' THEN -t.units END"


@dataclass(frozen=True, slots=True)
class Query:
    """One landed table: its columns (without the position) and the query that fills them."""

    table: str
    schema: pa.Schema
    sql: str

    @property
    def read_schema(self) -> pa.Schema:
        """The columns that the query returns: the position first."""
        return self.schema.insert(0, POSITION)


def _columns(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


CONSENTS = _columns(
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
    _columns(
        portfolio_id=ID,
        portfolio_name=TEXT,
        entity_type=TEXT,
        abn=TEXT,
        hin=TEXT,
        status=TEXT,
        opened_on=DATE,
        closed_on=DATE,
    ),
    f"""WITH wanted AS ({_WANTED})
SELECT w.position, p.portfolio_id, p.portfolio_name, p.entity_type, p.abn, p.hin, p.status, p.opened_on, p.closed_on
FROM wanted w JOIN bigsite.portfolio p ON p.portfolio_id = w.portfolio_id
ORDER BY 1""",
)

CASH_ACCOUNT = Query(
    "cash_account",
    _columns(
        portfolio_id=ID,
        cash_account_id=ID,
        bsb=TEXT,
        account_number=TEXT,
        account_name=TEXT,
        currency=TEXT,
        status=TEXT,
        opened_on=DATE,
        closed_on=DATE,
    ),
    f"""WITH wanted AS ({_WANTED})
SELECT w.position, a.portfolio_id, a.cash_account_id, a.bsb, a.account_number, a.account_name, a.currency, a.status,
       a.opened_on, a.closed_on
FROM wanted w JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id
ORDER BY 1, 3""",
)

# A holding without a row is reported only if its units are not zero both as recorded before the cut-off and as
# recorded by now: where a later correction undid it altogether, bigsite's rewritten end of day has nothing to say.
HOLDING = Query(
    "holding_eod",
    _columns(
        portfolio_id=ID,
        security_id=ID,
        units=UNITS,
        cost_base=MONEY,
        updated_at=INSTANT,
        ledger_units=UNITS_SUM,
        unsettled_units=UNITS_SUM,
    ),
    f"""WITH wanted AS ({_WANTED}),
stated AS (
    SELECT w.position, h.portfolio_id, h.security_id, h.units, h.cost_base, h.updated_at
    FROM wanted w JOIN bigsite.holding_eod h ON h.portfolio_id = w.portfolio_id
    WHERE h.as_at_date = %(business_date)s
),
moved AS (
    SELECT w.position, t.portfolio_id, t.security_id, {_SIGNED} AS units, t.recorded_at,
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
           SUM(CASE WHEN m.recorded_at < %(cutoff)s THEN m.units ELSE 0 END) AS at_cutoff,
           SUM(m.units) AS by_now
    FROM moved m LEFT JOIN stated s ON s.portfolio_id = m.portfolio_id AND s.security_id = m.security_id
    GROUP BY m.position, m.portfolio_id, m.security_id
)
SELECT COALESCE(s.position, l.position), COALESCE(s.portfolio_id, l.portfolio_id),
       COALESCE(s.security_id, l.security_id), s.units, s.cost_base, s.updated_at,
       CASE WHEN s.portfolio_id IS NULL THEN l.at_cutoff ELSE COALESCE(l.at_end_of_day, 0) END,
       COALESCE(l.unsettled, 0)
FROM stated s FULL JOIN summed l ON l.portfolio_id = s.portfolio_id AND l.security_id = s.security_id
WHERE s.portfolio_id IS NOT NULL OR (l.at_cutoff <> 0 AND l.by_now <> 0)
ORDER BY 1, 3""",
)

CASH_BALANCE = Query(
    "cash_balance_eod",
    _columns(
        portfolio_id=ID,
        cash_account_id=ID,
        open_on_date=pa.bool_(),
        opened_by_date=pa.bool_(),
        ledger_balance=MONEY,
        available_balance=MONEY,
        updated_at=INSTANT,
        ledger_cash=MONEY_SUM,
    ),
    f"""WITH wanted AS ({_WANTED}),
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
    SELECT a.cash_account_id, SUM(c.amount) AS amount
    FROM account a JOIN bigsite.cash_transaction c ON c.cash_account_id = a.cash_account_id
    WHERE c.transaction_date <= %(business_date)s
      AND (c.recorded_at <= a.updated_at OR (a.updated_at IS NULL AND c.recorded_at < %(cutoff)s))
    GROUP BY a.cash_account_id
)
SELECT a.position, a.portfolio_id, a.cash_account_id, a.is_open, a.opened, a.ledger_balance, a.available_balance,
       a.updated_at, COALESCE(s.amount, 0)
FROM account a LEFT JOIN summed s ON s.cash_account_id = a.cash_account_id
WHERE a.opened OR s.amount <> 0
ORDER BY 1, 3""",
)

# The same confirmation standing more than once. A reversal counts whenever it was recorded, so that a date held
# back for a repeated confirmation can go once bigsite has reversed one of them.
REPEATED_CONFIRMATION = Query(
    "repeated_confirmation",
    _columns(
        portfolio_id=ID, confirmation_number=TEXT, side=TEXT, security_id=ID, units=UNITS, standing=ID
    ),
    f"""WITH wanted AS ({_WANTED}),
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
    _columns(portfolio_id=ID, audience=TEXT, security_id=ID, units=UNITS_SUM, recorded_at=INSTANT),
    f"""WITH wanted AS ({_OPENING})
SELECT m.position, m.portfolio_id, m.audience, m.security_id, SUM(m.units), MAX(m.recorded_at)
FROM (
    SELECT w.position, w.portfolio_id, w.audience, t.security_id, {_SIGNED} AS units, t.recorded_at
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
    _columns(portfolio_id=ID, audience=TEXT, cash_account_id=ID, amount=MONEY_SUM, recorded_at=INSTANT),
    f"""WITH wanted AS ({_OPENING})
SELECT w.position, w.portfolio_id, w.audience, c.cash_account_id, SUM(c.amount), MAX(c.recorded_at)
FROM wanted w JOIN bigsite.cash_account a ON a.portfolio_id = w.portfolio_id
JOIN bigsite.cash_transaction c ON c.cash_account_id = a.cash_account_id
WHERE c.transaction_date < w.history_from AND c.recorded_at >= w.recorded_from AND c.recorded_at < %(cutoff)s
GROUP BY w.position, w.portfolio_id, w.audience, c.cash_account_id
HAVING SUM(c.amount) <> 0
ORDER BY 1, 3, 4""",
)


def _ledger(table: str, schema: pa.Schema, source: str, date: str) -> Query:
    # The rows of one ledger, for FULL and DELTA portfolios apart: a DELTA can then go by the index on recorded_at.
    # ``reversed_portfolio_id`` is looked up by primary key, for the few rows that reverse another.
    def branch(wanted: str, extra: str) -> str:
        columns = ", ".join(_expression(name, table) for name in schema.names)
        return f"""SELECT w.position AS position, {columns}
FROM {wanted} w {source}
WHERE l.{date} >= w.history_from AND l.recorded_at < %(cutoff)s{extra}"""

    delta = " AND l.recorded_at >= w.recorded_from AND l.recorded_at >= %(earliest)s"
    sql = f"""WITH wanted_full AS ({_FULL}), wanted_delta AS ({_DELTA})
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
    _columns(
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
    _columns(
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
    _columns(
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
    _columns(
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

_SECURITIES = "unnest(%(securities)s::bigint[]) AS w (security_id)"

SECURITY = Query(
    "security",
    _columns(
        security_id=ID, exchange=TEXT, code=TEXT, isin=TEXT, name=TEXT, security_type=TEXT, currency=TEXT
    ),
    f"""SELECT s.security_id, s.exchange, s.code, s.isin, s.name, s.security_type, s.currency
FROM {_SECURITIES} JOIN bigsite.security s ON s.security_id = w.security_id
ORDER BY 1""",
)

SECURITY_CODE_CHANGE = Query(
    "security_code_change",
    _columns(security_id=ID, effective_on=DATE, old_code=TEXT, old_name=TEXT),
    f"""SELECT c.security_id, c.effective_on, c.old_code, c.old_name
FROM {_SECURITIES} JOIN bigsite.security_code_change c ON c.security_id = w.security_id
ORDER BY 1, 2""",
)

# Only days on which a security traded have a price: the last one on or before the business date.
SECURITY_PRICE = Query(
    "security_price",
    _columns(security_id=ID, price_date=DATE, close_price=PRICE),
    f"""SELECT p.security_id, p.price_date, p.close_price
FROM {_SECURITIES} JOIN bigsite.security_price p ON p.security_id = w.security_id
WHERE p.price_date = (SELECT MAX(l.price_date) FROM bigsite.security_price l
                      WHERE l.security_id = w.security_id AND l.price_date <= %(business_date)s)
ORDER BY 1""",
)

CONSENT_TABLE = "data_sharing_consent"
# End of day first: if it isn't there, nothing else need be read.
END_OF_DAY = (HOLDING, CASH_BALANCE)
SLICED = (
    *END_OF_DAY,
    PORTFOLIO,
    CASH_ACCOUNT,
    TRADE,
    SECURITY_MOVEMENT,
    INCOME,
    CASH_TRANSACTION,
    OPENING_UNITS,
    OPENING_CASH,
    REPEATED_CONFIRMATION,
)
REFERENCES = (SECURITY, SECURITY_CODE_CHANGE, SECURITY_PRICE)
SCHEMAS: dict[str, pa.Schema] = {
    CONSENT_TABLE: CONSENTS,
    **{query.table: query.schema for query in (*SLICED, *REFERENCES)},
}
