"""Records examined ahead change no answer of the gate: they are recognized by their bytes, and by nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from classfeed_dagster.delivery import prevalidation as ahead
from classfeed_dagster.delivery.build import Build, build_delivery
from classfeed_dagster.delivery.checks import control_totals_agree, document_valid, everyone_consented, examine_build
from classfeed_dagster.delivery.manifest import ControlTotals
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.documents import epi_reader
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import canonical, json_parts, to_json
from classfeed_dagster_tests.delivery.test_epi import FEED, frames
from classfeed_dagster_tests.fixtures.delivery_pipeline import AUDIENCE, DAY1, Day, plan, terms
from classfeed_dagster_tests.fixtures.epi_data import sample, sections_of

DAY = Day(DAY1, {f"P{n:03}": ("NEW", [f"{n}.25", "-1.00"]) for n in range(90)})


def stage(store: ObjectStore, day: Day, page_bytes: int) -> Build:
    context = terms(store, day, FEED, document_format=EPI, max_page_bytes=8192 + page_bytes)
    return build_delivery(store, context, plan(store, day, AUDIENCE), [frames(day)])


@pytest.fixture
def staged_build(local_store: ObjectStore) -> Build:
    build = stage(local_store, DAY, 20_000)
    assert len(build.pages) > 1
    return build


@pytest.fixture
def examined_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes of records that were inspected."""
    looked: list[int] = []
    take_lines = epi_reader.take_lines  # type: ignore[attr-defined]  # patched where it is used

    def watched(record: object, block: bytes, *others: object) -> bool:
        looked.append(len(block))
        return take_lines(record, block, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(epi_reader, "take_lines", watched)
    return looked


def test_prevalidated_records_give_equal_answers(
    local_store: ObjectStore, staged_build: Build, examined_again: list[int]
) -> None:
    recognized = examine_build(local_store, staged_build, EPI, code_version=staged_build.code_version)
    assert examined_again == []
    assert recognized == examine_build(local_store, staged_build, EPI)
    assert sum(examined_again) > 0
    for evaluation in (
        document_valid(staged_build, recognized),
        everyone_consented(staged_build, recognized, DAY.active),
        control_totals_agree(staged_build, recognized),
    ):
        assert evaluation.passed, evaluation


def test_prevalidation_recognizes_small_blocks(
    local_store: ObjectStore, examined_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (700, 3000):
        monkeypatch.setattr(epi_reader, "BLOCK", size)
        created = stage(local_store, Day(DAY1, {f"P{n:03}": ("NEW", [f"{size}.{n:02}"]) for n in range(20)}), 5000)
        examined_again.clear()
        facts = examine_build(local_store, created, EPI, code_version=created.code_version)
        assert examined_again == []
        assert facts == examine_build(local_store, created, EPI)


def test_bytes_changed_after_prevalidation_are_detected(local_store: LocalStore, staged_build: Build) -> None:
    page = staged_build.pages[0]
    path = Path(local_store.location(page.key))
    document = gzip.decompress(path.read_bytes())
    for old, new in ((b"<Amount>5.25<", b"<Amount>5.26<"), (b"<Amount>5.25<", b"<Amount>5.2<"), (b"P005", b"P905")):
        assert old in document
        path.write_bytes(gzip.compress(document.replace(old, new)))
        examined = examine_build(local_store, staged_build, EPI, code_version=staged_build.code_version)
        assert examined == examine_build(local_store, staged_build, EPI)
        assert not document_valid(staged_build, examined).passed


@pytest.mark.parametrize("how", ["gone", "damaged", "other code", "other bytes"])
def test_page_without_its_record_is_inspected_again(
    local_store: ObjectStore, staged_build: Build, examined_again: list[int], how: str
) -> None:
    code_version = staged_build.code_version
    for key in list(local_store.list("staged/")):
        if "/examined/" not in key:
            continue
        if how == "gone":
            local_store.delete(key)
        elif how == "damaged":
            local_store.put(key, b"{}")
        elif how == "other bytes":
            record = ahead.PrevalidationRecord(code_version=code_version, blocks={"0" * 64: _nothing()})
            local_store.put(key, to_json(record))
    if how == "other code":
        code_version = "another"
    examined = examine_build(local_store, staged_build, EPI, code_version=code_version)
    assert sum(examined_again) > 0
    assert document_valid(staged_build, examined).passed
    assert control_totals_agree(staged_build, examined).passed


def test_prevalidation_is_read_by_the_same_code_only(local_store: ObjectStore) -> None:
    key = ahead.prevalidation_key("staged/a/b/page-1.xml.gz", "feed-20230103-r0-p1")
    assert ahead.read_prevalidation(local_store, key, "1") == {}
    result = ahead.prevalidate(EPI, sections_of(sample()))
    ahead.record_prevalidation(local_store, key, "1", result)
    assert list(local_store.list("")) == ["staged/a/b/examined/feed-20230103-r0-p1.json"]
    assert ahead.read_prevalidation(local_store, key, "1") == result != {}
    assert ahead.read_prevalidation(local_store, key, "2") == {}


def _nothing() -> ahead.PrevalidatedBlock:
    totals = ControlTotals(currencies={}, units_held=Decimal(0), units_moved=Decimal(0))
    return ahead.PrevalidatedBlock(counts={}, totals=totals, portfolios=(), removed=(), without_currency=())


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_long_lists_are_written_in_parts_to_the_same_bytes(staged_build: Build, count: int) -> None:
    customer = staged_build.portfolios[0]
    many = tuple(
        PortfolioRecord(
            number=f"É{n}",
            change=customer.change,
            extract=customer.extract,
            digest=customer.digest,
            bytes=n,
            consent_ids=(n,),
            page=customer.page,
        )
        for n in range(count)
    )
    earlier_release = {"schema_version": 1, "portfolio_list": None, "portfolios": many}
    build = staged_build.model_copy(
        update={**earlier_release, "unannounced": tuple(portfolio.number for portfolio in many)}
    )
    assert to_json(build) == canonical(build.model_dump(mode="json"))
    exclude: dict[str, Any] = {"build_id": True, "pages": {"__all__": {"key", "bytes"}}}
    assert b"".join(json_parts(build, exclude)) == canonical(build.model_dump(mode="json", exclude=exclude))
    assert Build.model_validate_json(to_json(build)) == build


def test_portfolio_of_a_manifest_takes_little_memory() -> None:
    # A record of an earlier release has a hundred thousand of them in memory at once.
    item = PortfolioRecord(number="1", change="NEW", extract="FULL", digest="0" * 64, bytes=0, consent_ids=(), page="")
    assert not hasattr(item, "__dict__")
    assert Build.model_fields["portfolios"].annotation == Sequence[PortfolioRecord]
