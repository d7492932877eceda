"""Expected records of a document, as reconciliation's own SQL over bigsite's tables.

The SQL serves PostgreSQL (bigsite, read again) and DuckDB (views over the landed files, shaped as bigsite's tables, see
``landing.py``). It is standard except for the text of an instant. Every value is the text that a document would
contain, with evidence columns: the instants at which its sources were last changed or recorded.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from classfeed_dagster.reconciliation.movements_sql import movements, named_rows
from classfeed_dagster.reconciliation.record_scope import EVIDENCE, RecordScope, literals
from classfeed_dagster.reconciliation.records import (
    ACCOUNTS,
    BALANCES,
    CASH_ACCOUNTS,
    HOLDINGS,
    ISIN,
    MOVEMENTS,
    RecordKind,
)
from classfeed_dagster.reconciliation.rules import FieldType

# Another reference is another fund of the recipient, which has no history of the portfolio yet.
_BEGINS = "b.portfolio_id IS NULL OR b.reference <> a.reference"
# Without the blanks around it: a pasted code may have some, even a no-break space (160).
_BLANKS = f"' ' || {' || '.join(f'chr({code})' for code in (9, 10, 11, 12, 13, 160))}"
_REFERENCE = f"trim(recipient_reference, {_BLANKS})"
_FAR_PAST, _FAR_FUTURE = "DATE '0001-01-01'", "DATE '9999-12-31'"

NULL_TEXT, SEPARATOR = "\x1d", "\x1e"  # control characters, which no XML document contains

_ENDS = ("expires_at", "revoked_at")  # of a consent
# Landed consents begin in 1900 or later; an end from the year 9999 on is none.
_FIRST_INSTANT, _NEVER = (
    "TIMESTAMP WITH TIME ZONE '1900-01-01 00:00+00'",
    "TIMESTAMP WITH TIME ZONE '9999-01-01 00:00+00'",
)
_FIRST_DATE = "DATE '1900-01-01'"


@dataclass(frozen=True, slots=True)
class ExpectedRecords(RecordScope):
    """SQL of the records that a document should contain, and of the consents and decisions that select them."""

    def rows(self, kind: RecordKind, only: str = "") -> str:
        """Return SQL of a kind's records: columns as text, then evidence. ``only``: SQL condition on portfolios."""
        return f"{self._scope(only)} {self.rows_of_scope(kind)}"

    def rows_of_scope(self, kind: RecordKind) -> str:
        """Return the same SQL where the relations of ``scope_relations`` are tables."""
        columns = ", ".join(f"{self._as_text(field.kind, field.name)} AS {field.name}" for _, field in kind.columns)
        return f"SELECT {columns}, {', '.join(EVIDENCE)} FROM ({self._query(kind)}) q"

    def digests(self, kind: RecordKind) -> str:
        """Return SQL of portfolio number, rows, and two sums of hashes: equal for equal rows in any order."""
        columns = {field.name: self._as_text(field.kind, field.name) for _, field in kind.columns}
        return f"{self._scope()} {digest_sql(columns, f'({self._query(kind)}) q', postgresql=not self.landed)}"

    def named_rows(self, ledgers: str) -> str:
        """Return SQL of the rows of earlier windows that the records of some ledgers name. See ``movements_sql``."""
        return named_rows(self, ledgers)

    def histories(self, at: dt.datetime, numbers: Iterable[str]) -> str:
        """Return SQL of the start of the history that some portfolios shared at an instant, by number, as text."""
        return (
            f"SELECT p.portfolio_number, CAST(a.history_from AS VARCHAR) FROM ({self._active(self.at(at))}) a "
            f"JOIN {self.schema}.portfolio p ON p.portfolio_id = a.portfolio_id "
            f"WHERE p.portfolio_number IN ({literals(numbers)})"
        )

    def consents(self, only: str = "") -> str:
        """Return the SQL of every consent for the recipient, with its portfolio; ``only`` limits portfolios.

        Instants are bounded as they were landed, so that an unchanged consent is equal on both sides.
        """
        instants = ", ".join(
            f"CASE WHEN c.{name} < {_FIRST_INSTANT} THEN {_FIRST_INSTANT} WHEN c.{name} < {_NEVER} THEN c.{name} END AS {name}"
            for name in ("granted_at", *_ENDS)
        )
        return (
            f"SELECT p.portfolio_number, {instants}, c.updated_at, c.consent_id, c.recipient_reference, "
            f"CAST({_bounded('c.history_from')} AS VARCHAR) AS history_from "
            f"FROM {self.schema}.data_sharing_consent c JOIN {self.schema}.portfolio p ON p.portfolio_id = c.portfolio_id "
            f"WHERE c.recipient = '{self.recipient}' {only and f'AND p.portfolio_number {only}'} "
            "ORDER BY p.portfolio_number, c.consent_id"
        )

    def decisions(self, only: str = "") -> str:
        """Return SQL of each portfolio's consent decision: number, change, extract, reference, start of history."""
        return f"{self._scope(only)} {self.decisions_of_scope()}"

    @staticmethod
    def decisions_of_scope() -> str:
        """Return the same SQL where the relations of ``scope_relations`` are tables."""
        return "SELECT portfolio_number, consent, extract, reference, CAST(history_from AS VARCHAR) AS history_from FROM scope"

    # -- the parts of a document -----------------------------------------------------------------------------------

    def _as_text(self, kind: FieldType, name: str) -> str:
        if kind is FieldType.INSTANT:
            return self.instant(name)
        if kind.scale is not None and not self.landed:
            # Zeros beyond the document's decimals, of a column that bigsite widened, are no other value.
            rounded = f"round({name}, {kind.scale})"
            return f"CAST(CASE WHEN {rounded} = {name} THEN {rounded} ELSE {name} END AS VARCHAR)"
        # A document has no empty text: an element without a value is absent.
        return f"nullif(CAST({name} AS VARCHAR), '')" if kind is FieldType.TEXT else f"CAST({name} AS VARCHAR)"

    def _query(self, kind: RecordKind) -> str:
        if kind.name == MOVEMENTS.name:
            return movements(self, kind.ledgers)
        return {
            ACCOUNTS.name: self._accounts,
            CASH_ACCOUNTS.name: self._cash_accounts,
            BALANCES.name: self._balances,
            HOLDINGS.name: self._holdings,
        }[kind.name]()

    def _active(self, instant: str) -> str:
        """Return SQL of the consents active at an instant, one row a portfolio: latest reference, earliest history.

        Excluded are consents with an end before the grant, or with a history that begins more than ten years after it.
        So are portfolios whose latest grants have no reference or different ones (design: unreadable or ambiguous
        consents exclude). The history of an earlier consent without a reference does not count.
        """
        history = _bounded("history_from")
        return f"""SELECT portfolio_id, min(reference) FILTER (WHERE granted_at = latest) AS reference,
          CASE WHEN count(*) FILTER (WHERE reference <> '') = count(history_from) FILTER (WHERE reference <> '')
            THEN min({history}) FILTER (WHERE reference <> '') END AS history_from
          FROM (SELECT *, {_REFERENCE} AS reference, max(granted_at) OVER (PARTITION BY portfolio_id) AS latest
            FROM {self._granted} c WHERE recipient = '{self.recipient}' AND granted_at < {instant}
            AND (history_from IS NULL OR history_from <= CAST(granted_at AS DATE) + 3660)
            AND (expires_at IS NULL OR (expires_at >= {instant} AND expires_at >= granted_at))
            AND (revoked_at IS NULL OR (revoked_at >= {instant} AND revoked_at >= granted_at))) g
          GROUP BY portfolio_id HAVING count(DISTINCT reference) FILTER (WHERE granted_at = latest) = 1
            AND min(reference) FILTER (WHERE granted_at = latest) <> ''"""

    @property
    def _granted(self) -> str:
        # The consents; early ones as if they were granted just before their cut-off.
        table = f"{self.schema}.data_sharing_consent"
        if not self.early:
            return table
        cases = " ".join(
            f"WHEN p.portfolio_number = {literals([one.number])} AND c.granted_at >= {self.at(one.since)} "
            f"AND c.granted_at < {self.at(one.until)} THEN {self.at(one.since - dt.timedelta(microseconds=1))}"
            for one in self.early
        )
        names = ("consent_id", "portfolio_id", "recipient", "recipient_reference", "history_from", *_ENDS)
        return (
            f"(SELECT {', '.join(f'c.{name}' for name in names)}, CASE {cases} ELSE c.granted_at END AS granted_at "
            f"FROM {table} c JOIN {self.schema}.portfolio p ON p.portfolio_id = c.portfolio_id)"
        )

    def _scope(self, only: str = "") -> str:
        relations = (f"{name} AS MATERIALIZED ({query})" for name, query in self.scope_relations(only).items())
        return f"WITH {', '.join(relations)}"

    def scope_relations(self, only: str = "") -> dict[str, str]:
        """Return SQL by name of what all kinds of record select from; each may use those before it.

        They are the consents, the portfolios in scope with their consent decision, and the securities' codes by date.
        """
        conditions = [f"p.portfolio_number {only}"] if only else []
        if self.selected:
            operator = "NOT IN" if self.carried.startswith("!") else "IN"
            conditions.append(f"p.portfolio_number {operator} ({literals(self.selected)})")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        refreshed = f"WHEN p.portfolio_number IN ({literals(self.in_full)}) THEN 'FULL' " if self.in_full else ""
        at_cutoff = self._active(self.at(self.window_end))
        before = self._active(self.at(self.window_start)) + ("" if self.previous else " AND 1 = 0")
        return {
            "active": at_cutoff,
            "before": before,
            "changed": f"""SELECT portfolio_id, max(updated_at) AS consent_updated_at FROM {self.schema}.data_sharing_consent
              WHERE recipient = '{self.recipient}' GROUP BY portfolio_id""",
            "scope": f"""SELECT p.portfolio_id, p.portfolio_number, coalesce(a.reference, b.reference) AS reference, a.history_from,
              CASE WHEN {_BEGINS} THEN 'NEW' WHEN a.portfolio_id IS NULL THEN 'REMOVED' ELSE 'CURRENT' END AS consent,
              CASE WHEN {_BEGINS} THEN 'FULL' WHEN a.portfolio_id IS NULL THEN 'NONE' {refreshed}ELSE 'DELTA' END AS extract,
              p.hin, c.consent_updated_at, p.updated_at AS portfolio_updated_at
              FROM active a FULL JOIN before b ON a.portfolio_id = b.portfolio_id
              JOIN {self.schema}.portfolio p ON p.portfolio_id = coalesce(a.portfolio_id, b.portfolio_id)
              JOIN changed c ON c.portfolio_id = p.portfolio_id {where}""",
            "sending": "SELECT * FROM scope WHERE consent <> 'REMOVED'",
            "codes": f"""SELECT security_id, coalesce(lag(effective_on) OVER (PARTITION BY security_id ORDER BY effective_on), {_FAR_PAST})
                AS first_on, effective_on AS not_on, old_code AS code, old_name AS name, updated_at FROM {self.schema}.security_code_change
              UNION ALL SELECT s.security_id, coalesce(max(x.effective_on), {_FAR_PAST}), {_FAR_FUTURE}, s.code, s.name, s.updated_at
              FROM {self.schema}.security s LEFT JOIN {self.schema}.security_code_change x ON x.security_id = s.security_id
              GROUP BY s.security_id, s.code, s.name, s.updated_at""",
        }

    def _accounts(self) -> str:
        shown = ("portfolio_name", "entity_type", "abn", "hin", "status", "opened_on", "closed_on")
        own = ", ".join(f"CASE WHEN s.consent <> 'REMOVED' THEN p.{name} END AS {name}" for name in shown)
        return f"""SELECT s.portfolio_number, s.reference AS recipient_reference, s.consent, s.extract, {own},
          {
            self.evidence(
                state_updated_at="p.updated_at",
                consent_updated_at="s.consent_updated_at",
                source_row="'portfolio ' || p.portfolio_id",
            )
        }
          FROM scope s JOIN {self.schema}.portfolio p ON p.portfolio_id = s.portfolio_id"""

    @property
    def _accounts_of_scope(self) -> str:
        return f"sending s JOIN {self.schema}.cash_account a ON a.portfolio_id = s.portfolio_id AND a.opened_on <= {self.day}"

    def _cash_accounts(self) -> str:
        return f"""SELECT s.portfolio_number, a.bsb, a.account_number, a.account_name, a.currency, a.status, a.opened_on, a.closed_on,
          {
            self.evidence(
                state_updated_at="a.updated_at",
                consent_updated_at="s.consent_updated_at",
                source_row="'cash_account ' || a.cash_account_id",
            )
        }
          FROM {self._accounts_of_scope}"""

    def _balances(self) -> str:
        zero = "CAST(0 AS DECIMAL(18,2))"
        return f"""SELECT s.portfolio_number, a.bsb, a.account_number, a.currency, {self.day} AS as_at_date,
          coalesce(b.ledger_balance, {zero}) AS ledger_balance, coalesce(b.available_balance, {
            zero
        }) AS available_balance,
          {
            self.evidence(
                state_updated_at="a.updated_at",
                eod_updated_at="b.updated_at",
                consent_updated_at="s.consent_updated_at",
                source_row="'cash_balance_eod ' || a.cash_account_id",
            )
        }
          FROM {self._accounts_of_scope}
          LEFT JOIN {self.schema}.cash_balance_eod b ON b.cash_account_id = a.cash_account_id AND b.as_at_date = {
            self.day
        }
          WHERE b.cash_account_id IS NOT NULL OR a.closed_on <= {self.day}"""

    def _holdings(self) -> str:
        schema = self.schema
        # The landing contains the unsettled units, because it lacks the trades of earlier windows.
        unsettled = (
            f"SELECT portfolio_id, security_id, unsettled_units AS unsettled FROM {schema}.holding_eod"
            if self.landed
            else f"""SELECT t.portfolio_id, t.security_id, sum(CASE WHEN t.side = 'SELL' THEN -t.units ELSE t.units END) AS unsettled
            FROM {schema}.trade t JOIN {schema}.holding_eod e
              ON e.portfolio_id = t.portfolio_id AND e.security_id = t.security_id AND e.as_at_date = {self.day}
            WHERE t.trade_date <= {self.day} AND t.settlement_date > {self.day} AND t.recorded_at <= e.updated_at
            GROUP BY t.portfolio_id, t.security_id"""
        )
        return f"""SELECT s.portfolio_number, CASE WHEN x.exchange = 'ASX' THEN s.hin END AS hin, x.exchange, n.code AS security_code,
          {
            ISIN
        } AS isin, n.name AS security_name, x.security_type, h.as_at_date, h.units, h.units - coalesce(u.unsettled, 0) AS settled_units,
          x.currency, c.close_price AS price, c.price_date, round(h.units * c.close_price, 2) AS market_value, h.cost_base,
          {
            self.evidence(
                state_updated_at="greatest(x.updated_at, n.updated_at)",
                portfolio_updated_at="s.portfolio_updated_at",
                eod_updated_at="h.updated_at",
                price_updated_at="c.updated_at",
                consent_updated_at="s.consent_updated_at",
                source_row="'holding_eod ' || h.portfolio_id || '/' || h.security_id",
            )
        }
          FROM sending s
          JOIN {schema}.holding_eod h ON h.portfolio_id = s.portfolio_id AND h.as_at_date = {self.day}
          JOIN {schema}.security x ON x.security_id = h.security_id
          JOIN codes n ON n.security_id = x.security_id AND h.as_at_date >= n.first_on AND h.as_at_date < n.not_on
          LEFT JOIN (SELECT security_id, max(price_date) AS price_date FROM {schema}.security_price
            WHERE price_date <= {self.day} GROUP BY security_id) m ON m.security_id = x.security_id
          LEFT JOIN {schema}.security_price c ON c.security_id = m.security_id AND c.price_date = m.price_date
          LEFT JOIN ({unsettled}) u ON u.portfolio_id = h.portfolio_id AND u.security_id = h.security_id"""


def _bounded(history_from: str) -> str:
    return f"CASE WHEN {history_from} < {_FIRST_DATE} THEN {_FIRST_DATE} ELSE {history_from} END"


def digest_sql(columns: dict[str, str], source: str, *, postgresql: bool) -> str:
    """Return SQL of rows and two sums of 60-bit halves of each row's MD5, by portfolio, for PostgreSQL or DuckDB.

    Sums count a repeated row twice. MD5 is the only digest that every database has.
    """
    chars = "chr({})"
    null, separator = chars.format(ord(NULL_TEXT)), chars.format(ord(SEPARATOR))
    text = f" || {separator} || ".join(f"coalesce({expression}, {null})" for expression in columns.values())
    number = "('x' || substr(d, {}, 15))::bit(60)::bigint" if postgresql else "('0x' || substr(d, {}, 15))::BIGINT"
    one, two = (f"CAST(sum({number.format(at)}) AS VARCHAR)" for at in (1, 17))
    return (
        f"SELECT portfolio_number, count(*) AS n, {one} AS one, {two} AS two "
        f"FROM (SELECT portfolio_number, md5({text}) AS d FROM {source}) h GROUP BY portfolio_number"
    )
