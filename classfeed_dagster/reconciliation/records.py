"""The five kinds of record in a delivered document, for reconciliation: elements, columns, keys and state fields.

Written independently from the recipient's schema. Nothing comes from the exporter's mapping, so that each detects a
mistake in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule

# The document omits an ISIN of another form (XSD, Isin). ``x`` is the security. Valid in PostgreSQL and DuckDB.
ISIN = "CASE WHEN x.isin ~ '^[A-Z]{2}[A-Z0-9]{9}[0-9]$' THEN x.isin END"

NAMESPACE = "urn:classfeed:epi-data-response:1"


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of record: its path in the document, its columns by element name, its key.

    ``state``: the fields that bigsite updates in place, so that a later change there is no fault of the delivery.
    ``origins``: the evidence column of a state field that comes from a row other than the record's own.
    """

    name: str
    path: tuple[str, ...]
    columns: tuple[tuple[str, Field], ...]  # element (or @attribute), column
    key: tuple[str, ...]
    state: frozenset[str] = frozenset()
    origins: Mapping[str, str] = field(default_factory=dict, hash=False)
    ledgers: str = "TSICO"  # of movements: first letters of the document's TransactionIds

    @property
    def rule(self) -> Rule:
        """Return a rule that compares every column without tolerance."""
        columns = [column for _, column in self.columns]
        return Rule(
            self.name,
            tuple(column for column in columns if column.name in self.key),
            tuple(column for column in columns if column.name not in self.key),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the column names in order."""
        return tuple(column.name for _, column in self.columns)

    @property
    def personal(self) -> frozenset[str]:
        """Return the columns whose values are never shown."""
        return frozenset(column.name for _, column in self.columns if column.personal)

    @property
    def free_text(self) -> tuple[str, ...]:
        """Return the columns of free text, in which documents mask identifiers of persons."""
        return tuple(column.name for _, column in self.columns if column.free_text)


def _text(element: str, name: str, *, personal: bool = False) -> tuple[str, Field]:
    return element, Field(name, FieldType.TEXT, personal=personal)


def _free_text(element: str, name: str) -> tuple[str, Field]:
    return element, Field(name, FieldType.TEXT, personal=True, free_text=True)


def _typed(kind: FieldType, *pairs: tuple[str, str]) -> tuple[tuple[str, Field], ...]:
    return tuple((element, Field(name, kind)) for element, name in pairs)


_PORTFOLIO = _text("PortfolioNumber", "portfolio_number")
_CASH = (_text("Bsb", "bsb", personal=True), _text("CashAccountNumber", "account_number", personal=True))
_CURRENCY = _text("Currency", "currency")
_LIFE = (
    _text("Status", "status"),
    *_typed(FieldType.DATE, ("OpenedOn", "opened_on"), ("ClosedOn", "closed_on")),
)

ACCOUNTS = RecordKind(
    "accounts",
    ("AccountDetails", "Account"),
    (
        _PORTFOLIO,
        _text("RecipientReference", "recipient_reference"),
        _text("@consent", "consent"),
        _text("@extract", "extract"),
        _free_text("PortfolioName", "portfolio_name"),
        _text("EntityType", "entity_type"),
        _text("Abn", "abn", personal=True),
        _text("Hin", "hin", personal=True),
        *_LIFE,
    ),
    ("portfolio_number",),
    frozenset({"portfolio_name", "entity_type", "abn", "hin", "status", "opened_on", "closed_on"}),
)

CASH_ACCOUNTS = RecordKind(
    "cash_accounts",
    ("AccountDetails", "Account", "CashAccount"),
    (_PORTFOLIO, *_CASH, _free_text("AccountName", "account_name"), _CURRENCY, *_LIFE),
    ("portfolio_number", "account_number", "currency"),
    frozenset({"bsb", "account_name", "status", "opened_on", "closed_on"}),
)

BALANCES = RecordKind(
    "account_balances",
    ("AccountBalances", "AccountBalance"),
    (
        _PORTFOLIO,
        *_CASH,
        _CURRENCY,
        *_typed(FieldType.DATE, ("AsAtDate", "as_at_date")),
        *_typed(FieldType.MONEY, ("LedgerBalance", "ledger_balance"), ("AvailableBalance", "available_balance")),
    ),
    ("portfolio_number", "account_number", "currency"),
    frozenset({"bsb"}),
)

HOLDINGS = RecordKind(
    "investment_holdings",
    ("InvestmentHoldings", "InvestmentHolding"),
    (
        _PORTFOLIO,
        _text("Hin", "hin", personal=True),
        _text("Exchange", "exchange"),
        _text("SecurityCode", "security_code"),
        _text("Isin", "isin"),
        _text("SecurityName", "security_name"),
        _text("SecurityType", "security_type"),
        *_typed(FieldType.DATE, ("AsAtDate", "as_at_date")),
        *_typed(FieldType.UNITS, ("Units", "units"), ("SettledUnits", "settled_units")),
        _CURRENCY,
        *_typed(FieldType.RATE, ("Price", "price")),
        *_typed(FieldType.DATE, ("PriceDate", "price_date")),
        *_typed(FieldType.MONEY, ("MarketValue", "market_value"), ("CostBase", "cost_base")),
    ),
    ("portfolio_number", "exchange", "security_code"),
    frozenset({"hin", "isin", "security_name", "security_type"}),
    {"hin": "portfolio_updated_at"},
)

MOVEMENTS = RecordKind(
    "movement_transactions",
    ("MovementTransactions", "MovementTransaction"),
    (
        _text("TransactionId", "transaction_id"),
        _PORTFOLIO,
        _text("TransactionType", "transaction_type"),
        *_typed(FieldType.DATE, ("TransactionDate", "transaction_date"), ("SettlementDate", "settlement_date")),
        *_typed(FieldType.INSTANT, ("RecordedAt", "recorded_at")),
        _text("Reverses", "reverses"),
        _text("RelatesTo", "relates_to"),
        _text("Exchange", "exchange"),
        _text("SecurityCode", "security_code"),
        _text("Isin", "isin"),
        *_typed(FieldType.UNITS, ("Units", "units")),
        _text("ConfirmationNumber", "confirmation_number"),
        *_typed(FieldType.RATE, ("Price", "price")),
        *_typed(
            FieldType.MONEY,
            ("Consideration", "consideration"),
            ("Brokerage", "brokerage"),
            ("Gst", "gst"),
            ("OtherFees", "other_fees"),
            ("NetAmount", "net_amount"),
            ("CostBaseChange", "cost_base_change"),
        ),
        *_typed(FieldType.DATE, ("ExDate", "ex_date")),
        *_typed(
            FieldType.MONEY,
            ("GrossAmount", "gross_amount"),
            ("FrankedAmount", "franked_amount"),
            ("UnfrankedAmount", "unfranked_amount"),
            ("FrankingCredit", "franking_credit"),
            ("WithholdingTax", "withholding_tax"),
            ("NetIncome", "net_income"),
        ),
        *_CASH,
        *_typed(FieldType.MONEY, ("Amount", "amount")),
        _CURRENCY,
        _free_text("Narrative", "narrative"),
    ),
    ("portfolio_number", "transaction_id"),
    frozenset({"exchange", "security_code", "isin", "bsb", "account_number"}),
)

KINDS = (ACCOUNTS, CASH_ACCOUNTS, BALANCES, HOLDINGS, MOVEMENTS)
