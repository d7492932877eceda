"""The one table that knows an element's name: EPIDataResponse, section by section, in the order of its XSD.

The writer, the reader and the lineage all come from it. When the recipient renames, reorders or retypes an
element, this file changes (and ``epi_data_response.xsd`` beside it), and nothing else. It reads as the
specification does: each record lists its elements with the column that fills them and their XSD type.
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


class Type(enum.StrEnum):
    """The XSD's simple types, by their names there: patterns, lengths and vocabularies are read from the XSD."""

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


NUMBERS = frozenset({Type.MONEY, Type.DECIMAL6})
MOMENTS = frozenset({Type.DATE, Type.INSTANT})


@dataclass(frozen=True, slots=True)
class Element:
    """One element (or attribute) and the column that fills it. Optional: absent where the column is null."""

    name: str
    column: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Elements that stand together or not at all (``xs:sequence minOccurs="0"``); some may be optional within."""

    name: str
    members: tuple[Element | Record, ...]

    @property
    def elements(self) -> tuple[Element, ...]:
        """The group's own elements, without nested records."""
        return tuple(member for member in self.members if isinstance(member, Element))


@dataclass(frozen=True, slots=True)
class Record:
    """A repeated element: one row of ``frame`` each, ordered by portfolio number and then by ``order``.

    ``subject`` is the column that a finding about a row may show; None where every key is personal data.
    """

    name: str
    frame: Frame
    content: tuple[Element | Group, ...]
    order: tuple[str, ...] = ()
    attributes: tuple[Element, ...] = ()
    subject: str | None = None

    @property
    def elements(self) -> tuple[Element, ...]:
        """Every element of the record in document order, those of its groups included, nested records not."""
        found: list[Element] = []
        for part in self.content:
            found.extend(part.elements if isinstance(part, Group) else (part,))
        return tuple(found)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The record's all-or-nothing groups."""
        return tuple(part for part in self.content if isinstance(part, Group))

    @property
    def nested(self) -> tuple[Record, ...]:
        """Records inside this one."""
        return tuple(member for group in self.groups for member in group.members if isinstance(member, Record))

    @property
    def sort_key(self) -> tuple[str, ...]:
        """The columns by which the document orders the records."""
        return (PORTFOLIO, *self.order)

    def typed(self) -> Iterator[Element]:
        """Attributes and elements, the order of a row."""
        yield from self.attributes
        yield from self.elements


@dataclass(frozen=True, slots=True)
class Section:
    """One of the root's four sections: the domain it carries and its records."""

    name: str
    domain: str
    record: Record
    counted_as: str  # the element of ControlTotals that counts the records


# --- The records. Each lists its elements in the order of the XSD's complex type of the same name. ---------------

Part: TypeAlias = Element | Group


def _required(name: str, column: str, kind: Type) -> Element:
    return Element(name, column, kind)


def _optional(name: str, column: str, kind: Type) -> Element:
    return Element(name, column, kind, optional=True)


PORTFOLIO = "portfolio_number"
REMOVED = "REMOVED"  # the consent attribute's value for an account sent as number and reference alone
CONSENT = "consent"
CURRENCY = "currency"

CASH_ACCOUNT = Record(
    "CashAccount",
    columns.CASH_ACCOUNTS,
    order=("account_number", "currency"),
    subject="currency",
    content=(
        _optional("Bsb", "bsb", Type.BSB),
        _required("CashAccountNumber", "account_number", Type.IDENTIFIER),
        _required("AccountName", "account_name", Type.TEXT),
        _required("Currency", "currency", Type.CURRENCY),
        _required("Status", "status", Type.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", Type.DATE),
        _optional("ClosedOn", "closed_on", Type.DATE),
    ),
)

# The group "details" is absent from REMOVED accounts, whatever the frame holds, and present in all others.
DETAILS = Group(
    "details",
    (
        _required("PortfolioName", "portfolio_name", Type.TEXT),
        _required("EntityType", "entity_type", Type.ENTITY_TYPE),
        _optional("Abn", "abn", Type.ABN),
        _optional("Hin", "hin", Type.HIN),
        _required("Status", "status", Type.ACCOUNT_STATUS),
        _required("OpenedOn", "opened_on", Type.DATE),
        _optional("ClosedOn", "closed_on", Type.DATE),
        CASH_ACCOUNT,
    ),
)

ACCOUNT = Record(
    "Account",
    columns.ACCOUNTS,
    attributes=(
        _required("consent", CONSENT, Type.CONSENT_CHANGE),
        _required("extract", "extract", Type.EXTRACT),
    ),
    content=(
        _required("PortfolioNumber", PORTFOLIO, Type.IDENTIFIER),
        _required("RecipientReference", "recipient_reference", Type.IDENTIFIER),
        DETAILS,
    ),
)

ACCOUNT_BALANCE = Record(
    "AccountBalance",
    columns.ACCOUNT_BALANCES,
    order=("account_number", "currency"),
    subject="currency",
    content=(
        _required("PortfolioNumber", PORTFOLIO, Type.IDENTIFIER),
        _optional("Bsb", "bsb", Type.BSB),
        _required("CashAccountNumber", "account_number", Type.IDENTIFIER),
        _required("Currency", "currency", Type.CURRENCY),
        _required("AsAtDate", "as_at_date", Type.DATE),
        _required("LedgerBalance", "ledger_balance", Type.MONEY),
        _required("AvailableBalance", "available_balance", Type.MONEY),
    ),
)

INVESTMENT_HOLDING = Record(
    "InvestmentHolding",
    columns.INVESTMENT_HOLDINGS,
    order=("exchange", "security_code"),
    subject="security_code",
    content=(
        _required("PortfolioNumber", PORTFOLIO, Type.IDENTIFIER),
        _optional("Hin", "hin", Type.HIN),
        _required("Exchange", "exchange", Type.IDENTIFIER),
        _required("SecurityCode", "security_code", Type.SECURITY_CODE),
        _optional("Isin", "isin", Type.ISIN),
        _required("SecurityName", "security_name", Type.TEXT),
        _required("SecurityType", "security_type", Type.SECURITY_TYPE),
        _required("AsAtDate", "as_at_date", Type.DATE),
        _required("Units", "units", Type.DECIMAL6),
        _required("SettledUnits", "settled_units", Type.DECIMAL6),
        _required("Currency", "currency", Type.CURRENCY),
        Group(
            "price",
            (
                _required("Price", "price", Type.DECIMAL6),
                _required("PriceDate", "price_date", Type.DATE),
                _required("MarketValue", "market_value", Type.MONEY),
            ),
        ),
        _optional("CostBase", "cost_base", Type.MONEY),
    ),
)

MOVEMENT_TRANSACTION = Record(
    "MovementTransaction",
    columns.MOVEMENT_TRANSACTIONS,
    order=("recorded_at", "transaction_id"),
    subject="transaction_id",
    content=(
        _required("TransactionId", "transaction_id", Type.IDENTIFIER),
        _required("PortfolioNumber", PORTFOLIO, Type.IDENTIFIER),
        _required("TransactionType", "transaction_type", Type.TRANSACTION_TYPE),
        _required("TransactionDate", "transaction_date", Type.DATE),
        _optional("SettlementDate", "settlement_date", Type.DATE),
        _required("RecordedAt", "recorded_at", Type.INSTANT),
        _optional("Reverses", "reverses", Type.IDENTIFIER),
        _optional("RelatesTo", "relates_to", Type.IDENTIFIER),
        Group(
            "security",
            (
                _required("Exchange", "exchange", Type.IDENTIFIER),
                _required("SecurityCode", "security_code", Type.SECURITY_CODE),
                _optional("Isin", "isin", Type.ISIN),
            ),
        ),
        _optional("Units", "units", Type.DECIMAL6),
        Group(
            "contract note",
            (
                _required("ConfirmationNumber", "confirmation_number", Type.IDENTIFIER),
                _required("Price", "price", Type.DECIMAL6),
                _required("Consideration", "consideration", Type.MONEY),
                _required("Brokerage", "brokerage", Type.MONEY),
                _required("Gst", "gst", Type.MONEY),
                _required("OtherFees", "other_fees", Type.MONEY),
                _required("NetAmount", "net_amount", Type.MONEY),
            ),
        ),
        _optional("CostBaseChange", "cost_base_change", Type.MONEY),
        Group(
            "income",
            (
                _required("ExDate", "ex_date", Type.DATE),
                _required("GrossAmount", "gross_amount", Type.MONEY),
                _required("FrankedAmount", "franked_amount", Type.MONEY),
                _required("UnfrankedAmount", "unfranked_amount", Type.MONEY),
                _required("FrankingCredit", "franking_credit", Type.MONEY),
                _required("WithholdingTax", "withholding_tax", Type.MONEY),
                _required("NetIncome", "net_income", Type.MONEY),
            ),
        ),
        Group(
            "cash",
            (
                _optional("Bsb", "bsb", Type.BSB),
                _required("CashAccountNumber", "account_number", Type.IDENTIFIER),
                _required("Amount", "amount", Type.MONEY),
            ),
        ),
        _optional("Currency", CURRENCY, Type.CURRENCY),  # present whenever a money element is
        _optional("Narrative", "narrative", Type.TEXT),
    ),
)

# --- The root, in order: Header, the sections, ControlTotals. -----------------------------------------------------

HEADER = "Header"
HEADER_ELEMENTS = (  # the column is the field of ``PageHeader``
    _required("Feed", "feed", Type.IDENTIFIER),
    _required("Recipient", "recipient", Type.IDENTIFIER),
    _required("MessageId", "message_id", Type.IDENTIFIER),
    _required("SequenceNumber", "sequence_number", Type.POSITIVE),
    _required("Revision", "revision", Type.COUNT),
    _optional("Replaces", "replaces", Type.IDENTIFIER),
    _required("PageNumber", "page_number", Type.POSITIVE),
    _required("PageCount", "page_count", Type.POSITIVE),
    _required("BusinessDate", "business_date", Type.DATE),
    _required("RecordedAfter", "recorded_after", Type.INSTANT),
    _required("RecordedBefore", "recorded_before", Type.INSTANT),
    _required("SnapshotAt", "snapshot_at", Type.INSTANT),
    _required("HoldingBasis", "holding_basis", Type.FIXED),
)
HOLDING_BASIS = "TRADED"  # Units counts a trade from its trade date; the XSD fixes the value

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
    _required("LedgerBalance", "ledger_balance", Type.MONEY),
    _required("MarketValue", "market_value", Type.MONEY),
    _required("CashAmount", "cash_amount", Type.MONEY),
    _required("NetAmount", "net_amount", Type.MONEY),
)
UNITS_HELD = _required("UnitsHeld", "units_held", Type.DECIMAL6)
UNITS_MOVED = _required("UnitsMoved", "units_moved", Type.DECIMAL6)

# UnitsMoved leaves these out: their Units are what the income was paid on, and move nothing.
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
    """An element's name with the document's namespace, as lxml spells it."""
    return f"{{{NAMESPACE}}}{name}"


def element_lineage() -> list[tuple[str, str, str]]:
    """Every element that a column fills: (path in the document, frame, column), in document order.

    Attributes are written ``Record/@name``. Header and control totals are of the page, not of a column.
    """
    return [(column.name, *column.filled_by[0]) for column in document_columns()]


def document_columns() -> Iterator[DocumentColumn]:
    """Every element that a column fills, in document order."""
    for section in SECTIONS:
        yield from _columns(section.record, f"{ROOT}/{section.name}")


def _columns(record: Record, above: str) -> Iterator[DocumentColumn]:
    path = f"{above}/{record.name}"
    always = {part.name for part in record.content if isinstance(part, Element) and not part.optional}
    for at, elements in (("@", record.attributes), ("", record.elements)):
        for element in elements:
            filled_by = ((record.frame.name, element.column),)
            optional = not at and element.name not in always
            yield DocumentColumn(f"{path}/{at}{element.name}", element.type.value, filled_by, optional)
    for nested in record.nested:
        yield from _columns(nested, path)
