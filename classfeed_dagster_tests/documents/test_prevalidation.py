"""Prevalidated records: a page's inspection equals that of the whole page, and no known record is inspected again."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given

from classfeed_dagster.documents import epi_reader
from classfeed_dagster.documents.document_format import RecordInspection
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster_tests.fixtures.epi_data import Frames, any_frames, page_of, sample, sections_of
from classfeed_dagster_tests.fixtures.examples import examples


def examined_ahead(frames: Frames) -> dict[str, RecordInspection]:
    return {
        digest: facts
        for section, chunks in sections_of(frames).items()
        for digest, facts in EPI.inspect_records(section, chunks).items()
    }


@examples(60)
@given(any_frames())
def test_prevalidation_equals_the_inspection_of_the_whole_page(frames: Frames) -> None:
    page = page_of(frames)
    assert EPI.inspect_page([page], examined_ahead(frames)) == EPI.inspect_page([page])


@pytest.mark.parametrize("size", [1, 600, 2000])
def test_prevalidation_in_small_blocks_is_equal(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(epi_reader, "BLOCK", size)
    page = page_of(sample())
    assert EPI.inspect_page([page], examined_ahead(sample())) == EPI.inspect_page([page])


def test_prevalidated_record_is_not_inspected_again() -> None:
    page = page_of(sample())
    known = examined_ahead(sample())
    assert len(known) == len(sections_of(sample()))
    units = Decimal("1000000.000000")
    ((digest, facts),) = [(digest, facts) for digest, facts in known.items() if facts.totals.units_held]
    known[digest] = replace(facts, totals=replace(facts.totals, units_held=facts.totals.units_held + units))
    hold = EPI.inspect_page([page]).totals.units_held
    assert EPI.inspect_page([page], known).totals.units_held == hold + units


def test_record_changed_since_prevalidation_is_inspected() -> None:
    known = examined_ahead(sample())
    changed = page_of(sample()).replace(b"<Units>100.000000<", b"<Units>100.0<")
    facts = EPI.inspect_page([changed], known)
    assert facts == EPI.inspect_page([changed])
    assert not facts.valid
