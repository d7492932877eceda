"""semt.002 messages: written, read back by exporter and judge, located, refused. No database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from classfeed_dagster.delivery.pages import header_faults, totals_faults
from classfeed_dagster.documents.camt_053 import CAMT_053
from classfeed_dagster.documents.document_format import LONGEST_ID_NUMBERS, Totals
from classfeed_dagster.documents.iso_20022 import IsoMessageFormat, schema_of
from classfeed_dagster.documents.locate import NotAPageError
from classfeed_dagster.documents.semt_002 import SEMT_002
from classfeed_dagster.domains.columns import ACCOUNTS, INVESTMENT_HOLDINGS
from classfeed_dagster.feeds.examples.holdings import FEED as HOLDINGS
from classfeed_dagster.feeds.feed import FeedDeclarationError
from classfeed_dagster.reconciliation.document_layouts import layout_named
from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError
from classfeed_dagster.reconciliation.iso_documents import read_semt_message
from classfeed_dagster_tests.fixtures import csv_frames as make

NUMBER = "SW00000001"
NOT_STATED = ("hin", "cost_base")


def holding(code: str, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "portfolio_number": NUMBER, "exchange": "ASX", "security_code": code, "isin": "AU000000BHP4",
        "security_name": "BHP & <Sons>\r\nLimited", "security_type": "ORDINARY", "as_at_date": make.DAY,
        "units": Decimal("3795.123456"), "settled_units": Decimal("3795"), "currency": "AUD", "price": Decimal("45.5"),
        "price_date": dt.date(2023, 5, 4), "market_value": Decimal("172678.12"),
    }  # fmt: skip
    return {**row, **values}


def holdings() -> list[dict[str, Any]]:
    unpriced = {"price": None, "price_date": None, "market_value": None}
    return [
        holding("BHP"),
        holding("NEW", isin=None, units=Decimal(0), settled_units=Decimal("-0.000001"), **unpriced),
        holding(
            "AAPL", exchange="NASDAQ", currency="USD", units=Decimal("-999999999999.999999"),
            market_value=Decimal("-9999999999999999.99"), price=Decimal("999999999999.999999"),
        ),
    ]  # fmt: skip


def message(rows: list[dict[str, Any]]) -> tuple[bytes, Totals]:
    frames = {"accounts": make.frame(ACCOUNTS, [make.account(NUMBER)])}
    frames["investment_holdings"] = make.frame(INVESTMENT_HOLDINGS, rows)
    (portfolio,) = SEMT_002.render(frames)
    sections = {name: [content] for name, content in portfolio.sections.items()}
    return b"".join(SEMT_002.page(make.header("holdings"), portfolio.totals, sections)), portfolio.totals


def test_message_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    page, totals = message(holdings())
    schema_of(SEMT_002.message).assertValid(etree.fromstring(page))
    facts = SEMT_002.inspect_page([page[:99], page[99:]])
    assert (facts.errors, facts.portfolios, facts.totals) == ((), {"BalForAcct": frozenset({NUMBER})}, totals)
    expected = {"feed": "holdings", "business_date": make.DAY, "sequence_number": 7, "revision": 0}
    assert set(facts.header) == {"MessageId", "Feed", "BusinessDate", "SequenceNumber", "Revision"}
    assert header_faults(facts.header, message_id="holdings-20230505-r0-p1", **expected) == []  # type: ignore[arg-type]
    assert totals.counts == {"InvestmentHoldings": 3}
    assert totals.units_held == Decimal("-999999996204.876543")
    assert {name: sums.market_value for name, sums in totals.currencies.items()} == {
        "AUD": Decimal("172678.12"), "USD": Decimal("-9999999999999999.99")}  # fmt: skip
    assert totals_faults(facts, Totals())
    written = make.frame(INVESTMENT_HOLDINGS, holdings())
    (tmp_path / "m.xml.gz").write_bytes(gzip.compress(page))
    (tmp_path / "m.xml").write_bytes(page)
    for name in ("m.xml", "m.xml.gz"):
        assert SEMT_002.read(tmp_path / name)["investment_holdings"].equals(written)


def test_holding_is_located_by_portfolio_exchange_and_code(tmp_path: Path) -> None:
    page, _ = message(holdings())
    file = tmp_path / "m.xml"
    file.write_bytes(page)
    (place,) = SEMT_002.locate(file, (NUMBER, "NASDAQ", "AAPL"))
    line = page.splitlines()[place.line - 1]
    assert page[place.offset : place.offset + place.length] == line
    assert line.startswith(b"<BalForAcct><FinInstrmId><ISIN>AU000000BHP4</ISIN><OthrId><Id>AAPL<")
    for key in ((NUMBER, "ASX", "AAPL"), ("SW00000002", "NASDAQ", "AAPL"), "T1"):
        assert SEMT_002.locate(file, key) == []


def test_judge_reads_what_was_written(tmp_path: Path) -> None:
    page, _ = message(holdings())
    file = tmp_path / "holdings-20230505-r0-p1.xml"
    file.write_bytes(page)
    contents = layout_named("semt_002").contents()
    rows = {row["security_code"]: row for _, row in read_semt_message(file, file.name, contents)}
    for row in make.frame(INVESTMENT_HOLDINGS, holdings()).drop(NOT_STATED).iter_rows(named=True):
        stated = rows[row["security_code"]]
        assert {name: None if value is None else str(value) for name, value in row.items()} == {
            name: value for name, value in stated.items() if name in row
        }
    assert contents.header == dict(SEMT_002.inspect_page([page]).header)
    assert contents.counted == {
        "InvestmentHoldings": 3, "units_held": Decimal("-999999996204.876543"), "AUD market_value": Decimal("172678.12"),
        "USD market_value": Decimal("-9999999999999999.99"),
    }  # fmt: skip
    file.write_bytes(b"<!DOCTYPE x><Document/>")
    with pytest.raises(UnreadableDeliveryError, match="DOCTYPE"):
        list(read_semt_message(file, file.name, contents))


def test_message_without_holdings_states_no_activity(tmp_path: Path) -> None:
    page, totals = message([])
    schema_of(SEMT_002.message).assertValid(etree.fromstring(page))
    assert b"<ActvtyInd>false</ActvtyInd>" in page
    facts = SEMT_002.inspect_page([page])
    assert (facts.errors, facts.portfolios, facts.totals, totals) == ((), {"BalForAcct": frozenset()}, totals, Totals())
    file = tmp_path / "m.xml"
    file.write_bytes(page)
    assert SEMT_002.read(file)["investment_holdings"].is_empty()
    assert list(read_semt_message(file, "m.xml", layout_named("semt_002").contents())) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"<Document", b"<!DOCTYPE a><Document", "DOCTYPE"),
        (b"</Document>", b"", "not well-formed"),
        (b"<Cd>TRAD</Cd>", b"<Cd>MINE</Cd>", "not valid by semt.002.001.11"),
        (b"<Unit>3795.123456<", b"<Unit>1e3<", "not valid by semt.002.001.11"),
        (b"<SfkpgAcct><Id>SW00000001</Id></SfkpgAcct>", b"", "names no portfolio"),
        (b"<Id>SETT</Id>", b"<Id>PEND</Id>", "lacks its units or settled units"),
        (b"<Dt>2023-05-05</Dt>", b"<DtTm>2023-05-05T00:00:00Z</DtTm>", "no date"),
    ],
)
def test_damaged_message_is_refused_without_its_values(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    page, _ = message(holdings())
    assert old in page
    page = page.replace(old, new, 1)
    (error,) = SEMT_002.inspect_page([page]).errors
    assert says in error
    assert NUMBER not in error
    (tmp_path / "m.xml").write_bytes(page)
    with pytest.raises(NotAPageError, match=says):
        SEMT_002.read(tmp_path / "m.xml")


@pytest.mark.parametrize(
    ("values", "rules"),
    [
        ({}, set()),
        ({"isin": None}, set()),
        ({"security_name": "x" * 140}, set()),
        ({"security_name": "x" * 141}, {"semt_002_text"}),
        ({"security_name": "a\x0bb"}, {"semt_002_text"}),
        ({"security_type": ""}, {"semt_002_text"}),
        ({"currency": "dollars"}, {"semt_002_currency"}),
        ({"units": Decimal(10) ** 12}, {"semt_002_units"}),
        ({"settled_units": -(Decimal(10) ** 12)}, {"semt_002_units"}),
        ({"price": Decimal("-0.01")}, {"semt_002_price"}),
        ({"price_date": None}, {"semt_002_price"}),
        ({"market_value": None}, {"semt_002_price"}),
        ({"price": None}, {"semt_002_price"}),
    ],
)
def test_values_that_no_message_can_carry_hold_back(values: dict[str, Any], rules: set[str]) -> None:
    frames = {"investment_holdings": make.frame(INVESTMENT_HOLDINGS, [holding("BHP", **values)])}
    findings = SEMT_002.check_representable(frames)
    assert set(findings["rule"]) == rules <= {rule.name for rule in SEMT_002.rules}
    if not rules:
        assert SEMT_002.inspect_page([message([holding("BHP", **values)])[0]]).errors == ()


@pytest.mark.parametrize("document_format", [SEMT_002, CAMT_053], ids=lambda item: item.name)
def test_longest_message_id_is_valid_by_the_published_schema(document_format: IsoMessageFormat) -> None:
    name = "x" * (document_format.longest_id - LONGEST_ID_NUMBERS)
    header = make.header(name, revision=9999, page=999_999)
    assert len(header.message_id) == 35
    page = b"".join(document_format.page(header, Totals(), {}))
    schema_of(document_format.message).assertValid(etree.fromstring(page))
    assert document_format.inspect_page([page]).header["MessageId"] == header.message_id
    longer = page.replace(header.message_id.encode(), b"x" + header.message_id.encode())
    assert document_format.inspect_page([longer]).errors
    with pytest.raises(FeedDeclarationError, match="use a name of at most 12"):
        dataclasses.replace(HOLDINGS, name=f"{name}x", format=document_format)
