"""Declarations of the domains' frames: columns, types, order, key and the sources of each column.

One declaration serves the computation (which must return exactly these columns), the Parquet files, the documents'
mapping, the column schemas and the column lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

MONEY = pl.Decimal(18, 2)
PRICE = pl.Decimal(18, 6)
UNITS = pl.Decimal(20, 6)
INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a domain frame.

    ``source`` names the columns from which its values are computed: ``table.column`` for landed columns and columns
    of the consented portfolios, or ``derived``. Columns that only select rows (a cut-off, a join) are not sources.
    ``only`` maps a source to the landed tables of the ledgers or openings that use it; absent means all.

    ``personal`` marks values that may never reach a log, an alert, metadata or an error. ``unit`` is the unit of a
    number: ``currency`` for money in the row's currency, ``units`` of the security.
    """

    name: str
    dtype: pl.DataType
    description: str
    source: tuple[str, ...]
    nullable: bool = False
    personal: bool = False
    unit: str | None = None
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's columns in order, and its key. The key is unique within a frame, and rows are ordered by it."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Return column names and Polars types, in order."""
        return {column.name: column.dtype for column in self.columns}

    def column(self, name: str) -> Column:
        """Return the column called ``name``; raise KeyError if the frame has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name}")

    def empty(self) -> pl.DataFrame:
        """Return a frame of this shape without rows."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return ``frame`` with these columns, types and row order. Raise ValueError on a missing column or null."""
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        if missing:
            raise ValueError(f"{self.name} lacks the columns {missing}")
        result = frame.select(pl.col(c.name).cast(c.dtype, strict=True) for c in self.columns)
        # Stable sort: rows with equal keys (which a rule reports) must have the same order in every build.
        result = result.sort(self.key, maintain_order=True)
        for column in self.columns:
            if not column.nullable and result[column.name].null_count():
                raise ValueError(f"{self.name}.{column.name} must not be null, and is in some rows")
        return result


_TEXT = pl.String()
_DATE = pl.Date()
_INT = pl.Int64()

_OPENINGS = ("opening_units", "opening_cash")
_NUMBER_MEANING = "what the customer and the recipient call the account"
_NUMBER = Column("portfolio_number", _TEXT, _NUMBER_MEANING, ("consented_portfolios.portfolio_number",))
_CONSENTED = (
    "data_sharing_consent.granted_at",
    "data_sharing_consent.expires_at",
    "data_sharing_consent.revoked_at",
)

CONSENTED_PORTFOLIOS = Frame(
    "consented_portfolios",
    "Who shares data with the recipient on the business date, and how that changed since the date before.",
    (
        Column("portfolio_id", _INT, "bigsite's own key", ("data_sharing_consent.portfolio_id",)),
        Column("portfolio_number", _TEXT, _NUMBER_MEANING, ("data_sharing_consent.portfolio_number",)),
        Column(
            "recipient_reference",
            _TEXT,
            "the recipient's code for the fund, from the most recently granted consent",
            ("data_sharing_consent.recipient_reference",),
        ),
        Column(
            "change",
            _TEXT,
            "NEW, CURRENT or REMOVED, comparing this cut-off with the previous one",
            _CONSENTED,
        ),
        Column("extract", _TEXT, "FULL for NEW and refreshed, DELTA for CURRENT, NONE for REMOVED", _CONSENTED),
        Column(
            "history_from",
            _DATE,
            "movements are shared from this day on; null: all of them",
            ("data_sharing_consent.history_from",),
            nullable=True,
        ),
        Column(
            "consent_ids",
            pl.List(pl.Int64),
            "the authorities relied on at the cut-off, ascending",
            ("data_sharing_consent.consent_id",),
        ),
    ),
    ("portfolio_number",),
)

ACCOUNTS = Frame(
    "accounts",
    "One row a portfolio in the document: its details, or only its number and reference if removed.",
    (
        _NUMBER,
        Column(
            "recipient_reference",
            _TEXT,
            "the recipient's own code for the fund",
            ("consented_portfolios.recipient_reference",),
        ),
        Column("consent", _TEXT, "NEW, CURRENT or REMOVED", ("consented_portfolios.change",)),
        Column("extract", _TEXT, "FULL, DELTA or NONE", ("consented_portfolios.extract",)),
        Column(
            "portfolio_name",
            _TEXT,
            "the account's registered name",
            ("portfolio.portfolio_name",),
            nullable=True,
            personal=True,
        ),
        Column("entity_type", _TEXT, "kind of legal owner", ("portfolio.entity_type",), nullable=True),
        Column("abn", _TEXT, "Australian Business Number", ("portfolio.abn",), nullable=True, personal=True),
        Column("hin", _TEXT, "CHESS Holder Identification Number", ("portfolio.hin",), nullable=True, personal=True),
        Column("status", _TEXT, "ACTIVE, SUSPENDED or CLOSED", ("portfolio.status",), nullable=True),
        Column("opened_on", _DATE, "Sydney date", ("portfolio.opened_on",), nullable=True),
        Column("closed_on", _DATE, "Sydney date", ("portfolio.closed_on",), nullable=True),
    ),
    ("portfolio_number",),
)

_BSB = Column("bsb", _TEXT, "bank, state and branch, NNN-NNN", ("cash_account.bsb",), nullable=True, personal=True)
_ACCOUNT_NUMBER = Column(
    "account_number", _TEXT, "the cash account's number", ("cash_account.account_number",), personal=True
)

CASH_ACCOUNTS = Frame(
    "cash_accounts",
    "The cash accounts of each consented portfolio.",
    (
        _NUMBER,
        _BSB,
        _ACCOUNT_NUMBER,
        Column("account_name", _TEXT, "name on the cash account", ("cash_account.account_name",), personal=True),
        Column("currency", _TEXT, "ISO 4217", ("cash_account.currency",)),
        Column("status", _TEXT, "ACTIVE, SUSPENDED or CLOSED", ("cash_account.status",)),
        Column("opened_on", _DATE, "Sydney date", ("cash_account.opened_on",)),
        Column("closed_on", _DATE, "Sydney date", ("cash_account.closed_on",), nullable=True),
    ),
    ("portfolio_number", "account_number", "currency"),
)

ACCOUNT_BALANCES = Frame(
    "account_balances",
    "Every cash account's balance as at the business date, from bigsite's end of day.",
    (
        _NUMBER,
        _BSB,
        _ACCOUNT_NUMBER,
        Column("currency", _TEXT, "ISO 4217", ("cash_account.currency",)),
        Column("as_at_date", _DATE, "the business date", ("derived",)),
        Column(
            "ledger_balance",
            MONEY,
            "sum of the account's cash transactions to the date",
            ("cash_balance_eod.ledger_balance",),
            unit="currency",
        ),
        Column(
            "available_balance",
            MONEY,
            "ledger less what unsettled buys will take",
            ("cash_balance_eod.available_balance",),
            unit="currency",
        ),
    ),
    ("portfolio_number", "account_number", "currency"),
)

_EXCHANGE = Column("exchange", _TEXT, "market identifier, ASX, NYSE, ...", ("security.exchange",))
_CODE_SOURCES = ("security.code", "security_code_change.old_code", "security_code_change.effective_on")
_ISIN = Column("isin", _TEXT, "International Securities Identification Number", ("security.isin",), nullable=True)

INVESTMENT_HOLDINGS = Frame(
    "investment_holdings",
    "Holdings as at the business date, from bigsite's end of day, valued at the last close on or before it.",
    (
        _NUMBER,
        Column(
            "hin",
            _TEXT,
            "the portfolio's HIN; ASX holdings only, foreign ones are not on it",
            ("portfolio.hin", "security.exchange"),
            nullable=True,
            personal=True,
        ),
        _EXCHANGE,
        Column("security_code", _TEXT, "as on the business date", _CODE_SOURCES),
        _ISIN,
        Column(
            "security_name",
            _TEXT,
            "as on the business date",
            ("security.name", "security_code_change.old_name", "security_code_change.effective_on"),
        ),
        Column("security_type", _TEXT, "kind of security", ("security.security_type",)),
        Column("as_at_date", _DATE, "the business date", ("derived",)),
        Column("units", UNITS, "held on a traded basis", ("holding_eod.units",), unit="units"),
        Column(
            "settled_units",
            UNITS,
            "units less trades done and not settled at the date",
            ("holding_eod.units", "holding_eod.unsettled_units"),
            unit="units",
        ),
        Column("currency", _TEXT, "ISO 4217, of price and value", ("security.currency",)),
        Column(
            "price",
            PRICE,
            "last close on or before the date",
            ("security_price.close_price",),
            nullable=True,
            unit="currency",
        ),
        Column("price_date", _DATE, "the day of that close", ("security_price.price_date",), nullable=True),
        Column(
            "market_value",
            MONEY,
            "units x price, half away from zero to cents",
            ("holding_eod.units", "security_price.close_price"),
            nullable=True,
            unit="currency",
        ),
        Column("cost_base", MONEY, "as bigsite states it", ("holding_eod.cost_base",), nullable=True, unit="currency"),
    ),
    ("portfolio_number", "exchange", "security_code"),
)


def _ledger(name: str, dtype: pl.DataType, description: str, *source: str, unit: str | None = None) -> Column:
    return Column(name, dtype, description, source, nullable=True, unit=unit)


MOVEMENT_TRANSACTIONS = Frame(
    "movement_transactions",
    "Ledger rows of the window (DELTA) or of the shared history (FULL), and what stood before it (OPENING_).",
    (
        Column(
            "transaction_id",
            _TEXT,
            "T, S, I or C and the ledger's own id; OU-, OC- for openings; permanent",
            (
                "trade.trade_id",
                "security_movement.security_movement_id",
                "income.income_id",
                "cash_transaction.cash_transaction_id",
                "opening_units.security_id",
                "opening_cash.cash_account_id",
                "consented_portfolios.portfolio_number",
            ),
            only={"consented_portfolios.portfolio_number": _OPENINGS},
        ),
        _NUMBER,
        Column(
            "transaction_type",
            _TEXT,
            "what happened",
            (
                "trade.side",
                "security_movement.movement_type",
                "income.income_type",
                "cash_transaction.transaction_type",
            ),
        ),
        Column(
            "transaction_date",
            _DATE,
            "trade, effective, payment or cash date",
            (
                "trade.trade_date",
                "security_movement.effective_date",
                "income.payment_date",
                "cash_transaction.transaction_date",
                "consented_portfolios.history_from",
            ),
            only={"consented_portfolios.history_from": _OPENINGS},
        ),
        _ledger("settlement_date", _DATE, "as the contract note states it", "trade.settlement_date"),
        Column(
            "recorded_at",
            INSTANT,
            "when the row became visible in bigsite",
            (
                "trade.recorded_at",
                "security_movement.recorded_at",
                "income.recorded_at",
                "cash_transaction.recorded_at",
                "opening_units.recorded_at",
                "opening_cash.recorded_at",
                "consented_portfolios.history_from",
            ),
            only={"consented_portfolios.history_from": _OPENINGS},
        ),
        _ledger(
            "reverses",
            _TEXT,
            "the transaction_id that this row undoes; null if that row precedes the history shared when it was due",
            "trade.reverses_trade_id",
            "security_movement.reverses_security_movement_id",
            "income.reverses_income_id",
            "cash_transaction.reverses_cash_transaction_id",
        ),
        _ledger(
            "relates_to",
            _TEXT,
            "cash: the trade or income that caused it; null if that row precedes the history shared when it was due",
            "cash_transaction.trade_id",
            "cash_transaction.income_id",
        ),
        _ledger("exchange", _TEXT, "market identifier", "security.exchange"),
        _ledger("security_code", _TEXT, "as on the transaction date", *_CODE_SOURCES),
        _ledger("isin", _TEXT, "of the security", "security.isin"),
        _ledger(
            "units",
            UNITS,
            "signed change; for income, the units it was paid on",
            "trade.units",
            "trade.side",
            "security_movement.units_change",
            "income.units_held",
            "opening_units.units",
            unit="units",
        ),
        _ledger("confirmation_number", _TEXT, "of the contract note", "trade.confirmation_number"),
        _ledger("price", PRICE, "as printed, rounded", "trade.price", unit="currency"),
        _ledger("consideration", MONEY, "what the market executed", "trade.consideration", unit="currency"),
        _ledger("brokerage", MONEY, "GST included", "trade.brokerage", unit="currency"),
        _ledger("gst", MONEY, "part of brokerage and fees that is GST", "trade.gst", unit="currency"),
        _ledger("other_fees", MONEY, "GST included", "trade.other_fees", unit="currency"),
        _ledger("net_amount", MONEY, "what the contract note comes to", "trade.net_amount", unit="currency"),
        _ledger(
            "cost_base_change",
            MONEY,
            "signed, where bigsite knows it",
            "security_movement.cost_base_change",
            unit="currency",
        ),
        _ledger("ex_date", _DATE, "of the dividend or distribution", "income.ex_date"),
        _ledger("gross_amount", MONEY, "before withholding", "income.gross_amount", unit="currency"),
        _ledger("franked_amount", MONEY, "franked part", "income.franked_amount", unit="currency"),
        _ledger("unfranked_amount", MONEY, "unfranked part", "income.unfranked_amount", unit="currency"),
        _ledger("franking_credit", MONEY, "on top, never cash", "income.franking_credit", unit="currency"),
        _ledger("withholding_tax", MONEY, "withheld", "income.withholding_tax", unit="currency"),
        _ledger("net_income", MONEY, "gross less withholding", "income.net_amount", unit="currency"),
        Column("bsb", _TEXT, "of the cash account", ("cash_account.bsb",), nullable=True, personal=True),
        Column(
            "account_number",
            _TEXT,
            "of the cash account",
            ("cash_account.account_number",),
            nullable=True,
            personal=True,
        ),
        _ledger(
            "amount",
            MONEY,
            "signed: a credit is positive",
            "cash_transaction.amount",
            "opening_cash.amount",
            unit="currency",
        ),
        Column(
            "currency",
            _TEXT,
            "of every money column of the row",
            (
                "trade.currency",
                "security.currency",
                "income.currency",
                "cash_transaction.currency",
                "cash_account.currency",
            ),
            nullable=True,
            only={"security.currency": ("security_movement",), "cash_account.currency": ("opening_cash",)},
        ),
        Column(
            "narrative",
            _TEXT,
            "bigsite's description",
            ("security_movement.description", "cash_transaction.description"),
            nullable=True,
            personal=True,
        ),
    ),
    ("portfolio_number", "recorded_at", "transaction_id"),
)

FINDINGS = Frame(
    "findings",
    "Findings of the rules in one domain: reasons to hold a portfolio back, and warnings.",
    (
        _NUMBER,
        Column("rule", _TEXT, "the rule's name", ("derived",)),
        Column("severity", _TEXT, "QUARANTINE or WARNING", ("derived",)),
        Column("subject", _TEXT, "transaction id, security code or cash account id, never a name", ("derived",)),
        Column("detail", _TEXT, "what is wrong, in figures; no personal data", ("derived",)),
    ),
    ("portfolio_number", "rule", "subject", "detail"),
)

# What each domain produces, by domain. A domain is one asset; its frames travel together.
DOMAINS: dict[str, tuple[Frame, ...]] = {
    "account_details": (ACCOUNTS, CASH_ACCOUNTS),
    "account_balances": (ACCOUNT_BALANCES,),
    "investment_holdings": (INVESTMENT_HOLDINGS,),
    "movement_transactions": (MOVEMENT_TRANSACTIONS,),
}
