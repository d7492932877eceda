"""The mapping table agrees with the XSD for every element: name, place, type and optionality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import CurrencyTotals, PageHeader, Totals
from classfeed_dagster.documents.epi_mapping import Element, Group, RecordMapping
from classfeed_dagster.documents.epi_schema import schema_root, text_rules
from classfeed_dagster_tests.fixtures.epi_data import element_lineage

XS = "{http://www.w3.org/2001/XMLSchema}"


def complex_type(name: str) -> etree._Element:
    result = schema_root().find(f"{XS}complexType[@name='{name}']")
    if result is None:  # an anonymous type of an element
        result = schema_root().find(f".//{XS}element[@name='{name}']/{XS}complexType")
    assert result is not None, name
    return result


def in_xsd(sequence: etree._Element) -> Iterator[object]:
    """Yield a sequence's parts: (name, type, optional), a nested list for an optional sequence, a name for a record."""
    for child in sequence:
        optional = child.get("minOccurs") == "0"
        if child.tag == f"{XS}sequence":
            assert optional
            yield list(in_xsd(child))
        elif child.get("type") is None:
            yield child.get("name")
        else:
            yield child.get("name"), child.get("type"), optional


def in_mapping(parts: Sequence[Element | Group | RecordMapping]) -> Iterator[object]:
    for part in parts:
        if isinstance(part, Group):
            yield list(in_mapping(part.members))
        elif isinstance(part, RecordMapping):
            yield part.name
        else:
            yield part.name, str(part.type), part.optional


def sequence_of(name: str) -> etree._Element:
    result = complex_type(name).find(f"{XS}sequence")
    assert result is not None
    return result


@pytest.mark.parametrize("record", epi.RECORDS, ids=lambda record: record.name)
def test_records_are_those_of_the_xsd(record: RecordMapping) -> None:
    assert list(in_mapping(record.content)) == list(in_xsd(sequence_of(record.name)))
    attributes = complex_type(record.name).findall(f"{XS}attribute")
    assert [(a.name, str(a.type)) for a in record.attributes] == [(a.get("name"), a.get("type")) for a in attributes]


def test_header_and_control_totals_are_those_of_the_xsd() -> None:
    assert list(in_mapping(epi.HEADER_ELEMENTS)) == list(in_xsd(sequence_of("Header")))
    assert list(in_mapping(epi.CURRENCY_ELEMENTS)) == list(in_xsd(sequence_of("CurrencyTotal")))
    counts = [(section.counted_as, "xs:nonNegativeInteger", False) for section in epi.SECTIONS]
    units = list(in_mapping((epi.UNITS_HELD, epi.UNITS_MOVED)))
    assert list(in_xsd(sequence_of("ControlTotals"))) == [*counts, epi.CURRENCY_TOTAL, *units]


def test_root_holds_header_sections_and_totals_in_order() -> None:
    root = schema_root().find(f"{XS}element[@name='{epi.ROOT}']")
    assert root is not None
    sequence = root.find(f"{XS}complexType/{XS}sequence")
    assert sequence is not None
    names = [child.get("name") for child in sequence]
    assert names == [epi.HEADER, *(section.name for section in epi.SECTIONS), epi.CONTROL_TOTALS]
    for section in epi.SECTIONS:
        record = sequence.find(f"{XS}element[@name='{section.name}']//{XS}element")
        assert record is not None
        assert record.get("name") == section.record.name


def test_mapped_column_exists_and_is_nullable_with_its_element() -> None:
    for record in epi.RECORDS:
        grouped = {element for group in record.groups for element in group.elements}
        for element in record.typed():
            column = record.frame.column(element.column)
            if not element.optional and element not in grouped:
                assert not column.nullable, f"{record.name}/{element.name}"
            if element.optional:
                assert column.nullable, f"{record.name}/{element.name}"
    for element in epi.HEADER_ELEMENTS:
        from_window = element.column in ("recorded_after", "recorded_before", "holding_basis")
        assert from_window or hasattr(PageHeader, element.column)
    assert all(hasattr(CurrencyTotals, element.column) for element in epi.CURRENCY_ELEMENTS)
    assert all(hasattr(Totals, element.column) for element in (epi.UNITS_HELD, epi.UNITS_MOVED))


def test_frame_columns_all_reach_the_document() -> None:
    lineage = element_lineage()
    for record in epi.RECORDS:
        sent = {column for _, frame, column in lineage if frame == record.frame.name}
        missing = set(record.frame.schema) - sent
        # A cash account is inside its portfolio's record, which names the portfolio.
        assert missing == ({epi.PORTFOLIO} if record is epi.CASH_ACCOUNT else set())


def test_lineage_is_ordered_like_the_document() -> None:
    lineage = element_lineage()
    assert lineage[0] == ("EPIDataResponse/AccountDetails/Account/@consent", "accounts", "consent")
    assert ("EPIDataResponse/AccountDetails/Account/CashAccount/Bsb", "cash_accounts", "bsb") in lineage
    assert lineage[-1] == (
        "EPIDataResponse/MovementTransactions/MovementTransaction/Narrative",
        "movement_transactions",
        "narrative",
    )
    assert len(lineage) == len(set(lineage))


def test_element_names_are_in_the_mapping_only() -> None:
    folder = Path(epi.__file__).parent
    distinctive = [
        "PortfolioNumber",
        "TransactionId",
        "CashAccountNumber",
        "LedgerBalance",
        "MarketValue",
        "SecurityCode",
    ]
    for path in [*folder.glob("epi*.py"), folder / "locate.py"]:
        if path.name != "epi_mapping.py":
            text = path.read_text()
            assert not [name for name in distinctive if f'"{name}"' in text or f"<{name}>" in text], path.name


def test_simple_types_are_read_from_the_xsd() -> None:
    rules = text_rules()
    assert rules["Text200"].max_length == 200
    assert rules["Text200"].min_length == 1
    assert rules["Hin"].pattern == "X[0-9]{10}"
    assert rules["AccountStatus"].vocabulary == ("ACTIVE", "SUSPENDED", "CLOSED")
    assert set(rules["TransactionType"].vocabulary) >= epi.INCOME_TYPES
