"""What a document must hold, asked of bigsite's tables in SQL of reconciliation's own.

One text for PostgreSQL (bigsite asked again) and for DuckDB (the landed copy of the same tables): standard SQL but for
how an instant is written. Every query returns the record kind's columns as text or decimals, and evidence beside them.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from classfeed_dagster.trading_days import cutoff

_RECIPIENT = re.compile(r"[A-Z0-9_]{1,20}\Z")
_FAR_PAST, _FAR_FUTURE = "DATE '0001-01-01'", "DATE '9999-12-31'"

# Evidence columns beside the record's own: when what it rests on was last changed or recorded.
EVIDENCE = ("state_updated_at", "eod_updated_at", "price_updated_at", "consent_updated_at", "source_row")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: for whom, which business date, and the feed's date before it (None: everyone is NEW).

    ``dialect`` is ``postgresql`` or ``duckdb``; ``schema`` is where the tables are.
    """

    recipient: str
    business_date: dt.date
    previous: dt.date | None
    window_start: dt.datetime
    dialect: str = "postgresql"
    schema: str = "bigsite"

    def __post_init__(self) -> None:
        if not _RECIPIENT.match(self.recipient) or not self.schema.isidentifier():
            raise ValueError("a recipient is at most 20 capitals, digits and _; a schema is an identifier")

    @property
    def window_end(self) -> dt.datetime:
        """The business date's cut-off, not included in its window."""
        return cutoff(self.business_date)

    def queries(self) -> dict[str, str]:
        """The SQL of every record kind, by name."""
        return {
            "accounts": self._with(self._accounts()),
            "cash_accounts": self._with(self._cash_accounts()),
            "account_balances": self._with(self._balances()),
            "investment_holdings": self._with(self._holdings()),
            "movement_transactions": self._with(self._movements()),
        }

    def consents(self) -> str:
        """Every authority for the recipient, with the portfolio's number: what the consent checks are made of."""
        return (
            f"SELECT p.portfolio_number, c.consent_id, c.granted_at, c.expires_at, c.revoked_at, c.updated_at "
            f"FROM {self.schema}.data_sharing_consent c JOIN {self.schema}.portfolio p ON p.portfolio_id = c.portfolio_id "
            f"WHERE c.recipient = '{self.recipient}' ORDER BY p.portfolio_number, c.consent_id"
        )

    # -- pieces -----------------------------------------------------------------------------------------------

    def _instant(self, expression: str) -> str:
        if self.dialect == "postgresql":
            return f"to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        return f"strftime({expression} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"

    @staticmethod
    def _at(instant: dt.datetime) -> str:
        return f"TIMESTAMP WITH TIME ZONE '{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}+00'"

    @property
    def _day(self) -> str:
        return f"DATE '{self.business_date.isoformat()}'"

    def _active(self, instant: str) -> str:
        """Consents active at an instant, one row a portfolio: reference of the latest granted, earliest history."""
        return f"""SELECT portfolio_id, (array_agg(recipient_reference ORDER BY granted_at DESC, consent_id DESC))[1] AS reference,
          CASE WHEN count(*) = count(history_from) THEN min(history_from) END AS history_from
          FROM {self.schema}.data_sharing_consent WHERE recipient = '{self.recipient}' AND granted_at < {instant}
          AND (expires_at IS NULL OR expires_at >= {instant}) AND (revoked_at IS NULL OR revoked_at >= {instant})
          GROUP BY portfolio_id"""

    def _with(self, query: str) -> str:
        at_cutoff = self._active(self._at(self.window_end))
        before = self._active(self._at(cutoff(self.previous))) if self.previous else f"{at_cutoff} HAVING 1 = 0"
        return f"""WITH active AS ({at_cutoff}), before AS ({before}),
        changed AS (SELECT portfolio_id, max(updated_at) AS consent_updated_at FROM {self.schema}.data_sharing_consent
          WHERE recipient = '{self.recipient}' GROUP BY portfolio_id),
        scope AS (SELECT p.portfolio_id, p.portfolio_number, coalesce(a.reference, b.reference) AS reference, a.history_from,
          CASE WHEN b.portfolio_id IS NULL THEN 'NEW' WHEN a.portfolio_id IS NULL THEN 'REMOVED' ELSE 'CURRENT' END AS consent,
          CASE WHEN b.portfolio_id IS NULL THEN 'FULL' WHEN a.portfolio_id IS NULL THEN 'NONE' ELSE 'DELTA' END AS extract,
          p.hin, c.consent_updated_at
          FROM active a FULL JOIN before b ON a.portfolio_id = b.portfolio_id
          JOIN {self.schema}.portfolio p ON p.portfolio_id = coalesce(a.portfolio_id, b.portfolio_id)
          JOIN changed c ON c.portfolio_id = p.portfolio_id),
        codes AS (
          SELECT security_id, coalesce(lag(effective_on) OVER (PARTITION BY security_id ORDER BY effective_on), {_FAR_PAST})
            AS first_on, effective_on AS not_on, old_code AS code, old_name AS name FROM {self.schema}.security_code_change
          UNION ALL SELECT s.security_id, coalesce(max(x.effective_on), {_FAR_PAST}), {_FAR_FUTURE}, s.code, s.name
          FROM {self.schema}.security s LEFT JOIN {self.schema}.security_code_change x ON x.security_id = s.security_id
          GROUP BY s.security_id, s.code, s.name)
        {query}"""

    def _evidence(self, **known: str) -> str:
        parts = []
        for name in EVIDENCE:
            expression = known.get(name, "CAST(NULL AS VARCHAR)")
            parts.append(f"{self._instant(expression) if name in known and name != 'source_row' else expression} AS {name}")
        return ", ".join(parts)

    def _accounts(self) -> str:
        shown = {"portfolio_name", "entity_type", "abn", "hin", "status", "opened_on", "closed_on"}
        own = ", ".join(f"CASE WHEN s.consent <> 'REMOVED' THEN p.{name} END AS {name}" for name in sorted(shown))
        return f"""SELECT s.portfolio_number, s.reference AS recipient_reference, s.consent, s.extract, {own},
          {self._evidence(state_updated_at="p.updated_at", consent_updated_at="s.consent_updated_at",
                          source_row="'portfolio ' || p.portfolio_id")}
          FROM scope s JOIN {self.schema}.portfolio p ON p.portfolio_id = s.portfolio_id"""

    @property
    def _accounts_of_scope(self) -> str:
        return (
            f"scope s JOIN {self.schema}.cash_account a ON a.portfolio_id = s.portfolio_id "
            f"AND a.opened_on <= {self._day} AND s.consent <> 'REMOVED'"
        )

    def _cash_accounts(self) -> str:
        return f"""SELECT s.portfolio_number, a.bsb, a.account_number, a.account_name, a.currency, a.status, a.opened_on, a.closed_on,
          {self._evidence(state_updated_at="a.updated_at", source_row="'cash_account ' || a.cash_account_id")}
          FROM {self._accounts_of_scope}"""

    def _balances(self) -> str:
        zero = "CAST(0 AS DECIMAL(18,2))"
        return f"""SELECT s.portfolio_number, a.bsb, a.account_number, a.currency, {self._day} AS as_at_date,
          coalesce(b.ledger_balance, {zero}) AS ledger_balance, coalesce(b.available_balance, {zero}) AS available_balance,
          {self._evidence(state_updated_at="a.updated_at", eod_updated_at="b.updated_at",
                          source_row="'cash_balance_eod ' || a.cash_account_id")}
          FROM {self._accounts_of_scope}
          LEFT JOIN {self.schema}.cash_balance_eod b ON b.cash_account_id = a.cash_account_id AND b.as_at_date = {self._day}
          WHERE b.cash_account_id IS NOT NULL OR a.closed_on <= {self._day}"""

    def _holdings(self) -> str:
        return f"""SELECT s.portfolio_number, CASE WHEN x.exchange = 'ASX' THEN s.hin END AS hin, x.exchange, n.code AS security_code,
          x.isin, n.name AS security_name, x.security_type, h.as_at_date, h.units, h.units - coalesce(u.unsettled, 0) AS settled_units,
          x.currency, c.close_price AS price, c.price_date, round(h.units * c.close_price, 2) AS market_value, h.cost_base,
          {self._evidence(state_updated_at="x.updated_at", eod_updated_at="h.updated_at", price_updated_at="c.updated_at",
                          source_row="'holding_eod ' || h.portfolio_id || '/' || h.security_id")}
          FROM scope s
          JOIN {self.schema}.holding_eod h ON h.portfolio_id = s.portfolio_id AND h.as_at_date = {self._day} AND s.consent <> 'REMOVED'
          JOIN {self.schema}.security x ON x.security_id = h.security_id
          JOIN codes n ON n.security_id = x.security_id AND h.as_at_date >= n.first_on AND h.as_at_date < n.not_on
          LEFT JOIN (SELECT security_id, max(price_date) AS price_date FROM {self.schema}.security_price
            WHERE price_date <= {self._day} GROUP BY security_id) m ON m.security_id = x.security_id
          LEFT JOIN {self.schema}.security_price c ON c.security_id = m.security_id AND c.price_date = m.price_date
          LEFT JOIN (SELECT t.portfolio_id, t.security_id, sum(CASE WHEN t.side = 'SELL' THEN -t.units ELSE t.units END) AS unsettled
            FROM {self.schema}.trade t JOIN {self.schema}.holding_eod e
              ON e.portfolio_id = t.portfolio_id AND e.security_id = t.security_id AND e.as_at_date = {self._day}
            WHERE t.trade_date <= {self._day} AND t.settlement_date > {self._day} AND t.recorded_at <= e.updated_at
            GROUP BY t.portfolio_id, t.security_id) u ON u.portfolio_id = h.portfolio_id AND u.security_id = h.security_id"""

    def _movements(self) -> str:
        from classfeed_dagster.reconciliation.movements_sql import movements

        return movements(self)
