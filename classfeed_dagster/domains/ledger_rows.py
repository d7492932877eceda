"""Input of the delivered ledger: what a document carries of each portfolio, with the source's permanent keys.

Documents name portfolios, accounts and securities by numbers and codes that may change. These frames travel with the
domains and add bigsite's own keys. No format renders them. They hold no names and no free text.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import polars as pl

from classfeed_dagster.domains.columns import INSTANT, MONEY, UNITS, Column, Frame

UNITS_SUM = pl.Decimal(38, 6)
MONEY_SUM = pl.Decimal(38, 2)

# Letters of the records in the ledger: the four ledgers as in TransactionId, and the two openings.
OPENING_UNITS, OPENING_CASH = "OU", "OC"
# The ledgers that a document carries whole if it carries the opening: both of those that move units, or cash.
_OPENING_OF = {OPENING_UNITS: frozenset("TS"), OPENING_CASH: frozenset("C")}

_TEXT, _DATE, _KEY = pl.String(), pl.Date(), pl.Int64()


def _column(
    name: str, dtype: pl.DataType, description: str, *, nullable: bool = False, personal: bool = False
) -> Column:
    return Column(name, dtype, description, ("derived",), nullable=nullable, personal=personal)


_PORTFOLIO = (
    _column("portfolio_id", _KEY, "bigsite's key of the portfolio"),
    _column("portfolio_number", _TEXT, "portfolio's number at the recipient"),
)
_SECURITY = (
    _column("security_id", _KEY, "bigsite's key of the security", nullable=True),
    _column("exchange", _TEXT, "security's market at the recipient", nullable=True),
    _column("security_code", _TEXT, "security's code at the recipient", nullable=True),
)
_ACCOUNT = (
    _column("cash_account_id", _KEY, "bigsite's key of the cash account", nullable=True),
    _column("bsb", _TEXT, "account's BSB at the recipient", nullable=True, personal=True),
    _column("account_number", _TEXT, "account's number at the recipient", nullable=True, personal=True),
)

REVERSED_TYPE = "reversed_type"  # by which a switch excludes rows
# The references of a record, each with the date and the instant of the row that it names.
REFERENCES: Mapping[str, tuple[str, str]] = {
    "reverses": ("reversed_on", "reversed_recorded_at"),
    "relates_to": ("related_on", "related_recorded_at"),
}
# Facts of the rows that records name: not part of the delivered ledger.
OF_NAMED_ROWS = frozenset({REVERSED_TYPE, *(fact for facts in REFERENCES.values() for fact in facts)})
LEDGER_RECORDS = Frame(
    "ledger_records",
    "One row a movement of the document, with the source's keys.",
    (
        *_PORTFOLIO,
        _column("transaction_id", _TEXT, "TransactionId of the record"),
        _column("ledger", _TEXT, "T, S, I or C for the ledger of the row; OU or OC for an opening"),
        _column("row_id", _KEY, "bigsite's key of the ledger row; null for an opening", nullable=True),
        _column("transaction_type", _TEXT, "type of the record"),
        _column("transaction_date", _DATE, "business date that the record carries"),
        _column("recorded_at", INSTANT, "recorded_at of the record"),
        *_SECURITY,
        *_ACCOUNT,
        _column("units", UNITS, "signed units that the record moves; null if it moves none", nullable=True),
        _column("amount", MONEY, "signed cash that the record moves; null if it moves none", nullable=True),
        _column("currency", _TEXT, "ISO 4217 code of the record's money", nullable=True),
        _column("reverses", _TEXT, "TransactionId that the record undoes", nullable=True),
        _column("relates_to", _TEXT, "TransactionId that caused the record", nullable=True),
        _column(REVERSED_TYPE, _TEXT, "movement type of the row that the record undoes", nullable=True),
        _column("reversed_on", _DATE, "business date of the row that the record undoes", nullable=True),
        _column("reversed_recorded_at", INSTANT, "recorded_at of the row that the record undoes", nullable=True),
        _column("related_on", _DATE, "business date of the row that caused the record", nullable=True),
        _column("related_recorded_at", INSTANT, "recorded_at of the row that caused the record", nullable=True),
    ),
    ("portfolio_number", "recorded_at", "transaction_id"),
)

LEDGER_BALANCES = Frame(
    "ledger_balances",
    "One row a cash account whose balance the document states, with the source's keys.",
    (
        *_PORTFOLIO,
        _column("cash_account_id", _KEY, "bigsite's key of the cash account"),
        *_ACCOUNT[1:],
        _column("currency", _TEXT, "ISO 4217 code of the account"),
        _column("stated", MONEY, "ledger balance as the document states it"),
        _column("unsent", MONEY_SUM, "part of it recorded after the cut-off, sent in a later window", nullable=True),
    ),
    ("portfolio_number", "cash_account_id"),
)

LEDGER_HOLDINGS = Frame(
    "ledger_holdings",
    "One row a holding that the document states or that later corrections undid, with the source's keys.",
    (
        *_PORTFOLIO,
        _column("security_id", _KEY, "bigsite's key of the security"),
        *_SECURITY[1:],
        _column("stated", UNITS, "units as the document states them"),
        _column("unsent", UNITS_SUM, "part of them recorded after the cut-off, sent in a later window", nullable=True),
    ),
    ("portfolio_number", "security_id"),
)

# The ledger's input by the domain that produces it.
LEDGER_FRAMES: Mapping[str, Frame] = {
    "account_balances": LEDGER_BALANCES,
    "investment_holdings": LEDGER_HOLDINGS,
    "movement_transactions": LEDGER_RECORDS,
}


def carried_ledgers(ledgers: AbstractSet[str]) -> frozenset[str]:
    """Return the ``ledgers`` of a document and the openings that it has with them."""
    return frozenset(ledgers).union(opening for opening, of in _OPENING_OF.items() if of <= ledgers)


def complete(frame: Frame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``rows`` in the form of ``frame``, with null in nullable columns that they lack."""
    absent = [pl.lit(None, c.dtype).alias(c.name) for c in frame.columns if c.nullable and c.name not in rows.columns]
    return frame.conform(rows.with_columns(absent))


def landed_since(rows: pl.DataFrame, column: str, dtype: pl.DataType | None = None) -> pl.Expr:
    """Return ``column``, or null for rows of a snapshot that was landed before the column existed."""
    return pl.col(column) if column in rows.columns else pl.lit(None, dtype or MONEY_SUM)
