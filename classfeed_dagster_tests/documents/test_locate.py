"""Position of a record in a document, to the byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from lxml import etree

from classfeed_dagster.documents import locate as locate_module
from classfeed_dagster.documents.document_format import Place
from classfeed_dagster.documents.locate import NotAPageError, excerpt
from classfeed_dagster.documents.locate import locate_element as locate
from classfeed_dagster_tests.fixtures.epi_data import account, cash, frames_of, page_of, sample, trade

PAGE = page_of(sample())


@pytest.fixture(params=["page.xml", "page.xml.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    path.write_bytes(gzip.compress(PAGE) if path.suffix == ".gz" else PAGE)
    return path


@pytest.fixture(params=[1 << 18, 500, 7, 1])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the size of the blocks in which files are read: a record may lie across two."""
    size: int = request.param

    def chunks(path: Path) -> list[bytes]:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [content[at : at + size] for at in range(0, len(content), size)]

    monkeypatch.setattr(locate_module, "file_chunks", chunks)
    return size


@pytest.mark.parametrize("key", ["T1", "C1", "C2", "S1", "I1", "T9"])
@pytest.mark.usefixtures("block")
def test_movement_is_located_to_the_byte(path: Path, key: str) -> None:
    (place,) = locate(path, key)
    assert place.element == "MovementTransaction"
    record = PAGE[place.offset : place.offset + place.length]
    assert excerpt(path, place) == record
    assert PAGE.split(b"\n")[place.line - 1] == record, "its line is the record, and nothing else"
    assert etree.fromstring(record).findtext("TransactionId") == key


@pytest.mark.parametrize(
    "key", [("SW00000001", "ASX", "BHP"), ("SW00000001", "NYSE", "BRK.B"), ("SW00000002", "ASX", "BHP")]
)
@pytest.mark.usefixtures("block")
def test_holding_is_located_by_its_key(path: Path, key: tuple[str, str, str]) -> None:
    (place,) = locate(path, key)
    record = etree.fromstring(excerpt(path, place))
    assert place.element == record.tag == "InvestmentHolding"
    assert tuple(record.findtext(name) for name in ("PortfolioNumber", "Exchange", "SecurityCode")) == key


@pytest.mark.parametrize("key", ["T", "T11", "t1", "", ("SW00000001", "ASX", "OLD"), ("SW00000010", "ASX", "BHP")])
def test_absent_record_is_not_located(path: Path, key: str | tuple[str, str, str]) -> None:
    assert locate(path, key) == []


def test_reference_to_a_transaction_is_not_located_as_it(path: Path) -> None:
    assert len(locate(path, "T1")) == 1, "a settlement relates to it, and isn't it"
    assert locate(path, "S0") == [], "named as reversed, not sent"


def test_records_of_one_id_are_all_located(tmp_path: Path) -> None:
    rows = {"accounts": [account("P1"), account("P2")], "movement_transactions": [trade("P1", "T5"), cash("P2", "T5")]}
    path = tmp_path / "page.xml"
    path.write_bytes(page_of(frames_of(rows)))
    assert [place.line for place in locate(path, "T5")] == [6, 7]


@pytest.mark.usefixtures("block")
def test_truncated_page_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "page.xml"
    path.write_bytes(PAGE[: PAGE.index(b"<Narrative>")])
    with pytest.raises(NotAPageError, match=r"page\.xml ends inside the record at line 16"):
        locate(path, "T9")


def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "page.xml.gz"
    path.write_bytes(gzip.compress(PAGE)[:-30])
    with pytest.raises(NotAPageError, match="cannot be read to its end"):
        locate(path, "T9")
    path.write_bytes(PAGE)
    with pytest.raises(NotAPageError, match="cannot be read to its end"):
        locate(path, "T9")
    with pytest.raises(NotAPageError, match="cannot be read to its end"):
        locate(tmp_path / "none.xml", "T9")


def test_record_without_end_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "page.xml"
    path.write_bytes(PAGE[: PAGE.index(b"<Narrative>")] + b"x" * (4 << 20))
    with pytest.raises(NotAPageError, match="line 16 has no end"):
        locate(path, "T9")


def test_key_outside_its_kind_of_record_is_ignored(tmp_path: Path) -> None:
    # Not a document of ours, but a result must still be a record that holds the key.
    holding = b"<InvestmentHolding><PortfolioNumber>P</PortfolioNumber></InvestmentHolding>"
    stray = b"<Exchange>ASX</Exchange><SecurityCode>BHP</SecurityCode>"
    path = tmp_path / "page.xml"
    path.write_bytes(stray + holding + stray + holding)
    assert locate(path, ("P", "ASX", "BHP")) == []


def test_excerpt_of_another_file_is_refused(path: Path) -> None:
    with pytest.raises(NotAPageError, match="ends before the record"):
        excerpt(path, Place("MovementTransaction", 1, len(PAGE) - 5, 10))
