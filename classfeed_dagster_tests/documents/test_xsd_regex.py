"""A line that the expression accepts is valid by lxml, however the line was changed."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents import epi_reader
from classfeed_dagster.documents import xsd_regex as epi_proof
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_schema import XS, compiled, schema_root
from classfeed_dagster.documents.xsd_regex import UnknownSchemaError, valid_line
from classfeed_dagster_tests.fixtures.epi_data import page_of, sample
from classfeed_dagster_tests.fixtures.examples import examples

PAGE = page_of(sample())
RECORDS = tuple(section.record.name for section in epi.SECTIONS)


def lines_of(page: bytes, record: str) -> list[str]:
    return [line for line in page.decode().split("\n") if line.startswith((f"<{record}>", f"<{record} "))]


LINES = {record: lines_of(PAGE, record) for record in RECORDS}
# What turns one thing into another in XML, and characters at the borders of what it admits.
BITS = [
    "<",
    ">",
    "&",
    "&amp;",
    "&#0;",
    "&x;",
    "]]>",
    '"',
    "'",
    " ",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "\ufffe",
    "\U0001f600",
]
BITS += [
    "-",
    "+",
    ".",
    "0",
    "9",
    "e",
    "Z",
    "é",
    "/",
    "</Units>",
    "<Units>1.000000</Units>",
    "<!-- -->",
    "24",
    "30",
    "02",
]


def admitted(record: str, lines: list[str]) -> list[bool]:
    return pl.Series(lines, dtype=pl.String).str.contains(valid_line(record)).to_list()


def valid(record: str, line: str) -> bool:
    """Return lxml's own answer, over the page with this line in the place of the record's first."""
    page = PAGE.decode().replace(LINES[record][0], line, 1).encode("utf-8", "surrogatepass")
    try:
        return compiled().validate(etree.fromstring(page))
    except etree.XMLSyntaxError:
        return False


@pytest.mark.parametrize("record", RECORDS)
def test_written_record_is_admitted_without_lxml(record: str) -> None:
    assert LINES[record]
    assert all(admitted(record, LINES[record]))


@given(st.data())
@examples(400)
def test_damaged_line_is_not_admitted_unless_lxml_finds_it_valid(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(RECORDS))
    line = data.draw(st.sampled_from(LINES[record]))
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(line))), data.draw(st.integers(0, 6))
        line = line[:at] + data.draw(st.sampled_from(["", *BITS])) + line[at + cut :]
    if "\n" not in line and admitted(record, [line])[0]:
        assert valid(record, line)


@given(st.data())
@examples(200)
def test_changed_value_is_not_admitted_unless_lxml_finds_it_valid(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(RECORDS))
    tree = etree.fromstring(data.draw(st.sampled_from(LINES[record])))
    leaf = data.draw(st.sampled_from([element for element in tree.iter() if not len(element)]))
    text = data.draw(
        st.text(max_size=8) | st.text("ABX019.:-_ ", max_size=70) | st.text("Aé", min_size=195, max_size=205)
    )
    try:
        leaf.text = text
    except ValueError:  # no XML can hold it
        return
    line = etree.tostring(tree, encoding="unicode")
    if "\n" not in line and admitted(record, [line])[0]:
        assert valid(record, line)


def test_date_pattern_admits_every_day_and_no_other() -> None:
    days = [dt.date(1900, 1, 1) + dt.timedelta(days=at) for at in range(366 * 201)]
    real = {day.isoformat() for day in days}
    texts = [f"{y}-{m:02}-{d:02}" for y in range(1900, 2101) for m in range(14) for d in range(33)]
    pattern = f"^{epi_proof._simple('CalendarDate')}$"
    sure = {text for text, ok in zip(texts, pl.Series(texts).str.contains(pattern), strict=True) if ok}
    assert sure <= real
    assert {day for day in real if "1901" <= day[:4] <= "2099"} == sure


@pytest.mark.parametrize("time", ["24:00:00", "23:60:00", "23:59:60", "2:00:00", "23:59:59.1"])
def test_time_pattern_admits_clock_times_only(time: str) -> None:
    texts = [f"2023-01-03T{time}Z", "2023-01-03T23:59:59Z", "2024-02-29T00:00:00.000000Z", "2023-02-29T00:00:00Z"]
    pattern = f"^{epi_proof._simple('Instant')}$"
    assert pl.Series(texts).str.contains(pattern).to_list() == [False, True, True, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<AccountBalances>\n', '<AccountBalances xmlns="urn:other">\n'),
        ('<AccountBalances>\n', '<AccountBalances xml:lang="en">\n'),
        ('<AccountBalances>\n', '<AccountBalances >\n'),
    ],
)  # fmt: skip
def test_lines_in_an_unusual_section_are_judged_by_lxml(old: str, new: str) -> None:
    page = PAGE.decode().replace(old, new)
    assert page != PAGE.decode()
    assert EPI.inspect_page([page.encode()]).valid == compiled().validate(etree.fromstring(page.encode()))


def test_plain_names_under_a_prefixed_namespace_are_not_admitted() -> None:
    begin, end = PAGE.decode().split("<AccountBalances>\n")
    text = begin.replace(" xmlns=", " xmlns:e=") + "<AccountBalances>\n" + end
    outer = ["EPIDataResponse", "Header", *[section.name for section in epi.SECTIONS], "ControlTotals"]
    for name in outer:
        text = (
            text.replace(f"<{name}>", f"<e:{name}>")
            .replace(f"</{name}>", f"</e:{name}>")
            .replace(f"<{name} ", f"<e:{name} ")
        )
    assert not compiled().validate(etree.fromstring(text.encode()))
    assert not EPI.inspect_page([text.encode()]).valid


def test_block_size_changes_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EPI.inspect_page([PAGE])
    for size in (1, 600, 2000):
        monkeypatch.setattr(epi_reader, "BLOCK", size)
        assert EPI.inspect_page([PAGE]) == whole


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (f"{XS}complexType[@name='Account']/{XS}sequence", lambda result: setattr(result, "tag", f"{XS}all")),
        (f"{XS}complexType[@name='Account']/{XS}attribute", lambda result: result.set("use", "optional")),
        (f"{XS}complexType[@name='Account']/{XS}sequence/{XS}sequence", lambda result: setattr(result, "tag", f"{XS}choice")),
        (f"{XS}complexType[@name='Account']//{XS}element", lambda result: result.set("nillable", "true")),
        (f"{XS}complexType[@name='Account']//{XS}element", lambda result: result.set("maxOccurs", "2")),
        (f"{XS}complexType[@name='Account']//{XS}element", lambda result: result.set("type", "xs:string")),
        (f"{XS}simpleType[@name='Identifier']/{XS}restriction/{XS}pattern", lambda result: result.set("value", r"\i\c*")),
        (f"{XS}simpleType[@name='Abn']/{XS}restriction", lambda result: result.set("base", "xs:token")),
    ],
)  # fmt: skip
def test_xsd_construct_that_is_unknown_is_refused(path: str, change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    root = etree.fromstring(etree.tostring(schema_root()))
    change(root.find(path))  # type: ignore[operator]
    monkeypatch.setattr(epi_proof, "schema_root", lambda: root)
    monkeypatch.setattr(epi_proof, "_simple", epi_proof._simple.__wrapped__)
    with pytest.raises(UnknownSchemaError):
        valid_line.__wrapped__("Account")


def test_unknown_record_is_refused() -> None:
    with pytest.raises(UnknownSchemaError, match="no type Nothing"):
        valid_line("Nothing")
