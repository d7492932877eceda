"""The writer: bytes that lxml would write, the same whatever the slices, and the golden document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents import epi_writer
from classfeed_dagster.documents.document_format import (
    CurrencyTotals,
    DocumentFormat,
    RenderedPortfolio,
    Totals,
    paging_of,
)
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.documents.epi_writer import CHUNK, FrameShapeError
from classfeed_dagster_tests.fixtures.epi_data import (
    HEADER,
    Frames,
    account,
    any_frames,
    by_lxml,
    cash,
    frames_of,
    holding,
    page_of,
    pages_of,
    removed,
    sample,
    trade,
)
from classfeed_dagster_tests.fixtures.examples import examples

GOLDEN = Path(__file__).parent / "data" / "class_super-20230503-r0-p1.xml"


def canonical(document: bytes | etree._Element) -> bytes:
    tree = etree.fromstring(document) if isinstance(document, bytes) else document
    return etree.tostring(tree, method="c14n")


def test_golden_document_is_reproduced() -> None:
    # A difference here changes what the recipient gets: look at it, then replace the file.
    assert page_of(sample()) == GOLDEN.read_bytes()


def test_golden_document_obeys_the_xsd() -> None:
    compiled().assertValid(etree.parse(GOLDEN))


@examples(60)
@given(any_frames())
def test_document_of_any_content_is_valid_and_equals_lxmls(frames: Frames) -> None:
    page = page_of(frames)
    assert canonical(page) == canonical(by_lxml(frames, page))
    assert compiled().validate(etree.fromstring(page)), compiled().error_log
    assert not EPI.check_representable(frames).height


@examples(25)
@given(any_frames(), st.integers(0, 1000))
def test_slices_row_order_and_blocks_change_no_byte(frames: Frames, seed: int) -> None:
    whole = list(EPI.render(frames))
    shuffled = {name: frame.sample(fraction=1, shuffle=True, seed=seed) for name, frame in frames.items()}
    assert list(EPI.render(shuffled)) == whole
    sliced = [
        portfolio
        for number in sorted(frames["accounts"]["portfolio_number"])
        for portfolio in EPI.render(
            {name: frame.filter(pl.col("portfolio_number") == number) for name, frame in frames.items()}
        )
    ]
    assert sliced == whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epi_writer, "BLOCK_ROWS", 1)
        assert list(EPI.render(frames)) == whole


def test_record_of_any_text_is_one_line() -> None:
    frames = frames_of({"accounts": [account("P1", portfolio_name="a\nb\r\nc"), account("P2")]})
    lines = page_of(frames).split(b"\n")
    assert sum(line.startswith(b"<Account ") and line.endswith(b"</Account>") for line in lines) == 2


def test_portfolios_are_ordered_by_code_point_with_their_own_totals() -> None:
    rendered = list(EPI.render(sample()))
    assert [slice_.number for slice_ in rendered] == ["SW00000001", "SW00000002", "SW00000003", "SW00000010"]
    first = rendered[0].totals
    assert first.counts == {
        "AccountDetails": 1,
        "AccountBalances": 2,
        "InvestmentHoldings": 2,
        "MovementTransactions": 4,
    }
    assert first.currencies["AUD"] == CurrencyTotals(
        ledger_balance=Decimal("1234.50"),
        market_value=Decimal("4451.00"),
        cash_credits=Decimal("0.01"),
        cash_debits=Decimal("-1789.90"),
        net_amount=Decimal("1789.90"),
    )
    assert first.units_held == Decimal("200.000000")
    assert first.units_moved == Decimal("36.500000")
    assert rendered[1].totals.units_moved == Decimal("-40.000000"), "an income's units move nothing"
    assert rendered[2].sections["InvestmentHoldings"] == b""
    assert rendered[2].size == len(rendered[2].sections["AccountDetails"])


def test_writer_removed_account_has_number_and_reference_only() -> None:
    rows = {"accounts": [account("P1", consent="REMOVED", extract="NONE")]}
    bare = {"accounts": [removed("P1")]}
    assert page_of(frames_of(rows)) == page_of(frames_of(bare))


def test_page_without_records_has_four_empty_sections() -> None:
    page = b"".join(EPI.page(HEADER, Totals(), {}))
    assert compiled().validate(etree.fromstring(page))
    for section in epi.SECTIONS:
        assert f"<{section.name}/>".encode() in page
        assert f"<{section.counted_as}>0</{section.counted_as}>".encode() in page


def test_page_is_never_held_whole_in_memory() -> None:
    taken: list[int] = []

    def chunks() -> Iterator[bytes]:
        for at in range(100):
            taken.append(at)
            yield b" " * (CHUNK // 4)

    records = chunks()
    sizes = []
    for chunk in EPI.page(HEADER, Totals(), {"AccountDetails": records}):
        sizes.append(len(chunk))
        assert len(taken) <= 5 * len(sizes)
    assert sum(sizes) > 100 * CHUNK // 4
    assert max(sizes) < 2 * CHUNK


def test_reissue_names_what_it_replaces() -> None:
    header = type(HEADER)(
        **{name: getattr(HEADER, name) for name in HEADER.__slots__}
        | {"revision": 2, "replaces": "class_super-20230503-r1-p1", "page_number": 2, "page_count": 3}
    )
    root = etree.fromstring(b"".join(EPI.page(header, Totals(), {})))
    assert root.findtext(f".//{epi.tag('Replaces')}") == "class_super-20230503-r1-p1"
    assert root.findtext(f".//{epi.tag('MessageId')}") == "class_super-20230503-r2-p2"
    assert EPI.file_stem(header) == "class_super-20230503-r2-p2"


def test_instants_are_written_to_the_microsecond_in_utc() -> None:
    sydney = dt.timezone(dt.timedelta(hours=10))
    row = trade("P1", recorded_at=dt.datetime(2023, 5, 3, 12, 0, tzinfo=sydney).astimezone(dt.UTC))
    page = page_of(frames_of({"accounts": [account("P1")], "movement_transactions": [row]}))
    assert b"<RecordedAt>2023-05-03T02:00:00.000000Z</RecordedAt>" in page


def test_control_totals_are_never_minus_zero_and_never_rounded() -> None:
    page = b"".join(EPI.page(HEADER, Totals(currencies={"AUD": CurrencyTotals(net_amount=Decimal("-0"))}), {}))
    assert b"<NetAmount>0.00</NetAmount>" in page
    with pytest.raises(ValueError, match="UnitsHeld .* not of the form"):
        list(EPI.page(HEADER, Totals(units_held=Decimal("0.0000001")), {}))
    with pytest.raises(ValueError, match="UnitsMoved .* not of the form"):
        list(EPI.page(HEADER, Totals(units_moved=Decimal(10) ** 14), {}))


def test_page_takes_its_own_sections_only() -> None:
    with pytest.raises(ValueError, match="no sections"):
        list(EPI.page(HEADER, Totals(), {"Details": [b""]}))


def test_page_is_written_in_large_chunks() -> None:
    record = b"x" * 1000
    chunks = list(EPI.page(HEADER, Totals(), {"AccountDetails": [record] * 2000}))
    assert len(chunks) < 12
    assert b"".join(chunks).count(record) == 2000


def test_attribute_cannot_break_out_of_its_quotes() -> None:
    # ``check_representable`` refuses such a value. If rendered, it must not become markup.
    frames = frames_of({"accounts": [account("P1", extract='A" b="<\t')]})
    root = etree.fromstring(page_of(frames))
    assert root.find(f".//{epi.tag('Account')}").get("extract") == 'A" b="<\t'  # type: ignore[union-attr]
    assert EPI.check_representable(frames)["rule"].to_list() == ["unknown_value"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"accounts": [account("P1"), account("P1")]}, "two rows for one portfolio"),
        ({"accounts": [account("P1", status=None)]}, "details is incomplete"),
        ({"accounts": [account("P1", recipient_reference=None)]}, "nulls in"),
        ({"accounts": [account("P1")], "investment_holdings": [holding("P1", price=None)]}, "price is incomplete"),
        (
            {"accounts": [account("P1")], "movement_transactions": [trade("P1", currency=None)]},
            "currency is incomplete",
        ),
        ({"accounts": [account("P1")], "movement_transactions": [cash("P2")]}, "without an account or REMOVED"),
        ({"accounts": [removed("P1")], "movement_transactions": [cash("P1")]}, "without an account or REMOVED"),
    ],
)
def test_frame_that_no_document_can_hold_is_refused(rows: dict[str, list[dict[str, object]]], says: str) -> None:
    with pytest.raises(FrameShapeError, match=says):
        list(EPI.render(frames_of(rows)))


def test_frames_of_the_wrong_shape_are_refused() -> None:
    frames = sample()
    with pytest.raises(FrameShapeError, match="is missing"):
        list(EPI.render({name: frame for name, frame in frames.items() if name != "accounts"}))
    with pytest.raises(FrameShapeError, match="ledger_balance"):
        floats = frames["account_balances"].with_columns(pl.col("ledger_balance").cast(pl.Float64))
        EPI.check_representable(frames | {"account_balances": floats})


@given(st.lists(st.integers(0, 100)), st.integers(1, 200))
def test_pages_hold_whole_portfolios_under_the_limit(sizes: list[int], limit: int) -> None:
    pages = pages_of(sizes, limit)
    assert [at for page in pages for at in page] == list(range(len(sizes)))
    assert all(len(page) == 1 or sum(sizes[at] for at in page) <= limit for page in pages if sizes)
    paging = paging_of(EPI, limit)
    on_page = [paging.add(size) for size in sizes]
    assert paging.pages == pages
    assert on_page == [number for number, page in enumerate(pages, 1) for _ in page]


def test_pages_stay_under_their_limit_as_documents() -> None:
    rendered = [
        slice_
        for n in range(40)
        for slice_ in EPI.render(frames_of({"accounts": [account(f"P{n:02}")], "cash_accounts": []}))
    ]
    limit, around = 4_000, len(b"".join(EPI.page(HEADER, Totals(), {}))) + 200
    for on_page in pages_of([slice_.size for slice_ in rendered], limit - around):
        some: list[RenderedPortfolio] = rendered[on_page.start : on_page.stop]
        totals = sum((portfolio.totals for portfolio in some), Totals())
        page = b"".join(
            EPI.page(HEADER, totals, {"AccountDetails": [portfolio.sections["AccountDetails"] for portfolio in some]})
        )
        assert len(page) <= limit
        assert EPI.inspect_page([page]).valid


def test_format_implements_the_base_class() -> None:
    document: DocumentFormat = EPI
    assert (document.name, document.extension) == ("epi", ".xml")
    assert document.domains == ("account_details", "account_balances", "investment_holdings", "movement_transactions")
