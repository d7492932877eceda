"""The two files: golden bytes, an independent writer's bytes, back to the same frames, refused if damaged."""

from __future__ import annotations

import datetime as dt
import gzip
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.documents import csv_reader
from classfeed_dagster.documents.class_cash import CLASS_CASH
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.documents.csv_reader import UnreadableFileError, lines_of
from classfeed_dagster.documents.document_format import (
    CurrencyTotals,
    DocumentFormat,
    PageInspection,
    PageRule,
    Totals,
    file_chunks,
    paging_of,
)
from classfeed_dagster.domains.columns import MOVEMENT_TRANSACTIONS
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.published import contract_notes, needs_contract_notes

GOLDEN = Path(__file__).parent / "golden"
FORMATS = (CLASS_TRADE, CLASS_CASH)

BUY = make.trade(1001)
SELL = make.trade(
    1002,
    transaction_type="SELL",
    units=Decimal("-397"),
    price=Decimal("21.88"),
    consideration=Decimal("8686.36"),
    net_amount=Decimal("8676.86"),
    security_code="WPL",
    isin=None,
)
FOREIGN = make.trade(
    999,
    "SW00000002",
    exchange="NYSE",
    security_code="T",
    isin="US00206R1023",
    currency="USD",
    units=Decimal("1.5"),
    confirmation_number='=HYPERLINK("x")',
)
TRADES = (BUY, SELL, FOREIGN, make.reversal_of(SELL, 1010))

DEPOSIT = make.cash(20, "1000.00", narrative='Deposit, "first"')
FORMULA = make.cash(3, "-12.34", transaction_type="CASH_FEE", narrative="=cmd|' /C calc'!A0", relates_to="T1001")
BREAK = make.cash(100, "0.10", transaction_type="CASH_INTEREST", narrative="line\nbreak é 🙂", relates_to="I77")
OPENING = {**make.cash(0, "55.00", narrative=None), "transaction_type": "OPENING_CASH"}
DOLLARS: dict[str, Any] = {"account_number": "USD1", "bsb": None, "currency": "USD"}
CASH = (
    DEPOSIT,
    FORMULA,
    BREAK,
    make.reversal_of(DEPOSIT, 101),
    make.cash(21, "-7.00", **DOLLARS, narrative="-7.00"),
    {**OPENING, "transaction_id": "OC-SW00000002-9-20230505", "portfolio_number": "SW00000002"},
)
BALANCES = (
    make.balance("987.76"),
    make.balance("-7.00", **DOLLARS, available_balance=Decimal("-107.00")),
    make.balance("55.00", "SW00000002"),
    make.balance("0.00", "SW00000003", account_number="1"),
)
ACCOUNTS = (
    make.account("SW00000001"),
    make.account("SW00000002", hin=None),
    make.account("SW00000003"),
    make.account("SW00000004", consent="REMOVED", extract="NONE", hin=None),
)
FRAMES = make.frames(ACCOUNTS, [*TRADES, *CASH], BALANCES)
FILES = {document.name: make.written(document, [FRAMES]) for document in FORMATS}


@pytest.mark.parametrize("document", FORMATS, ids=lambda item: item.name)
def test_golden_file_is_reproduced(document: Any) -> None:
    assert FILES[document.name] == (GOLDEN / f"{document.name}_20230505_r0.csv").read_bytes()


@pytest.mark.parametrize("document", FORMATS, ids=lambda item: item.name)
def test_empty_day_gives_first_and_last_line(document: Any) -> None:
    empty = make.written(document, [make.frames(ACCOUNTS)])
    assert empty == f"H,{document.name},2023-05-05,7,0,2023-05-05T20:15:00.123456Z\r\nT,0,\r\n".encode()
    assert document.inspect_page([empty]).valid
    assert make.written(document, []) == empty


def test_csv_files_have_their_names_and_shape() -> None:
    for document in FORMATS:
        assert document.page_rule is PageRule.ONE_FILE
        checked: DocumentFormat = document
        head = make.header(document.name, revision=3)
        assert checked.file_stem(head) + document.extension == f"{document.name}_20230505_r3.csv"
        paging = paging_of(checked, 5)
        assert ([paging.add(10), paging.add(10)], paging.pages) == ([1, 1], [range(2)])
    assert CLASS_TRADE.ledgers == {"T"}
    assert CLASS_CASH.ledgers == {"C"}
    assert CLASS_TRADE.domains == ("account_details", "movement_transactions")
    assert CLASS_CASH.domains == ("account_details", "account_balances", "movement_transactions")


def test_csv_format_is_one_file_never_paged() -> None:
    with pytest.raises(ValueError, match="one file a revision, not page 2 of 2"):
        list(CLASS_TRADE.page(make.header("class_trade", page=2), Totals(), {}))


def test_portfolio_without_lines_renders_no_bytes() -> None:
    rendered = {portfolio.number: portfolio for portfolio in CLASS_TRADE.render(FRAMES)}
    assert list(rendered) == sorted(rendered)
    assert rendered["SW00000004"].size == rendered["SW00000003"].size == 0
    assert rendered["SW00000003"].totals == Totals()
    assert rendered["SW00000001"].totals.currencies == {"AUD": CurrencyTotals(net_amount=Decimal("692.60"))}


@pytest.mark.parametrize("document", FORMATS, ids=lambda item: item.name)
def test_inspection_finds_the_totals_of_rendering(document: Any) -> None:
    data = FILES[document.name]
    facts = document.inspect_page([data[at : at + 7] for at in range(0, len(data), 7)])
    assert facts.errors == ()
    assert facts.header == {
        "Feed": document.name,
        "BusinessDate": "2023-05-05",
        "SequenceNumber": "7",
        "Revision": "0",
        "SnapshotAt": "2023-05-05T20:15:00.123456Z",
    }
    rendered = list(document.render(FRAMES))
    assert facts.totals == sum((portfolio.totals for portfolio in rendered), Totals())
    assert facts.portfolios == {"details": {portfolio.number for portfolio in rendered if portfolio.size}}
    assert facts.removed == frozenset()
    assert facts.stated is not None
    assert facts.stated.counts == facts.totals.counts
    assert facts.size == len(data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reader_returns_the_movements_and_balances(tmp_path: Path, suffix: str) -> None:
    for document in FORMATS:
        path = tmp_path / f"{document.name}.csv{suffix}"
        data = FILES[document.name]
        path.write_bytes(gzip.compress(data) if suffix else data)
        read = document.read(path)
        movements = make.frame(MOVEMENT_TRANSACTIONS, TRADES if document is CLASS_TRADE else CASH)
        assert read["movement_transactions"].equals(movements)
        assert ("account_balances" in read) is (document is CLASS_CASH)
        if document is CLASS_CASH:
            assert read["account_balances"].equals(FRAMES["account_balances"])


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "class_trade.csv.gz"
    for damaged in (b"plain", gzip.compress(FILES["class_trade"])[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFileError, match="cannot be unpacked"):
            CLASS_TRADE.read(path)


# --- the same bytes as the reference writer's ------------------------------------------------------------------------

words = st.text(
    st.sampled_from("=+-@'\",\r\n \t;é🙂1.") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=1,
    max_size=12,
)
money = st.decimals(Decimal("-9999999.99"), Decimal("9999999.99"), places=2)
units = st.decimals(Decimal("-999.999999"), Decimal("999.999999"), places=6)
numbers = st.sampled_from(["SW1", "SW10", "SW2", "A-1"])
dates = st.dates(dt.date(1990, 1, 1), dt.date(2035, 12, 31))
instants = st.integers(0, 10**15).map(lambda micros: make.RECORDED_AT + dt.timedelta(microseconds=micros - 5 * 10**14))


plain_words = st.text(st.sampled_from("=+-@'\",1.aZ"), min_size=1, max_size=12)  # what the reference writer can guard


@st.composite
def trade_rows(draw: st.DrawFn, text: st.SearchStrategy[str] = words) -> list[dict[str, Any]]:
    ids = draw(st.lists(st.integers(1, 10**12), unique=True, max_size=6))
    return [
        make.trade(
            number,
            draw(numbers),
            transaction_type=draw(st.sampled_from(["BUY", "SELL"])),
            transaction_date=draw(dates),
            recorded_at=draw(instants),
            units=draw(units),
            net_amount=draw(money),
            isin=draw(st.none() | text),
            confirmation_number=draw(text),
            currency=draw(st.sampled_from(["AUD", "USD", "NZD"])),
            reverses=draw(st.none() | st.just("T5")),
        )
        for number in ids
    ]


@st.composite
def cash_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(st.integers(1, 10**12), unique=True, max_size=6))
    return [
        make.cash(
            number,
            str(draw(money)),
            draw(numbers),
            transaction_type=draw(st.sampled_from(["CASH_FEE", "CASH_TAX"])),
            narrative=draw(words),
            recorded_at=draw(instants),
            relates_to=draw(st.sampled_from([None, "T4", "I9"])),
        )
        for number in ids
    ]


ALL_NUMBERS = ("A-1", "SW1", "SW10", "SW2")


@examples(25)
@given(trade_rows(plain_words), st.randoms(use_true_random=False))
def test_trade_file_equals_the_reference(rows: list[dict[str, Any]], shuffle: random.Random) -> None:
    accounts = [make.account(number) for number in ALL_NUMBERS]
    lines = [
        ["D", *make.reference_trade_fields(row, "X0012345678")]
        for row in sorted(rows, key=lambda row: (row["portfolio_number"], int(row["transaction_id"][1:])))
    ]
    sums: dict[str, Decimal] = {}
    for row in rows:
        sums[row["currency"]] = sums.get(row["currency"], Decimal(0)) + row["net_amount"]
    first = ["H", "class_trade", "2023-05-05", "7", "0", "2023-05-05T20:15:00.123456Z"]
    expected = make.reference_file(first, lines, sums)
    shuffle.shuffle(rows)
    assert make.written(CLASS_TRADE, [make.frames(accounts, rows)]) == expected


@examples(25)
@given(trade_rows(), cash_rows())
def test_csv_file_of_any_text_is_read_back_and_slices_change_no_byte(
    trades: list[dict[str, Any]], cash: list[dict[str, Any]]
) -> None:
    accounts = [make.account(number) for number in ALL_NUMBERS]
    balances = [make.balance("1.00", number) for number in ALL_NUMBERS]
    rows = [*trades, *cash]
    whole = make.frames(accounts, rows, balances)
    sliced = [
        {name: frame.filter(pl.col("portfolio_number") == number) for name, frame in whole.items()}
        for number in ALL_NUMBERS
    ]
    for document, mine in ((CLASS_TRADE, trades), (CLASS_CASH, cash)):
        data = make.written(document, [whole])
        assert make.written(document, sliced) == data
        assert document.inspect_page([data]).errors == ()
        lines = lines_of(document.layout, [data])["D"]
        for column, text in (("confirmation_number", "confirmation_number"), ("description", "narrative")):
            if column in lines.columns:
                assert sorted(lines[column]) == sorted(row[text] for row in mine)


def test_cash_file_equals_the_reference() -> None:
    expected: list[list[str]] = []
    plain = [row for row in CASH if row["portfolio_number"] == "SW00000001"]
    ordered = sorted(plain, key=lambda row: (row["account_number"], int(row["transaction_id"][1:])))
    for balance in BALANCES[:2]:
        mine = [row for row in ordered if row["account_number"] == balance["account_number"]]
        expected += [["D", *make.reference_cash_fields(row)] for row in mine]
        expected.append(["B", *(str(balance[name] or "") for name in make.BALANCE_COLUMNS)])
    head = ["H", "class_cash", "2023-05-05", "7", "0", "2023-05-05T20:15:00.123456Z"]
    sums = {"AUD": Decimal("-12.24"), "USD": Decimal("-7.00")}
    only_first = {name: frame.filter(pl.col("portfolio_number") == "SW00000001") for name, frame in FRAMES.items()}
    assert make.written(CLASS_CASH, [only_first]) == make.reference_file(head, expected, sums)


# --- what can't be written is said before, by portfolio --------------------------------------------------------------


def test_value_that_the_files_cannot_carry_is_a_finding() -> None:
    rows = [
        make.trade(1, confirmation_number=""),
        make.trade(2, "SW00000002", price=None),
        make.trade(3, "SW00000003", currency="aud"),
        make.cash(4, "1.00", "SW00000003", account_number="999"),
    ]
    frames = make.frames(ACCOUNTS, rows, BALANCES)
    findings = CLASS_TRADE.check_representable(frames)
    assert findings.select("portfolio_number", "rule", "subject", "detail").rows() == [
        ("SW00000001", "class_trade_incomplete", "T1", "the row T1 has no confirmation_number"),
        ("SW00000002", "class_trade_incomplete", "T2", "the row T2 has no price"),
        ("SW00000003", "class_trade_currency", "T3", "the row T3 has a currency that is not three capital letters"),
    ]
    assert set(findings["severity"]) == {"QUARANTINE"}
    orphans = CLASS_CASH.check_representable(frames)
    assert orphans.select("portfolio_number", "rule", "subject").rows() == [
        ("SW00000003", "class_cash_no_balance", "C4")
    ]
    assert "999" not in orphans["detail"][0]
    assert CLASS_TRADE.check_representable(FRAMES).is_empty()
    assert CLASS_CASH.check_representable(FRAMES).is_empty()


# --- damage -----------------------------------------------------------------------------------------------------------


def examined(document: Any, data: bytes) -> PageInspection:
    facts: PageInspection = document.inspect_page([data])
    return facts


TRADE, CASHFILE = FILES["class_trade"], FILES["class_cash"]
LINES = TRADE.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("document", "data", "says"),
    [
        (CLASS_TRADE, b"", "line 1 is not a header"),
        (CLASS_TRADE, b"\xef\xbb\xbf" + TRADE, "line 1 is not a header"),
        (CLASS_TRADE, TRADE.replace(b"2023-05-05,7", b"05/05/2023,7", 1), "line 1 is not a header"),
        (CLASS_TRADE, b"".join(LINES[:-1]), "the trailer is missing"),
        (CLASS_TRADE, b"".join([*LINES[:2], *LINES[3:]]), "the trailer states 4 detail lines, the file has 3"),
        (CLASS_TRADE, b"".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]), "line 3 is out of order or a duplicate"),
        (CLASS_TRADE, b"".join([*LINES[:2], *LINES[1:]]), "line 3 is out of order or a duplicate"),
        (CLASS_TRADE, TRADE + LINES[1], "comes after the trailer"),
        (CLASS_TRADE, TRADE.replace(b"\r\n", b"\n"), "line ends or quoting"),
        (CLASS_TRADE, TRADE.replace(b",ASX,", b',"ASX",', 1), "line ends or quoting"),
        (CLASS_TRADE, TRADE.replace(b",692.60,", b",692.61,", 1), "the control total is not the sum"),
        (CLASS_TRADE, TRADE.replace(b"T,4,AUD", b"T,4,aud"), "the control total is not <currency>:<sum>"),
        (CLASS_TRADE, TRADE.replace(b"T,4,", b"T,four,"), "the last line is not a trailer"),
        (CLASS_TRADE, TRADE.replace(b",0.180000,", b",0.18,", 1), "1 D lines from line 2 on have no valid price"),
        (CLASS_TRADE, TRADE.replace(b",0.180000,", b",1.8e-1,", 1), "have no valid price"),
        (CLASS_TRADE, TRADE.replace(b",0.180000,", b",,", 1), "lack price"),
        (CLASS_TRADE, TRADE.replace(b"2023-05-09", b"2023-02-30", 1), "is impossible"),
        (CLASS_TRADE, TRADE.replace(b",ASX,", b",ASX,ASX,", 1), "line 2 is not a line of this file: 22 fields"),
        (CLASS_TRADE, TRADE.replace(b"'=HYPERLINK", b"=HYPERLINK"), "have no valid confirmation_number"),
        (CLASS_TRADE, TRADE.replace(b"MBH", b"M\xffH", 1), "not UTF-8"),
        (CLASS_TRADE, TRADE.replace(b",ASX,", b',"AS"X,', 1), "not CSV"),
        (CLASS_TRADE, CASHFILE, "is not a line of this file"),
        (CLASS_CASH, CASHFILE.replace(b"B,SW00000002", b"B,SW00000001", 1), "has no balance line after its details"),
        (CLASS_CASH, CASHFILE[: CASHFILE.index(b"B,")] + b"T,4,AUD:987.76\r\n", "has no balance line after"),
    ],
)
def test_damage_is_named_and_refused(document: Any, data: bytes, says: str) -> None:
    facts = examined(document, data)
    assert any(says in error for error in facts.errors), facts.errors
    assert facts.size == len(data)
    with pytest.raises(UnreadableFileError, match=f"Not a {document.name} file"):
        lines_of(document.layout, [data])


def test_changed_byte_is_always_detected() -> None:
    # Whatever byte is changed, the file is refused or its digest is another; a changed figure is always refused.
    generator = random.Random(5)
    digest = examined(CLASS_TRADE, TRADE).sha256
    figures = range(TRADE.index(b",3795"), TRADE.index(b",AUD"))
    for at in generator.sample(range(len(TRADE)), 50):
        changed = bytearray(TRADE)
        changed[at] = generator.choice([byte for byte in b'0123456789,"\r\nAz' if byte != TRADE[at]])
        facts = examined(CLASS_TRADE, bytes(changed))
        assert facts.errors or facts.sha256 != digest
        if at in figures and TRADE.find(b"692.60") <= at < TRADE.find(b"692.60") + 6:
            assert facts.errors


def test_errors_hold_no_values_and_are_limited() -> None:
    rows = [make.cash(at, "1.00", narrative=f"secret {at}") for at in range(100)]
    data = make.written(CLASS_CASH, [make.frames(ACCOUNTS, rows, BALANCES)])
    lines = data.splitlines(keepends=True)
    mixed = b"".join([lines[0], *reversed(lines[1:101]), *lines[101:]])
    facts = examined(CLASS_CASH, mixed)
    assert len(facts.errors) == 20
    assert not any("secret" in error or "100200300" in error for error in facts.errors)


def test_file_longer_than_a_batch_is_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_BATCH", 3)
    rows = [make.cash(at, "0.01") for at in range(1, 11)]
    data = make.written(CLASS_CASH, [make.frames(ACCOUNTS[:1], rows, BALANCES[:1])])
    facts = examined(CLASS_CASH, data)
    assert facts.errors == ()
    assert facts.totals.currencies["AUD"].cash_amount == Decimal("0.10")


def test_portfolio_numbers_that_look_like_formulas_keep_their_order() -> None:
    numbers = ["'x", "+a", "-b", "=c", "SW1"]
    frames = make.frames(
        [make.account(number) for number in numbers],
        [make.trade(at, number) for at, number in enumerate(numbers, start=1)],
    )
    facts = examined(CLASS_TRADE, make.written(CLASS_TRADE, [frames]))
    assert facts.errors == ()
    assert facts.portfolios["details"] == set(numbers)


# --- the real contract notes ------------------------------------------------------------------------------------------


@needs_contract_notes
def test_real_contract_notes_are_exact_to_the_cent(tmp_path: Path) -> None:
    notes = contract_notes()
    rows = []
    for at, note in enumerate(notes, start=1):
        fees = sum(Decimal(note[name] or "0") for name in ("adviser_fee", "misc_fees"))
        sign = -1 if note["side"] == "SELL" else 1
        rows.append(
            make.trade(
                at,
                transaction_type=note["side"],
                transaction_date=dt.date.fromisoformat(note["trade_date"]),
                settlement_date=dt.date.fromisoformat(note["settlement_date"]),
                confirmation_number=note["reference"],
                security_code=note["security_code"],
                isin=note["isin"],
                units=sign * Decimal(note["units"]),
                price=Decimal(note["price"]),
                consideration=Decimal(note["consideration"]),
                brokerage=Decimal(note["brokerage"]),
                gst=Decimal(note["gst"]),
                other_fees=fees,
                net_amount=Decimal(note["net_value"]),
            )
        )
    path = tmp_path / "notes.csv"
    path.write_bytes(make.written(CLASS_TRADE, [make.frames(ACCOUNTS, rows)]))
    lines = lines_of(CLASS_TRADE.layout, file_chunks(path))["D"]
    for note, line in zip(notes, lines.iter_rows(named=True), strict=True):
        for ours, theirs in (("gst", "gst"), ("net_amount", "net_value"), ("consideration", "consideration")):
            assert line[ours] == Decimal(note[theirs])
        assert line["units"] == Decimal(note["units"])
        assert line["settlement_date"] == dt.date.fromisoformat(note["settlement_date"])
    assert path.read_bytes().splitlines()[-1] == f"T,{len(notes)},AUD:{sum(lines['net_amount'])}".encode()
