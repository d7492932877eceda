"""Mapping of EPIDataResponse: the only table of element names, section by section, in the order of its XSD.

The writer, the reader and the lineage use it. If the recipient renames, reorders or retypes an element, only this file
and ``epi_data_response.xsd`` change. It is laid out as the specification: each record lists its elements with the
column that fills them and their XSD type.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from classfeed_dagster.documents.document_format import DocumentColumn
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.columns import Frame

NAMESPACE = "urn:classfeed:epi-data-response:1"
ROOT = "EPIDataResponse"


class FieldType(enum.StrEnum):
    """The XSD's simple types, by name. Their patterns, lengths and vocabularies are read from the XSD."""

    MONEY = "Money"
    DECIMAL6 = "Decimal6"
    DATE = "CalendarDate"
    INSTANT = "Instant"
    TEXT = "Text200"
    IDENTIFIER = "Identifier"
    CURRENCY = "Currency"
    HIN = "Hin"
    BSB = "Bsb"
    ABN = "Abn"
    ISIN = "Isin"
    SECURITY_CODE = "SecurityCode"
    ENTITY_TYPE = "EntityType"
    ACCOUNT_STATUS = "AccountStatus"
    SECURITY_TYPE = "SecurityType"
    CONSENT_CHANGE = "ConsentChange"
    EXTRACT = "Extract"
    TRANSACTION_TYPE = "TransactionType"
    POSITIVE = "xs:positiveInteger"
    COUNT = "xs:nonNegativeInteger"
    FIXED = "xs:string"


NUMBERS = frozenset({FieldType.MONEY, FieldType.DECIMAL6})
MOMENTS = frozenset({FieldType.DATE, FieldType.INSTANT})


@dataclass(frozen=True, slots=True)
class Element:
    """One element or attribute and the column that fills it. An optional one is absent if the column is null."""

    name: str
    column: str
    type: FieldType
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Elements that are all present or all absent (``xs:sequence minOccurs="0"``); some may be optional within."""

    name: str
    members: tuple[Element | RecordMapping, ...]

    @property
    def elements(self) -> tuple[Element, ...]:
        """Return the group's own elements, without nested records."""
        return tuple(member for member in self.members if isinstance(member, Element))


@dataclass(frozen=True, slots=True)
class RecordMapping:
    """A repeated element: one per row of ``frame``, ordered by portfolio number and then by ``order``.

    A finding about a row may show the column ``subject``; None if every key is personal data.
    """

    name: str
    frame: Frame
    content: tuple[Element | Group, ...]
    order: tuple[str, ...] = ()
    attributes: tuple[Element, ...] = ()
    subject: str | None = None

    @property
    def elements(self) -> tuple[Element, ...]:
        """Return the record's elements in document order, with those of its groups, without nested records."""
        return tuple(
            element for part in self.content for element in (part.elements if isinstance(part, Group) else (part,))
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the record's all-or-nothing groups."""
        return tuple(part for part in self.content if isinstance(part, Group))

    @property
    def nested(self) -> tuple[RecordMapping, ...]:
        """Return the records nested in this one."""
        return tuple(member for group in self.groups for member in group.members if isinstance(member, RecordMapping))

    @property
    def sort_key(self) -> tuple[str, ...]:
        """Return the columns by which the document orders the records."""
        return (PORTFOLIO, *self.order)

    def typed(self) -> Iterator[Element]:
        """Yield attributes and elements, in the order of a row."""
        yield from self.attributes
        yield from self.elements


@dataclass(frozen=True, slots=True)
class Section:
    """One of the root's four sections: its domain and its records."""

    name: str
    domain: str
    record: RecordMapping
    counted_as: str  # element of ControlTotals with the number of records


# --- The records. Each lists its elements in the order of the XSD's complex type of the same name. ---------------

Part: TypeAlias = Element | Group


def _required(name: str, column: str, kind: FieldType) -> Element:
    return Element(name, column, kind)


def _optional(name: str, column: str, kind: FieldType) -> Element:
    return Element(name, column, kind, optional=True)


PORTFOLIO = "portfolio_number"
REMOVED = "REMOVED"  # the consent attribute's value for an account sent with number and reference only
CONSENT = "consent"
CURRENCY = "currency"

CASH_ACCOUNT = RecordMapping(
    "CashAccount",
    columns.CASH_ACCOUNTS,
    order=("account_number", "currency"),
    subject="currency",
    content=(
        _optional("Bsb", "bsb", FieldType.BSB),
        _required("CashAccountNumber", "account_number", FieldType.IDENTIFIER),
        _required("AccountName", "account_name", FieldType.TEXT),
        _required("Currency", "currency", FieldType.CURRENCY),
        _required("Status", "status", FieldType.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", FieldType.DATE),
        _optional("ClosedOn", "closed_on", FieldType.DATE),
    ),
)

# The group "details" is absent from REMOVED accounts, whatever the frame contains, and present in all others.
DETAILS = Group(
    "details",
    (
        _required("PortfolioName", "portfolio_name", FieldType.TEXT),
        _required("EntityType", "entity_type", FieldType.ENTITY_TYPE),
        _optional("Abn", "abn", FieldType.ABN),
        _optional("Hin", "hin", FieldType.HIN),
        _required("Status", "status", FieldType.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", FieldType.DATE),
        _optional("ClosedOn", "closed_on", FieldType.DATE),
        CASH_ACCOUNT,
    ),
)

ACCOUNT = RecordMapping(
    "Account",
    columns.ACCOUNTS,
    attributes=(
        _required("consent", CONSENT, FieldType.CONSENT_CHANGE),
        _required("extract", "extract", FieldType.EXTRACT),
    ),
    content=(
        _required("PortfolioNumber", PORTFOLIO, FieldType.IDENTIFIER),
        _required("RecipientReference", "recipient_reference", FieldType.IDENTIFIER),
        DETAILS,
    ),
)

ACCOUNT_BALANCE = RecordMapping(
    "AccountBalance",
    columns.ACCOUNT_BALANCES,
    order=("account_number", "currency"),
    subject="currency",
    content=(
        _required("PortfolioNumber", PORTFOLIO, FieldType.IDENTIFIER),
        _optional("Bsb", "bsb", FieldType.BSB),
        _required("CashAccountNumber", "account_number", FieldType.IDENTIFIER),
        _required("Currency", "currency", FieldType.CURRENCY),
        _required("AsAtDate", "as_at_date", FieldType.DATE),
        _required("LedgerBalance", "ledger_balance", FieldType.MONEY),
        _required("AvailableBalance", "available_balance", FieldType.MONEY),
    ),
)

INVESTMENT_HOLDING = RecordMapping(
    "InvestmentHolding",
    columns.INVESTMENT_HOLDINGS,
    order=("exchange", "security_code"),
    subject="security_code",
    content=(
        _required("PortfolioNumber", PORTFOLIO, FieldType.IDENTIFIER),
        _optional("Hin", "hin", FieldType.HIN),
        _required("Exchange", "exchange", FieldType.IDENTIFIER),
        _required("SecurityCode", "security_code", FieldType.SECURITY_CODE),
        _optional("Isin", "isin", FieldType.ISIN),
        _required("SecurityName", "security_name", FieldType.TEXT),
        _required("SecurityType", "security_type", FieldType.SECURITY_TYPE),
        _required("AsAtDate", "as_at_date", FieldType.DATE),
        _required("Units", "units", FieldType.DECIMAL6),
        _required("SettledUnits", "settled_units", FieldType.DECIMAL6),
        _required("Currency", "currency", FieldType.CURRENCY),
        Group(
            "price",
            (
                _required("Price", "price", FieldType.DECIMAL6),
                _required("PriceDate", "price_date", FieldType.DATE),
                _required("MarketValue", "market_value", FieldType.MONEY),
            ),
        ),
        _optional("CostBase", "cost_base", FieldType.MONEY),
    ),
)

MOVEMENT_TRANSACTION = RecordMapping(
    "MovementTransaction",
    columns.MOVEMENT_TRANSACTIONS,
    order=("recorded_at", "transaction_id"),
    subject="transaction_id",
    content=(
        _required("TransactionId", "transaction_id", FieldType.IDENTIFIER),
        _required("PortfolioNumber", PORTFOLIO, FieldType.IDENTIFIER),
        _required("TransactionType", "transaction_type", FieldType.TRANSACTION_TYPE),
        _required("TransactionDate", "transaction_date", FieldType.DATE),
        _optional("SettlementDate", "settlement_date", FieldType.DATE),
        _required("RecordedAt", "recorded_at", FieldType.INSTANT),
        _optional("Reverses", "reverses", FieldType.IDENTIFIER),
        _optional("RelatesTo", "relates_to", FieldType.IDENTIFIER),
        Group(
            "security",
            (
                _required("Exchange", "exchange", FieldType.IDENTIFIER),
                _required("SecurityCode", "security_code", FieldType.SECURITY_CODE),
                _optional("Isin", "isin", FieldType.ISIN),
            ),
        ),
        _optional("Units", "units", FieldType.DECIMAL6),
        Group(
            "contract note",
            (
                _required("ConfirmationNumber", "confirmation_number", FieldType.IDENTIFIER),
                _required("Price", "price", FieldType.DECIMAL6),
                _required("Consideration", "consideration", FieldType.MONEY),
                _required("Brokerage", "brokerage", FieldType.MONEY),
                _required("Gst", "gst", FieldType.MONEY),
                _required("OtherFees", "other_fees", FieldType.MONEY),
                _required("NetAmount", "net_amount", FieldType.MONEY),
            ),
        ),
        _optional("CostBaseChange", "cost_base_change", FieldType.MONEY),
        Group(
            "income",
            (
                _required("ExDate", "ex_date", FieldType.DATE),
                _required("GrossAmount", "gross_amount", FieldType.MONEY),
                _required("FrankedAmount", "franked_amount", FieldType.MONEY),
                _required("UnfrankedAmount", "unfranked_amount", FieldType.MONEY),
                _required("FrankingCredit", "franking_credit", FieldType.MONEY),
                _required("WithholdingTax", "withholding_tax", FieldType.MONEY),
                _required("NetIncome", "net_income", FieldType.MONEY),
            ),
        ),
        Group(
            "cash",
            (
                _optional("Bsb", "bsb", FieldType.BSB),
                _required("CashAccountNumber", "account_number", FieldType.IDENTIFIER),
                _required("Amount", "amount", FieldType.MONEY),
            ),
        ),
        _optional("Currency", CURRENCY, FieldType.CURRENCY),  # present whenever a money element is
        _optional("Narrative", "narrative", FieldType.TEXT),
    ),
)

# --- The root, in order: Header, the sections, ControlTotals. -----------------------------------------------------

HEADER = "Header"
HEADER_ELEMENTS = (  # the column is the field of ``PageHeader``
    _required("Feed", "feed", FieldType.IDENTIFIER),
    _required("Recipient", "recipient", FieldType.IDENTIFIER),
    _required("MessageId", "message_id", FieldType.IDENTIFIER),
    _required("SequenceNumber", "sequence_number", FieldType.POSITIVE),
    _required("Revision", "revision", FieldType.COUNT),
    _optional("Replaces", "replaces", FieldType.IDENTIFIER),
    _required("PageNumber", "page_number", FieldType.POSITIVE),
    _required("PageCount", "page_count", FieldType.POSITIVE),
    _required("BusinessDate", "business_date", FieldType.DATE),
    _required("RecordedAfter", "recorded_after", FieldType.INSTANT),
    _required("RecordedBefore", "recorded_before", FieldType.INSTANT),
    _required("SnapshotAt", "snapshot_at", FieldType.INSTANT),
    _required("HoldingBasis", "holding_basis", FieldType.FIXED),
)
HOLDING_BASIS = "TRADED"  # Units includes a trade from its trade date; fixed by the XSD

SECTIONS = (
    Section("AccountDetails", "account_details", ACCOUNT, "Accounts"),
    Section("AccountBalances", "account_balances", ACCOUNT_BALANCE, "AccountBalances"),
    Section("InvestmentHoldings", "investment_holdings", INVESTMENT_HOLDING, "InvestmentHoldings"),
    Section("MovementTransactions", "movement_transactions", MOVEMENT_TRANSACTION, "MovementTransactions"),
)
_, BALANCES_SECTION, HOLDINGS_SECTION, MOVEMENTS_SECTION = (section.name for section in SECTIONS)

CONTROL_TOTALS = "ControlTotals"
CURRENCY_TOTAL = "CurrencyTotal"
CURRENCY_ATTRIBUTE = "currency"
CURRENCY_ELEMENTS = (  # the column is the field of ``CurrencyTotals``
    _required("LedgerBalance", "ledger_balance", FieldType.MONEY),
    _required("MarketValue", "market_value", FieldType.MONEY),
    _required("CashAmount", "cash_amount", FieldType.MONEY),
    _required("NetAmount", "net_amount", FieldType.MONEY),
)
UNITS_HELD = _required("UnitsHeld", "units_held", FieldType.DECIMAL6)
UNITS_MOVED = _required("UnitsMoved", "units_moved", FieldType.DECIMAL6)

# Left out of UnitsMoved: their Units are the units on which income was paid, and move nothing.
INCOME_TYPES = frozenset({"DIVIDEND", "DISTRIBUTION", "INTEREST_INCOME"})

RECORDS = (ACCOUNT, CASH_ACCOUNT, ACCOUNT_BALANCE, INVESTMENT_HOLDING, MOVEMENT_TRANSACTION)
ELEMENT_NAMES = frozenset(
    {ROOT, HEADER, CONTROL_TOTALS, CURRENCY_TOTAL, UNITS_HELD.name, UNITS_MOVED.name}
    | {section.name for section in SECTIONS}
    | {section.counted_as for section in SECTIONS}
    | {record.name for record in RECORDS}
    | {element.name for record in RECORDS for element in record.elements}
    | {element.name for element in (*HEADER_ELEMENTS, *CURRENCY_ELEMENTS)}
)


def tag(name: str) -> str:
    """Return an element's name with the document's namespace, as lxml spells it."""
    return f"{{{NAMESPACE}}}{name}"


def document_columns() -> Iterator[DocumentColumn]:
    """Yield every element that a column fills, in document order."""
    for section in SECTIONS:
        yield from _columns(section.record, f"{ROOT}/{section.name}")


def _columns(record: RecordMapping, above: str) -> Iterator[DocumentColumn]:
    path = f"{above}/{record.name}"
    always = {part.name for part in record.content if isinstance(part, Element) and not part.optional}
    for at, elements in (("@", record.attributes), ("", record.elements)):
        for element in elements:
            filled_by = ((record.frame.name, element.column),)
            optional = not at and element.name not in always
            yield DocumentColumn(f"{path}/{at}{element.name}", element.type.value, filled_by, optional)
    for nested in record.nested:
        yield from _columns(nested, path)
