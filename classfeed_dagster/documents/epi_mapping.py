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


class ElementType(enum.StrEnum):
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


NUMBERS = frozenset({ElementType.MONEY, ElementType.DECIMAL6})
MOMENTS = frozenset({ElementType.DATE, ElementType.INSTANT})


@dataclass(frozen=True, slots=True)
class Element:
    """One element or attribute and the column that fills it. An optional one is absent if the column is null."""

    name: str
    column: str
    type: ElementType
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


def _required(name: str, column: str, kind: ElementType) -> Element:
    return Element(name, column, kind)


def _optional(name: str, column: str, kind: ElementType) -> Element:
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
        _optional("Bsb", "bsb", ElementType.BSB),
        _required("CashAccountNumber", "account_number", ElementType.IDENTIFIER),
        _required("AccountName", "account_name", ElementType.TEXT),
        _required("Currency", "currency", ElementType.CURRENCY),
        _required("Status", "status", ElementType.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", ElementType.DATE),
        _optional("ClosedOn", "closed_on", ElementType.DATE),
    ),
)

# The group "details" is absent from REMOVED accounts and present in all others.
DETAILS = Group(
    "details",
    (
        _required("PortfolioName", "portfolio_name", ElementType.TEXT),
        _required("EntityType", "entity_type", ElementType.ENTITY_TYPE),
        _optional("Abn", "abn", ElementType.ABN),
        _optional("Hin", "hin", ElementType.HIN),
        _required("Status", "status", ElementType.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", ElementType.DATE),
        _optional("ClosedOn", "closed_on", ElementType.DATE),
        CASH_ACCOUNT,
    ),
)

ACCOUNT = RecordMapping(
    "Account",
    columns.ACCOUNTS,
    attributes=(
        _required("consent", CONSENT, ElementType.CONSENT_CHANGE),
        _required("extract", "extract", ElementType.EXTRACT),
    ),
    content=(
        _required("PortfolioNumber", PORTFOLIO, ElementType.IDENTIFIER),
        _required("RecipientReference", "recipient_reference", ElementType.IDENTIFIER),
        DETAILS,
    ),
)

ACCOUNT_BALANCE = RecordMapping(
    "AccountBalance",
    columns.ACCOUNT_BALANCES,
    order=("account_number", "currency"),
    subject="currency",
    content=(
        _required("PortfolioNumber", PORTFOLIO, ElementType.IDENTIFIER),
        _optional("Bsb", "bsb", ElementType.BSB),
        _required("CashAccountNumber", "account_number", ElementType.IDENTIFIER),
        _required("Currency", "currency", ElementType.CURRENCY),
        _required("AsAtDate", "as_at_date", ElementType.DATE),
        _required("LedgerBalance", "ledger_balance", ElementType.MONEY),
        _required("AvailableBalance", "available_balance", ElementType.MONEY),
    ),
)

INVESTMENT_HOLDING = RecordMapping(
    "InvestmentHolding",
    columns.INVESTMENT_HOLDINGS,
    order=("exchange", "security_code"),
    subject="security_code",
    content=(
        _required("PortfolioNumber", PORTFOLIO, ElementType.IDENTIFIER),
        _optional("Hin", "hin", ElementType.HIN),
        _required("Exchange", "exchange", ElementType.IDENTIFIER),
        _required("SecurityCode", "security_code", ElementType.SECURITY_CODE),
        _optional("Isin", "isin", ElementType.ISIN),
        _required("SecurityName", "security_name", ElementType.TEXT),
        _required("SecurityType", "security_type", ElementType.SECURITY_TYPE),
        _required("AsAtDate", "as_at_date", ElementType.DATE),
        _required("Units", "units", ElementType.DECIMAL6),
        _required("SettledUnits", "settled_units", ElementType.DECIMAL6),
        _required("Currency", "currency", ElementType.CURRENCY),
        Group(
            "price",
            (
                _required("Price", "price", ElementType.DECIMAL6),
                _required("PriceDate", "price_date", ElementType.DATE),
                _required("MarketValue", "market_value", ElementType.MONEY),
            ),
        ),
        _optional("CostBase", "cost_base", ElementType.MONEY),
    ),
)

MOVEMENT_TRANSACTION = RecordMapping(
    "MovementTransaction",
    columns.MOVEMENT_TRANSACTIONS,
    order=("recorded_at", "transaction_id"),
    subject="transaction_id",
    content=(
        _required("TransactionId", "transaction_id", ElementType.IDENTIFIER),
        _required("PortfolioNumber", PORTFOLIO, ElementType.IDENTIFIER),
        _required("TransactionType", "transaction_type", ElementType.TRANSACTION_TYPE),
        _required("TransactionDate", "transaction_date", ElementType.DATE),
        _optional("SettlementDate", "settlement_date", ElementType.DATE),
        _required("RecordedAt", "recorded_at", ElementType.INSTANT),
        _optional("Reverses", "reverses", ElementType.IDENTIFIER),
        _optional("RelatesTo", "relates_to", ElementType.IDENTIFIER),
        Group(
            "security",
            (
                _required("Exchange", "exchange", ElementType.IDENTIFIER),
                _required("SecurityCode", "security_code", ElementType.SECURITY_CODE),
                _optional("Isin", "isin", ElementType.ISIN),
            ),
        ),
        _optional("Units", "units", ElementType.DECIMAL6),
        Group(
            "contract note",
            (
                _required("ConfirmationNumber", "confirmation_number", ElementType.IDENTIFIER),
                _required("Price", "price", ElementType.DECIMAL6),
                _required("Consideration", "consideration", ElementType.MONEY),
                _required("Brokerage", "brokerage", ElementType.MONEY),
                _required("Gst", "gst", ElementType.MONEY),
                _required("OtherFees", "other_fees", ElementType.MONEY),
                _required("NetAmount", "net_amount", ElementType.MONEY),
            ),
        ),
        _optional("CostBaseChange", "cost_base_change", ElementType.MONEY),
        Group(
            "income",
            (
                _required("ExDate", "ex_date", ElementType.DATE),
                _required("GrossAmount", "gross_amount", ElementType.MONEY),
                _required("FrankedAmount", "franked_amount", ElementType.MONEY),
                _required("UnfrankedAmount", "unfranked_amount", ElementType.MONEY),
                _required("FrankingCredit", "franking_credit", ElementType.MONEY),
                _required("WithholdingTax", "withholding_tax", ElementType.MONEY),
                _required("NetIncome", "net_income", ElementType.MONEY),
            ),
        ),
        Group(
            "cash",
            (
                _optional("Bsb", "bsb", ElementType.BSB),
                _required("CashAccountNumber", "account_number", ElementType.IDENTIFIER),
                _required("Amount", "amount", ElementType.MONEY),
            ),
        ),
        _optional("Currency", CURRENCY, ElementType.CURRENCY),  # present whenever a money element is
        _optional("Narrative", "narrative", ElementType.TEXT),
    ),
)

# --- The root, in order: Header, the sections, ControlTotals. -----------------------------------------------------

HEADER = "Header"
HEADER_ELEMENTS = (  # the column is the field of ``PageHeader``
    _required("Feed", "feed", ElementType.IDENTIFIER),
    _required("Recipient", "recipient", ElementType.IDENTIFIER),
    _required("MessageId", "message_id", ElementType.IDENTIFIER),
    _required("SequenceNumber", "sequence_number", ElementType.POSITIVE),
    _required("Revision", "revision", ElementType.COUNT),
    _optional("Replaces", "replaces", ElementType.IDENTIFIER),
    _required("PageNumber", "page_number", ElementType.POSITIVE),
    _required("PageCount", "page_count", ElementType.POSITIVE),
    _required("BusinessDate", "business_date", ElementType.DATE),
    _required("RecordedAfter", "recorded_after", ElementType.INSTANT),
    _required("RecordedBefore", "recorded_before", ElementType.INSTANT),
    _required("SnapshotAt", "snapshot_at", ElementType.INSTANT),
    _required("HoldingBasis", "holding_basis", ElementType.FIXED),
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
    _required("LedgerBalance", "ledger_balance", ElementType.MONEY),
    _required("MarketValue", "market_value", ElementType.MONEY),
    _required("CashAmount", "cash_amount", ElementType.MONEY),
    _required("NetAmount", "net_amount", ElementType.MONEY),
)
UNITS_HELD = _required("UnitsHeld", "units_held", ElementType.DECIMAL6)
UNITS_MOVED = _required("UnitsMoved", "units_moved", ElementType.DECIMAL6)

# Excluded from UnitsMoved, because their Units are those on which income was paid.
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
