"""Frames for the EPI tests: a few believable portfolios, hypothesis strategies, and a document made by lxml alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_mapping import Element, Group, Record, Type
from classfeed_dagster.documents.epi_schema import text_rules
from classfeed_dagster.documents.format import PageHeader, Totals
from classfeed_dagster.trading_days import window

Frames = dict[str, pl.DataFrame]
Rows = Mapping[str, list[dict[str, Any]]]

DAY = dt.date(2023, 5, 3)
NOON = dt.datetime(2023, 5, 3, 2, 0, tzinfo=dt.UTC)
HEADER = PageHeader(
    feed="class_super",
    recipient="CLASS",
    business_date=DAY,
    sequence_number=7,
    revision=0,
    replaces=None,
    page_number=1,
    page_count=1,
    window=window(DAY),
    snapshot_at=dt.datetime(2023, 5, 3, 20, 0, 0, 123456, tzinfo=dt.UTC),
)


def frames_of(rows: Rows) -> Frames:
    """The five frames from rows by frame name; columns that a row lacks are null."""
    return {
        record.frame.name: pl.DataFrame(
            [dict.fromkeys(record.frame.schema) | row for row in rows.get(record.frame.name, [])],
            schema=record.frame.schema,
            orient="row",
        )
        for record in epi.RECORDS
    }


def account(number: str, **values: Any) -> dict[str, Any]:
    return {
        "portfolio_number": number,
        "recipient_reference": f"FUND-{number}",
        "consent": "CURRENT",
        "extract": "DELTA",
        "portfolio_name": 'Nguyễn & Söhne <Super> "Fund" 🦘',
        "entity_type": "SMSF",
        "abn": "51824753556",
        "hin": "X1234567890",
        "status": "ACTIVE",
        "opened_on": dt.date(2019, 2, 28),
    } | values


def removed(number: str) -> dict[str, Any]:
    return {
        "portfolio_number": number,
        "recipient_reference": f"FUND-{number}",
        "consent": "REMOVED",
        "extract": "NONE",
    }


def cash_account(number: str, **values: Any) -> dict[str, Any]:
    return {
        "portfolio_number": number,
        "bsb": "062-000",
        "account_number": "12345678",
        "account_name": "Cash of O'Brien & Co",
        "currency": "AUD",
        "status": "ACTIVE",
        "opened_on": dt.date(2019, 2, 28),
    } | values


def balance(number: str, **values: Any) -> dict[str, Any]:
    return {
        "portfolio_number": number,
        "bsb": "062-000",
        "account_number": "12345678",
        "currency": "AUD",
        "as_at_date": DAY,
        "ledger_balance": Decimal("1234.50"),
        "available_balance": Decimal("-0.05"),
    } | values


def holding(number: str, **values: Any) -> dict[str, Any]:
    return {
        "portfolio_number": number,
        "hin": "X1234567890",
        "exchange": "ASX",
        "security_code": "BHP",
        "isin": "AU000000BHP4",
        "security_name": "BHP GROUP LIMITED",
        "security_type": "ORDINARY",
        "as_at_date": DAY,
        "units": Decimal("100.000000"),
        "settled_units": Decimal("60.000000"),
        "currency": "AUD",
        "price": Decimal("44.510000"),
        "price_date": DAY,
        "market_value": Decimal("4451.00"),
        "cost_base": Decimal("4000.10"),
    } | values


def trade(number: str, transaction_id: str = "T1", **values: Any) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "portfolio_number": number,
        "transaction_type": "BUY",
        "transaction_date": DAY,
        "settlement_date": dt.date(2023, 5, 5),
        "recorded_at": NOON,
        "exchange": "ASX",
        "security_code": "BHP",
        "isin": "AU000000BHP4",
        "units": Decimal("40.000000"),
        "confirmation_number": "CN-0001",
        "price": Decimal("44.510000"),
        "consideration": Decimal("1780.40"),
        "brokerage": Decimal("9.50"),
        "gst": Decimal("0.86"),
        "other_fees": Decimal("0.00"),
        "net_amount": Decimal("1789.90"),
        "currency": "AUD",
    } | values


def dividend(number: str, transaction_id: str = "I1", **values: Any) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "portfolio_number": number,
        "transaction_type": "DIVIDEND",
        "transaction_date": DAY,
        "recorded_at": NOON,
        "exchange": "ASX",
        "security_code": "BHP",
        "isin": "AU000000BHP4",
        "units": Decimal("60.000000"),
        "ex_date": dt.date(2023, 4, 3),
        "gross_amount": Decimal("81.00"),
        "franked_amount": Decimal("81.00"),
        "unfranked_amount": Decimal("0.00"),
        "franking_credit": Decimal("34.71"),
        "withholding_tax": Decimal("0.00"),
        "net_income": Decimal("81.00"),
        "currency": "AUD",
    } | values


def cash(number: str, transaction_id: str = "C1", **values: Any) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "portfolio_number": number,
        "transaction_type": "CASH_SETTLEMENT",
        "transaction_date": DAY,
        "recorded_at": NOON,
        "relates_to": "T1",
        "bsb": "062-000",
        "account_number": "12345678",
        "amount": Decimal("-1789.90"),
        "currency": "AUD",
        "narrative": "Settlement <T1> & fees",
    } | values


def units_move(number: str, transaction_id: str = "S1", **values: Any) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "portfolio_number": number,
        "transaction_type": "TRANSFER_OUT",
        "transaction_date": DAY,
        "recorded_at": NOON + dt.timedelta(microseconds=1),
        "reverses": "S0",
        "exchange": "ASX",
        "security_code": "OLD",
        "units": Decimal("-3.500000"),
        "cost_base_change": Decimal("-12.00"),
        "currency": "AUD",
        "narrative": "Off-market\ttransfer",
    } | values


def sample() -> Frames:
    """Four portfolios with every kind of record; one of them REMOVED, one with nothing but its details."""
    return frames_of(
        {
            "accounts": [
                account("SW00000002", consent="NEW", extract="FULL", hin=None, closed_on=DAY, status="CLOSED"),
                account("SW00000001"),
                removed("SW00000003"),
                account("SW00000010", portfolio_name="\t Two\r\nlines ]]> \u0085\u2028 é e\u0301 ", abn=None),
            ],
            "cash_accounts": [
                cash_account("SW00000001"),
                cash_account("SW00000001", bsb=None, account_number="US-77", currency="USD", closed_on=DAY),
                cash_account("SW00000002"),
            ],
            "account_balances": [
                balance("SW00000001"),
                balance("SW00000001", bsb=None, account_number="US-77", currency="USD", ledger_balance=Decimal(0)),
                balance("SW00000002", ledger_balance=Decimal("-99999999.99")),
            ],
            "investment_holdings": [
                holding("SW00000001"),
                holding(
                    "SW00000001",
                    exchange="NYSE",
                    security_code="BRK.B",
                    hin=None,
                    isin=None,
                    currency="USD",
                    price=None,
                    price_date=None,
                    market_value=None,
                    cost_base=None,
                ),
                holding("SW00000002", units=Decimal(0), settled_units=Decimal("40.000000"), market_value=Decimal(0)),
            ],
            "movement_transactions": [
                trade("SW00000001"),
                cash("SW00000001"),
                cash("SW00000001", "C2", amount=Decimal("0.01"), relates_to=None, narrative="", bsb=None),
                units_move("SW00000001"),
                dividend("SW00000002"),
                trade(
                    "SW00000002",
                    "T9",
                    transaction_type="SELL",
                    units=Decimal("-40.000000"),
                    currency="USD",
                    net_amount=Decimal("-5.00"),
                ),
            ],
        }
    )


def page_of(frames: Frames, header: PageHeader = HEADER) -> bytes:
    """One page of everything."""
    totals = sum((one.totals for one in EPI.render(frames)), Totals())
    return b"".join(EPI.page(header, totals, sections_of(frames)))


def sections_of(frames: Frames) -> dict[str, list[bytes]]:
    """A page's records, portfolio by portfolio, by section."""
    rendered = list(EPI.render(frames))
    return {section.name: [one.sections[section.name] for one in rendered] for section in epi.SECTIONS}


# --- The same document, made by lxml element by element -----------------------------------------------------------


def by_lxml(frames: Frames, page: bytes) -> etree._Element:
    """The document that lxml builds of the frames, in the frame (Header, ControlTotals) of ``page``."""
    root = etree.fromstring(page)
    for section in epi.SECTIONS:
        parent = root.find(epi.tag(section.name))
        assert parent is not None
        parent.clear()
        rows = frames[section.record.frame.name].sort(section.record.sort_key).to_dicts()
        for row in rows:
            element = _element(section.record, row, frames)
            element.tail = "\n"
            parent.append(element)
        if rows:
            parent.text = "\n"
    return root


def _element(record: Record, row: dict[str, Any], frames: Frames) -> etree._Element:
    element = etree.Element(epi.tag(record.name), {one.name: row[one.column] for one in record.attributes})
    for part in record.content:
        members = part.members if isinstance(part, Group) else (part,)
        for member in members:
            if isinstance(member, Element):
                if row[member.column] not in (None, ""):
                    etree.SubElement(element, epi.tag(member.name)).text = _text(row[member.column])
            else:
                nested = frames[member.frame.name].filter(pl.col(epi.PORTFOLIO) == row[epi.PORTFOLIO])
                for inner in nested.sort(member.sort_key).to_dicts():
                    element.append(_element(member, inner, frames))
    return element


def _text(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


# --- Strategies ---------------------------------------------------------------------------------------------------

# Any character that XML 1.0 can carry.
XML_CHARACTERS = st.characters(
    exclude_categories=["Cs"],
    exclude_characters=[chr(n) for n in range(32) if chr(n) not in "\t\n\r"] + ["\ufffe", "\uffff"],
)
NASTY = st.sampled_from(
    ["&", "<", ">", "]]>", "&amp;", "&lt;", "\r\n", "\t", '"', "'", "🦘", "</PortfolioName>", "<!--", "{}"]
)
TEXT200 = st.lists(st.one_of(XML_CHARACTERS, NASTY), min_size=1, max_size=12).map("".join)

_BY_TYPE: dict[Type, st.SearchStrategy[Any]] = {
    Type.MONEY: st.decimals(Decimal("-99999999999999.99"), Decimal("99999999999999.99"), places=2),
    Type.DECIMAL6: st.decimals(Decimal("-999999999999"), Decimal("999999999999"), places=6),
    Type.DATE: st.dates(),
    Type.INSTANT: st.datetimes(timezones=st.just(dt.UTC)),
    Type.TEXT: TEXT200,
}


def values_of(element: Element) -> st.SearchStrategy[Any]:
    """Values that the element may hold; small amounts, so that sums stay within the control totals."""
    if element.type in _BY_TYPE:
        return _BY_TYPE[element.type]
    rule = text_rules()[element.type]
    return st.sampled_from(rule.vocabulary) if rule.vocabulary else st.from_regex(f"^(?:{rule.pattern})\\Z")


@st.composite
def rows_of(draw: st.DrawFn, record: Record, number: str) -> dict[str, Any]:
    """One valid row of a record."""
    row: dict[str, Any] = {}
    for part in record.content:
        members = part.elements if isinstance(part, Group) else (part,)
        absent = isinstance(part, Group) and part is not epi.DETAILS and draw(st.booleans())
        for element in members:
            if not absent and not (element.optional and draw(st.booleans())):
                row[element.column] = draw(values_of(element))
    row[epi.PORTFOLIO] = number
    if record is epi.MOVEMENT_TRANSACTION:
        row.setdefault("currency", "AUD")
    return row


@st.composite
def any_frames(draw: st.DrawFn) -> Frames:
    """Valid frames of up to three portfolios."""
    numbers = draw(st.lists(st.from_regex(r"^[A-Za-z0-9][A-Za-z0-9._:\-]{0,11}\Z"), unique=True, max_size=3))
    rows: dict[str, list[dict[str, Any]]] = {record.frame.name: [] for record in epi.RECORDS}
    for number in numbers:
        consent, extract = draw(st.sampled_from([("NEW", "FULL"), ("CURRENT", "DELTA"), ("REMOVED", "NONE")]))
        details = draw(rows_of(epi.ACCOUNT, number)) | {"consent": consent, "extract": extract}
        if consent == epi.REMOVED:
            details = removed(number) | {"recipient_reference": details["recipient_reference"]}
        rows["accounts"].append(details)
        for record in epi.RECORDS[1:]:
            if consent != epi.REMOVED:
                for at in range(draw(st.integers(0, 2))):
                    row = draw(rows_of(record, number))
                    # Keys are unique, so that the order of rows is too.
                    row |= {"account_number": f"A{at}"} if record in (epi.CASH_ACCOUNT, epi.ACCOUNT_BALANCE) else {}
                    row |= {"security_code": f"X{at}"} if record is epi.INVESTMENT_HOLDING else {}
                    row |= {"transaction_id": f"{number}-{at}"} if record is epi.MOVEMENT_TRANSACTION else {}
                    rows[record.frame.name].append(row)
    return frames_of(rows)
