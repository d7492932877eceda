"""camt.053 messages and plain CSV files: written, read back, refused. No database."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from classfeed_dagster.delivery.pages import totals_faults
from classfeed_dagster.documents.camt_053 import CAMT_053
from classfeed_dagster.documents.csv_mapping import CsvLayout
from classfeed_dagster.documents.document_format import Totals, paging_of
from classfeed_dagster.documents.iso_20022 import schema_of
from classfeed_dagster.documents.locate import NotAPageError
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds.examples.trade_list import FEED as TRADE_LIST
from classfeed_dagster.feeds.examples.trade_list import LAYOUT
from classfeed_dagster.reconciliation.document_layouts import layout_named
from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError
from classfeed_dagster.reconciliation.iso_documents import read_camt_message
from classfeed_dagster_tests.fixtures import csv_frames as make

NUMBER = "SW00000001"


def message(movements: list[dict[str, Any]], balances: list[dict[str, Any]]) -> bytes:
    frames = make.frames([make.account(NUMBER)], movements, balances)
    (portfolio,) = CAMT_053.render(frames)
    sections = {"Stmt": [portfolio.sections["Stmt"]]}
    return b"".join(CAMT_053.page(make.header("statements"), portfolio.totals, sections))


def cash_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    first = make.cash(1, "100.00", narrative="Rent & <co>\r\nlate")
    undone = make.reversal_of(first, 2)
    related = make.cash(
        3, "-0.01", transaction_type="CASH_SETTLEMENT", relates_to="T9", narrative="", currency="USD", bsb=None
    )
    return [first, undone, related], [make.balance("0.00"), make.balance("-0.01", currency="USD", bsb=None)]


def test_message_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    movements, balances = cash_rows()
    page = message(movements, balances)
    assert b"T9" not in page  # a trade that the recipient of statements is never sent
    schema_of(CAMT_053.message).assertValid(etree.fromstring(page))
    facts = CAMT_053.inspect_page([page])
    assert facts.errors == ()
    assert facts.header == {
        "MessageId": "statements-20230505-r0-p1", "Feed": "statements", "BusinessDate": "2023-05-05",
        "SequenceNumber": "7", "Revision": "0"}  # fmt: skip
    assert facts.totals.counts == {"AccountBalances": 2, "MovementTransactions": 3}
    assert facts.totals.currencies["USD"].cash_debits == Decimal("-0.01")
    (tmp_path / "m.xml.gz").write_bytes(gzip.compress(page))
    (tmp_path / "m.xml").write_bytes(page)
    for name in ("m.xml", "m.xml.gz"):
        frames = CAMT_053.read(tmp_path / name)
        got = {row["transaction_id"]: row for row in frames["movement_transactions"].iter_rows(named=True)}
        assert [(got[i]["reverses"], got[i]["narrative"], got[i]["amount"]) for i in ("C1", "C2", "C3")] == [
            (None, "Rent & <co>\r\nlate", Decimal("100.00")),
            ("C1", "Rent & <co>\r\nlate", Decimal("-100.00")),
            (None, None, Decimal("-0.01")),
        ]  # fmt: skip
        assert frames["account_balances"]["bsb"].to_list() == ["062-000", None]
    (place,) = CAMT_053.locate(tmp_path / "m.xml", "C3")
    assert page[place.offset : place.offset + place.length].startswith(b"<Ntry><NtryRef>C3<")
    assert page.splitlines()[place.line - 1].startswith(b"<Ntry><NtryRef>C3<")
    assert CAMT_053.locate(tmp_path / "m.xml", ("SW1", "ASX", "BHP")) == []


def test_judge_reads_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "statements-20230505-r0-p1.xml"
    file.write_bytes(message(*cash_rows()))
    contents = layout_named("camt_053").contents()
    rows = list(read_camt_message(file, file.name, contents))
    assert [(kind.name, row["currency"]) for kind, row in rows] == [
        ("account_balances", "AUD"), ("movement_transactions", "AUD"), ("movement_transactions", "AUD"),
        ("account_balances", "USD"), ("movement_transactions", "USD")]  # fmt: skip
    assert rows[1][1]["recorded_at"]
    assert rows[2][1]["reverses"] == "C1"
    assert "relates_to" not in rows[4][1]
    file.write_bytes(b"<!DOCTYPE x><Document/>")
    with pytest.raises(UnreadableDeliveryError, match="DOCTYPE"):
        list(read_camt_message(file, file.name, contents))
    file.write_bytes(b"<Document>")
    with pytest.raises(UnreadableDeliveryError, match="read to its end"):
        list(read_camt_message(file, file.name, contents))


def test_message_without_statements_states_that_there_are_none(tmp_path: Path) -> None:
    page = message([], [])
    assert b"T9" not in page  # a trade that the recipient of statements is never sent
    schema_of(CAMT_053.message).assertValid(etree.fromstring(page))
    facts = CAMT_053.inspect_page([page])
    assert (facts.errors, facts.portfolios, facts.totals) == ((), {"Stmt": frozenset()}, Totals())
    file = tmp_path / "m.xml"
    file.write_bytes(page)
    assert list(read_camt_message(file, "m.xml", layout_named("camt_053").contents())) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"<Document", b"<!DOCTYPE a><Document", "DOCTYPE"),
        (b"</Document>", b"", "not well-formed"),
        (b"<Cd>BOOK</Cd>", b"<Cd>BOOKED</Cd>", "not valid by camt"),
        (b"<Ownr><Id><PrvtId><Othr><Id>SW00000001</Id></Othr></PrvtId></Id></Ownr>", b"", "names no portfolio"),
        (b"<Cd>CLAV</Cd>", b"<Cd>ITAV</Cd>", "lacks a balance"),
        (b"<RltdDts>", b"<!--", "not well-formed"),
    ],
)  # fmt: skip
def test_damaged_message_is_refused_without_its_values(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    page = message(*cash_rows()).replace(old, new, 1)
    errors = CAMT_053.inspect_page([page]).errors
    assert says in errors[0]
    assert "100200300" not in errors[0]
    (tmp_path / "m.xml").write_bytes(page)
    with pytest.raises(NotAPageError, match=says):
        CAMT_053.read(tmp_path / "m.xml")


@pytest.mark.parametrize(
    ("movement", "balance", "rules"),
    [
        ({}, {}, set()),
        ({"narrative": "x" * 501}, {}, {"camt_053_text"}),
        ({"narrative": "a\x0bb"}, {}, {"camt_053_text"}),
        ({"transaction_type": ""}, {}, {"camt_053_text"}),
        ({"currency": "dollars"}, {"currency": "dollars"}, {"camt_053_currency"}),
        ({"account_number": "9"}, {}, {"camt_053_no_statement"}),
        ({"account_number": "9" * 35}, {"account_number": "9" * 35}, {"camt_053_text"}),
    ],
)
def test_values_that_no_message_can_carry_hold_back(
    movement: dict[str, Any], balance: dict[str, Any], rules: set[str]
) -> None:
    frames = make.frames([make.account(NUMBER)], [make.cash(1, "5.00", **movement)], [make.balance("5.00", **balance)])
    findings = CAMT_053.check_representable(frames)
    assert set(findings["rule"]) == rules <= {rule.name for rule in CAMT_053.rules}
    assert "9" * 35 not in str(findings["detail"].to_list())


def trade_list(movements: list[dict[str, Any]]) -> bytes:
    return make.written(TRADE_LIST.format, [make.frames([make.account(NUMBER)], movements)], make.header("trade_list"))


def test_plain_csv_has_a_heading_and_no_frame(tmp_path: Path) -> None:
    page = trade_list([make.trade(2), make.trade(1)])
    lines = page.decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ["Reference", "T1", "T2"]
    facts = TRADE_LIST.format.inspect_page([page])
    assert (facts.errors, facts.header, facts.stated) == ((), {}, None)
    assert totals_faults(facts, facts.totals) == []
    assert totals_faults(facts, Totals())
    file = tmp_path / "trade_list.csv"
    file.write_bytes(page)
    assert TRADE_LIST.format.read(file)["movement_transactions"]["transaction_id"].to_list() == ["T1", "T2"]
    (place,) = TRADE_LIST.format.locate(file, "T2")
    assert (place.line, page[place.offset : place.offset + 3]) == (3, b"T2,")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"Reference", b"Ref", "not the heading line"),
        (b"T2,", b"T2,extra,", "is not a line of this file"),
        (b"\r\n", b"\n", "line ends or quoting"),
        (b"T2,", b"T0,", "out of order"),
    ],
)
def test_damaged_plain_csv_is_refused(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    page = trade_list([make.trade(1), make.trade(2)]).replace(old, new, 1)
    assert any(says in error for error in TRADE_LIST.format.inspect_page([page]).errors)


def test_judge_refuses_another_heading(tmp_path: Path) -> None:
    layout = TRADE_LIST.layout
    assert layout is not None
    file = tmp_path / "t.csv"
    file.write_bytes(trade_list([make.trade(1)]))
    assert [row["transaction_id"] for _, row in layout.read(file, "t.csv", layout.contents())] == ["T1"]
    for content, says in ((b"A,B\r\n", "heading"), (b"\xff\xfe", "read to its end")):
        file.write_bytes(content)
        with pytest.raises(UnreadableDeliveryError, match=says):
            list(layout.read(file, "t.csv", layout.contents()))


def test_portfolio_without_records_begins_no_page() -> None:
    paging = paging_of(TRADE_LIST.format, 10)
    assert [paging.add(size) for size in (0, 5, 7, 0, 3)] == [1, 1, 2, 2, 3]
    assert paging.pages == [range(2), range(2, 4), range(4, 5)]


def test_unframed_layout_has_no_balances() -> None:
    with pytest.raises(ConfigurationError, match="balance lines need"):
        CsvLayout(
            name="x", ledgers=LAYOUT.ledgers, domains=LAYOUT.domains, rows=LAYOUT.rows, details=LAYOUT.details, back={},
            key="transaction_id", reverses="", summed="net_amount", business_date="transaction_date",
            balances=LAYOUT.details, framed=False,
        )  # fmt: skip
