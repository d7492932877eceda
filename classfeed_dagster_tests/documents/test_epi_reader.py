"""The reader: everything that can be wrong with a document, named by line and element, and nothing else said."""

from __future__ import annotations

import gzip
import hashlib
import re
import resource
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from polars.testing import assert_frame_equal

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents import epi_records
from classfeed_dagster.documents.document_format import PageInspection, Totals
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_reader import UnreadableDocumentError
from classfeed_dagster.documents.epi_validator import MOST_ERRORS, PIECE, Lines
from classfeed_dagster_tests.fixtures.epi_data import (
    HEADER,
    Frames,
    account,
    any_frames,
    balance,
    cash,
    cash_account,
    frames_of,
    page_of,
    sample,
    trade,
)
from classfeed_dagster_tests.fixtures.examples import examples

PAGE = page_of(sample())
MB = 1 << 20


def inspect(page: bytes, chunk: int = 1 << 16) -> PageInspection:
    return EPI.inspect_page(page[at : at + chunk] for at in range(0, len(page), chunk))


def read(page: bytes, tmp_path: Path) -> Frames:
    path = tmp_path / "page.xml"
    path.write_bytes(page)
    return EPI.read(path)


def same(one: Frames, other: Frames) -> None:
    assert one.keys() == other.keys()
    for record in epi.RECORDS:
        assert_frame_equal(one[record.frame.name], record.frame.conform(other[record.frame.name]))


def without_empty_text(frames: Frames) -> Frames:
    """Replace optional empty text, which is not sent, by null."""
    movements = frames["movement_transactions"]
    narrative = movements["narrative"].replace({"": None})
    return frames | {"movement_transactions": movements.with_columns(narrative)}


def change(page: bytes, old: str, new: str) -> bytes:
    assert old.encode() in page
    return page.replace(old.encode(), new.encode(), 1)


# --- What is right ------------------------------------------------------------------------------------------------


def test_page_is_inspected_from_its_bytes_alone() -> None:
    facts = inspect(PAGE)
    assert facts.errors == ()
    assert facts.valid
    assert facts.header["MessageId"] == HEADER.message_id
    assert facts.header["SnapshotAt"] == "2023-05-03T20:00:00.123456Z"
    assert "Replaces" not in facts.header
    assert facts.portfolios == {
        "AccountDetails": {"SW00000001", "SW00000002", "SW00000003", "SW00000010"},
        "AccountBalances": {"SW00000001", "SW00000002"},
        "InvestmentHoldings": {"SW00000001", "SW00000002"},
        "MovementTransactions": {"SW00000001", "SW00000002"},
    }
    assert facts.removed == {"SW00000003"}
    assert (facts.sha256, facts.size) == (hashlib.sha256(PAGE).hexdigest(), len(PAGE))
    expected = sum((slice_.totals for slice_ in EPI.render(sample())), Totals())
    assert facts.totals == expected
    assert facts.stated is not None
    assert facts.stated.counts == expected.counts
    assert facts.stated.units_moved == expected.units_moved
    for currency, stated in facts.stated.currencies.items():
        summed = expected.currencies[currency]
        assert stated.cash_amount == summed.cash_amount
        assert (stated.ledger_balance, stated.net_amount) == (summed.ledger_balance, summed.net_amount)


def test_empty_page_is_read() -> None:
    facts = EPI.inspect_page(EPI.page(HEADER, Totals(), {}))
    assert facts.valid
    assert facts.totals.counts == dict.fromkeys(facts.portfolios, 0)
    assert facts.stated is not None
    assert facts.stated.currencies == {}


def test_page_is_read_as_the_frames_it_was_made_of(tmp_path: Path) -> None:
    same(read(PAGE, tmp_path), without_empty_text(sample()))


def test_gzipped_page_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "page.xml.gz"
    path.write_bytes(gzip.compress(PAGE, mtime=0))
    same(EPI.read(path), without_empty_text(sample()))
    path.write_bytes(gzip.compress(PAGE, mtime=0)[:-20])
    with pytest.raises(UnreadableDocumentError, match=r"page\.xml\.gz cannot be read to its end"):
        EPI.read(path)


@examples(60)
@given(any_frames(), st.integers(1, 5000))
def test_written_document_is_read_back_and_adds_up(
    tmp_path_factory: pytest.TempPathFactory, frames: Frames, chunk: int
) -> None:
    page = page_of(frames)
    same(read(page, tmp_path_factory.mktemp("page")), without_empty_text(frames))
    facts = inspect(page, chunk)
    assert facts.valid
    nothing = Totals(dict.fromkeys((section.name for section in epi.SECTIONS), 0))
    assert facts.totals == sum((slice_.totals for slice_ in EPI.render(frames)), nothing)


def test_batch_size_changes_no_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = inspect(PAGE)
    monkeypatch.setattr(epi_records, "BATCH", 2)
    assert inspect(PAGE) == whole
    same(read(PAGE, tmp_path), without_empty_text(sample()))
    pretty = prettily(PAGE)
    assert inspect(pretty).totals == whole.totals
    same(read(pretty, tmp_path), without_empty_text(sample()))


# --- The same document in other forms -----------------------------------------------------------------------------


def prettily(page: bytes) -> bytes:
    tree = etree.fromstring(page, etree.XMLParser(remove_blank_text=True))
    return etree.tostring(tree, pretty_print=True, xml_declaration=True, encoding="UTF-8")


def prefixed(page: bytes) -> bytes:
    text = re.sub(r"<(/?)([A-Za-z])", r"<\1e:\2", page.decode().partition("?>\n")[2])
    return text.replace(" xmlns=", " xmlns:e=", 1).encode()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "pretty": prettily,
    "no declaration": lambda page: page.partition(b"?>\n")[2],
    "byte order mark": lambda page: b"\xef\xbb\xbf" + page,
    "prefixes": prefixed,
    "UTF-16": lambda page: page.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
    "one line": lambda page: re.sub(rb">\n<", b"><", page),
    "Windows line ends": lambda page: re.sub(rb">\n<", b">\r\n<", page),
    "comments": lambda page: page.replace(b"</AccountDetails>", b"<!-- <Account>\n --></AccountDetails>"),
    "instructions": lambda page: page.replace(b"<AccountBalances>", b"<AccountBalances><?a <Account> ?>"),
    "CDATA": lambda page: page.replace(b"Settlement &lt;T1&gt; &amp; fees", b"<![CDATA[Settlement <T1> & fees]]>"),
    "numeric references": lambda page: page.replace(b"<Units>100", b"<Units>&#49;&#x30;0"),
    "named references": lambda page: page.replace(b"O'Brien", b"O&apos;Brien"),
    "blanks in tags": lambda page: page.replace(b"<Amount>", b"<Amount >").replace(b"</Amount>", b"</Amount\n>"),
    "other quotes": lambda page: page.replace(b'consent="CURRENT"', b"consent='CURRENT'"),
    "attributes turned round": lambda page: page.replace(
        b'consent="CURRENT" extract="DELTA"', b'extract="DELTA"  consent="CURRENT"'
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_document_in_any_form_is_read_alike(form: str, tmp_path: Path) -> None:
    page = FORMS[form](PAGE)
    assert page != PAGE
    facts, plain = inspect(page, 1000), inspect(PAGE)
    assert facts.errors == ()
    assert (facts.totals, facts.stated) == (plain.totals, plain.stated)
    assert (facts.portfolios, facts.removed, facts.header) == (plain.portfolios, plain.removed, plain.header)
    same(read(page, tmp_path), without_empty_text(sample()))


@pytest.mark.parametrize(
    ("before", "after"), [("<!--", "-->"), ("<?hide ", "?>"), ("<\n!--", "-->")], ids=["comment", "instruction", "torn"]
)
def test_records_inside_a_comment_are_not_records(before: str, after: str) -> None:
    record = next(line for line in PAGE.decode().split("\n") if line.startswith("<AccountBalance>"))
    page = change(PAGE, "<AccountBalances>\n", f"<AccountBalances>\n{before}\n{record}\n{after}\n")
    facts = inspect(page)
    if "\n" in before:
        assert not facts.valid
    else:
        assert facts.errors == ()
        assert facts.totals == inspect(PAGE).totals


def test_reader_comment_across_a_block_boundary_hides_records() -> None:
    # The "<" is the last byte of a piece, the "!--" the first of the next.
    record = next(line for line in PAGE.decode().split("\n") if line.startswith("<AccountBalance>"))
    head, mark, tail = PAGE.decode().partition("<AccountBalances>")
    begun = (head + mark).rpartition("\n")[2]
    page = head + mark + " " * (PIECE - len(begun) - 1) + f"<!--\n{record}\n-->" + tail
    pieces = [piece for _, piece in Lines([page.encode()])]
    assert any(piece.endswith(b"<") for piece in pieces)
    facts = inspect(page.encode())
    assert facts.errors == ()
    assert facts.totals == inspect(PAGE).totals


def test_record_longer_than_a_piece_is_read(tmp_path: Path) -> None:
    frames = frames_of(
        {
            "accounts": [account("P1")],
            "cash_accounts": [cash_account("P1", account_number=f"{n:08}", account_name="é" * 200) for n in range(300)],
        }
    )
    page = page_of(frames)
    assert max(len(line) for line in page.split(b"\n")) > PIECE
    assert inspect(page).errors == ()
    same(read(page, tmp_path), frames)


# --- What is wrong ------------------------------------------------------------------------------------------------

# (what is changed, into what, the error, the line): a value that may not be said is "Sec ret" or "SECRET".
BROKEN = [
    ("<Abn>51824753556<", "<Abn>Sec ret<", "Abn: its value does not match the XSD's pattern", 3),
    ("<EntityType>SMSF<", "<EntityType>SECRET<", "EntityType: its value is not one that the XSD allows", 3),
    ("<Abn>51824753556</Abn>", "<SECRET/>", "an element unknown to the XSD: it is not expected here; the XSD expects", 3),
    ("<LedgerBalance>1234.50<", "<LedgerBalance>1234.5<", "LedgerBalance: its value does not match", 8),
    ("<LedgerBalance>1234.50<", "<LedgerBalance>1e3<", "LedgerBalance: its value is not of the", 8),
    ("<LedgerBalance>1234.50<", "<LedgerBalance>+1.00<", "LedgerBalance: its value does not match", 8),
    ("<LedgerBalance>1234.50</LedgerBalance>", "", "AvailableBalance: it is not expected here; the XSD expects LedgerB", 8),
    ("<Status>ACTIVE</Status><OpenedOn>2019-02-28</OpenedOn></CashAccount>", "</CashAccount>", "CashAccount: it ends before it is complete; the XSD expects Status", 3),
    ("<AsAtDate>2023-05-03<", "<AsAtDate>2023-02-30<", "AsAtDate: its value is not of the XSD's type", 8),
    ("<RecordedAt>2023-05-03T02:00:00.000000Z<", "<RecordedAt>2023-05-03T02:00:00<", "RecordedAt: its value does not match", 16),
    ('consent="CURRENT"', 'consent="SECRET"', "Account, attribute consent: its value is not one that the XSD", 3),
    ('consent="CURRENT"', "", "Account: the attribute consent is missing", 3),
    ('consent="CURRENT"', 'consent="CURRENT" SECRET="1"', "Account, an attribute unknown to the XSD: this attribute is not allowed", 3),
    ("<PortfolioNumber>SW00000001<", '<PortfolioNumber x="SECRET">SW00000001<', "PortfolioNumber", 3),
    ("<HoldingBasis>TRADED<", "<HoldingBasis>SECRET<", "HoldingBasis: its value differs from the XSD's fixed value", 2),
    ("</AccountDetails>", "SECRET</AccountDetails>", "AccountDetails: it contains text between its elements", 7),
    ("<Units>100.000000<", "<Units><SECRET/><", "Units", 12),
    ("<PortfolioName>", "<PortfolioName>" + "Sec ret" * 30, "PortfolioName: its value is too long", 3),
    ("<Narrative>Settlement &lt;T1&gt; &amp; fees<", "<Narrative><", "Narrative: its value is too short", 16),
    ('xmlns="urn:classfeed:epi-data-response:1"', 'xmlns="urn:SECRET"', "EPIDataResponse outside the document's namespace: the document type is unknown", 2),
    ("</EPIDataResponse>", "", "not well-formed XML", 22),
    ("</EPIDataResponse>", "</EPIDataResponse><SECRET/>", "not well-formed XML (document end)", 22),
    ("</Abn>", "</SECRET>", "not well-formed XML (tag name mismatch)", 3),
    ("<Abn>51824753556<", "<Abn>&SECRET;<", "not well-formed XML (undeclared entity)", 3),
    ("<Abn>51824753556<", "<Abn>&#0;<", "not well-formed XML (invalid char)", 3),
    ("<Abn>51824753556<", "<Abn>Sec\x01ret<", "not well-formed XML", 3),
    ("<Status>ACTIVE</Status><OpenedOn>2019-02-28</OpenedOn></Account>", "<Status 'Sec ret", "not well-formed XML", 6),
    ("<Accounts>4<", "<Accounts>-4<", "Accounts: its value is not of the XSD's type", 22),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says", "line"), BROKEN)
def test_error_names_its_line_and_element_and_no_value(
    old: str, new: str, says: str, line: int, tmp_path: Path
) -> None:
    page = change(PAGE, old, new)
    facts = inspect(page)
    assert not facts.valid
    assert any(error.startswith(f"line {line}: ") and says in error for error in facts.errors), facts.errors
    assert not re.search("sec.?ret", str(facts.errors), re.IGNORECASE)
    assert facts.sha256 == hashlib.sha256(page).hexdigest()
    assert facts.size == len(page)
    with pytest.raises(UnreadableDocumentError) as caught:
        read(page, tmp_path)
    assert says in str(caught.value)
    assert not re.search("sec.?ret", str(caught.value), re.IGNORECASE)


@pytest.mark.parametrize("damage", [b"\xe1", b"<x '\xe1"], ids=["in a text", "after a quote that never ends"])
def test_bytes_that_are_not_text_are_an_error(damage: bytes) -> None:
    page = PAGE.replace(b"<Currency>AUD", damage + b"<Currency>AUD")
    page = page.replace("Nguyễn".encode(), b"Nguy" + damage, 1)
    assert [error[:27] for error in inspect(page).errors] == ["line 3: not well-formed XML"]


@pytest.mark.parametrize(
    "page", [b"", b"\n", b"hello", b"\x00\x01", b"<a/>", b"%PDF-1.7 ...", gzip.compress(b"<a/>", mtime=0)]
)
def test_file_that_is_not_a_document_is_an_error(page: bytes) -> None:
    facts = EPI.inspect_page([page] if page else [])
    assert not facts.valid
    assert facts.header == {}
    assert facts.stated is None
    assert facts.totals.counts == dict.fromkeys(facts.portfolios, 0)


@examples(200)
@given(st.data())
def test_reader_notices_damage_anywhere_without_breaking(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PAGE) - 1))
    length = data.draw(st.integers(0, 40))
    page = PAGE[:at] + data.draw(st.binary(max_size=8)) + PAGE[at + length :]
    facts = inspect(page)
    if facts.valid:  # then whatever changed is still read as lxml reads it
        tree = etree.fromstring(page)
        amounts = [Decimal(e.text or "") for e in tree.iter(epi.tag("Amount"))]
        assert sum((c.cash_amount for c in facts.totals.currencies.values()), Decimal(0)) == sum(amounts)


def test_errors_are_limited() -> None:
    rows = {"accounts": [account("P1")], "account_balances": [balance("P1", account_number=str(n)) for n in range(500)]}
    page = page_of(frames_of(rows)).replace(b"<Bsb>062-000<", b"<Bsb>SECRET<")
    errors = inspect(page).errors
    assert len(errors) == MOST_ERRORS + 1
    assert errors[-1] == f"line {3 + MOST_ERRORS + 1}: more errors than {MOST_ERRORS}, the rest was not read"


def test_money_without_its_currency_is_an_error() -> None:
    rows = {
        "accounts": [account("P1")],
        "movement_transactions": [cash("P1", "C1"), cash("P1", "C2"), trade("P1", "T3", currency="USD")],
    }
    page = page_of(frames_of(rows)).replace(b"<Currency>AUD</Currency>", b"")
    facts = inspect(page)
    assert facts.errors == ("MovementTransaction: 2 records have money without a currency, the first is C1",)


def test_totals_stated_wrongly_are_reported() -> None:
    facts = inspect(change(PAGE, "<CashAmount>-1789.89<", "<CashAmount>-1789.90<"))
    assert facts.valid
    assert facts.stated is not None
    assert facts.stated.currencies["AUD"].cash_amount != facts.totals.currencies["AUD"].cash_amount


def test_value_that_no_frame_can_hold_is_an_error(tmp_path: Path) -> None:
    # A price of 14 digits before the point is more than the database's type has; so is an hour 24 for an instant.
    page = change(PAGE, "<Price>44.510000<", "<Price>12345678901234.510000<")
    assert inspect(page).valid
    with pytest.raises(UnreadableDocumentError, match="exceed the columns' types: InvestmentHolding price$"):
        read(page, tmp_path)
    page = change(PAGE, "<RecordedAt>2023-05-03T02:00:00.000000Z<", "<RecordedAt>2023-05-03T24:00:00Z<")
    assert inspect(page).valid
    with pytest.raises(UnreadableDocumentError, match="MovementTransaction recorded_at$"):
        read(page, tmp_path)


def test_instant_in_whole_seconds_is_read(tmp_path: Path) -> None:
    page = PAGE.replace(b"<RecordedAt>2023-05-03T02:00:00.000000Z<", b"<RecordedAt>2023-05-03T02:00:00Z<")
    same(read(page, tmp_path), without_empty_text(sample()))


# --- Attacks ------------------------------------------------------------------------------------------------------

LOL = "<!DOCTYPE l [<!ENTITY a0 'lol'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))


def endless(begin: bytes, filler: bytes, times: int = 200) -> Iterator[bytes]:
    """Yield a document with a valid beginning and 200 MB of rest."""
    head, _, _ = PAGE.partition(b"Nguy")
    yield head + begin
    for _ in range(times):
        yield filler * (MB // len(filler))


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE EPIDataResponse>",
        "<!DOCTYPE e SYSTEM 'file:///etc/passwd'>",
        "<!DOCTYPE e [<!ENTITY x SYSTEM 'http://127.0.0.1:1/'>]>",
        LOL + "]>",
        "<!DOCTYPE e [<!ENTITY % p SYSTEM 'http://127.0.0.1:1/'> %p;]>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_doctype_is_refused_whatever_it_declares(doctype: str, encoding: str) -> None:
    text = PAGE.decode().replace("?>\n", f"?>\n{doctype}\n", 1).replace("51824753556", "&a9;")
    page = text.replace("UTF-8", encoding.upper(), 1).encode(encoding)
    started = time.process_time()
    facts = inspect(page)
    assert "a DOCTYPE (and with it, entities) is not allowed in a document" in facts.errors[-1]
    assert time.process_time() - started < 5
    assert facts.size == len(page)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "filler"),
    [
        (b"", b"x"),
        (b"", b"\n"),
        (b"", b"x\n"),
        (b"", b"\xf0\x9f\xa6\x98"),
        (b"", b"&#88;"),
        (b"<![CDATA[", b"<"),
        (b"<![CDATA[", b"<x\n"),
        (b"<!--", b"<x"),
        (b"<?a", b"<x\n"),
        (b"<", b"x"),
        (b"<x a='", b"x"),
        (b"<x ", b"a='1' "),
        (b"", b"<x>"),
        (b"", b"</x>"),
        (b"", b"<x/>"),
    ],
    ids=repr,
)
def test_bombs_are_refused_quickly_and_in_little_memory(begin: bytes, filler: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    facts = EPI.inspect_page(endless(begin, filler))
    assert not facts.valid
    assert facts.size > 190 * MB, "size and digest are of the whole file"
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024


def test_size_and_digest_cover_the_whole_file() -> None:
    chunks = [b"<!DOCTYPE x>\n", b"<rest/>\n" * 10, b"<end/>"]
    facts = EPI.inspect_page(chunks)
    assert (len(facts.errors), facts.size) == (1, len(b"".join(chunks)))
    assert facts.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()


def test_empty_file_ends_on_its_first_line() -> None:
    (error,) = EPI.inspect_page([]).errors
    assert error.startswith("line 1: not well-formed XML")


# --- Lines --------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30)))
def test_pieces_form_the_document_with_line_numbers(chunks: list[bytes]) -> None:
    document = b"".join(chunks)
    pieces = list(Lines(chunks))
    assert b"".join(piece for _, piece in pieces) == document
    at = 0
    for line, piece in pieces:
        assert line == document.count(b"\n", 0, at) + 1
        assert piece
        assert b"\n" not in piece[:-1]
        at += len(piece)


def test_leading_empty_line_is_a_piece_of_its_own() -> None:
    assert list(Lines([b"\n<a>\n\n</a>"])) == [(1, b"\n"), (2, b"<a>\n"), (3, b"\n"), (4, b"</a>")]


def test_long_lines_come_in_pieces() -> None:
    document = b"a" * (3 * PIECE + 5) + b"\n" + b"b" * PIECE + b"\n" + b"c" * (2 * PIECE)
    for chunk in (1000, PIECE, len(document)):
        pieces = list(Lines(document[at : at + chunk] for at in range(0, len(document), chunk)))
        assert b"".join(piece for _, piece in pieces) == document
        assert all(len(piece) <= PIECE for _, piece in pieces)
        assert next(line for line, _ in pieces) == 1
        assert {line for line, piece in pieces if b"c" in piece} == {3}


def test_block_ends_before_its_closing_line_after_an_empty_block() -> None:
    source = Lines([b"\n</a>\n<b>\n"])
    assert source.block(b"</a>", PIECE) == (1, b"\n")
    assert source.block(b"</a>", PIECE) == (2, b"")


def test_reader_holds_no_more_than_requested() -> None:
    taken: list[int] = []

    def lines() -> Iterator[bytes]:
        for at in range(1000):
            taken.append(at)
            yield b"<a>\n"

    source = Lines(lines())
    next(iter(source))
    assert len(taken) == 1
    assert source.block(b"</a>", 40) == (2, b"<a>\n" * 10)
    assert len(taken) == 11
