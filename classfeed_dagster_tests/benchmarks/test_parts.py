"""Every part of the suite works at a tiny size, and equal methods give equal results."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from benchmarks import documents, files, source, whole_job
from benchmarks.measure import Part
from benchmarks.reconciliation import reconciliation
from benchmarks.site import AUDIENCE, DOMAIN, FIRST, PUBLISHED, SECOND, STEPS, Site

pytestmark = pytest.mark.slow

HOW: dict[str, Any] = {"rounds": 1, "until": float("inf")}


def _written(small: Site, scratch: Path, name: str) -> bytes:
    writer, sliced = (documents.WRITERS | documents.PEERS)[name]
    home = small.after(FIRST, DOMAIN)
    documents.prepare_writing(scratch, home, small.url, writer, sliced=sliced)()
    return (scratch / "document.xml").read_bytes()


@pytest.mark.parametrize("name", ["E builder, whole tree", "lxml elements, whole tree", "lxml xmlfile"])
def test_writers_give_canonically_the_same_document(small: Site, tmp_path: Path, name: str) -> None:
    ours = documents.document_of(small).read_bytes()
    written = _written(small, tmp_path, name)
    assert etree.tostring(etree.fromstring(written), method="c14n") == etree.tostring(
        etree.fromstring(ours), method="c14n"
    )


@pytest.mark.parametrize("name", ["Polars, formatting alone", "DuckDB, formatting alone"])
def test_formatting_alone_differs_only_by_escaping(small: Site, tmp_path: Path, name: str) -> None:
    ours = documents.document_of(small).read_bytes()
    assert b"&amp;" in ours
    assert _written(small, tmp_path, name) == ours.replace(b"&amp;", b"&")


@pytest.mark.usefixtures("in_this_process")
def test_rendering_is_measured_against_its_peers(small: Site) -> None:
    part = documents.rendering(small, peers=True, **HOW)
    assert {way.name for way in part.ways} >= {"pandas to_xml", "this project"}
    assert ("xsdata" in {way.name for way in part.ways}) == (find_spec("xsdata") is not None)
    assert all(way.runs[0].facts["bytes"] > 100_000 for way in part.ways)


@pytest.mark.usefixtures("in_this_process")
def test_rendering_and_validation_use_the_same_document(small: Site) -> None:
    rendered = documents.rendering(small, peers=False, **HOW)
    checked = documents.validation(small, **HOW)
    assert checked.way("libxml2, bare parse").runs[0].facts == rendered.way("this project").runs[0].facts


@pytest.mark.usefixtures("in_this_process")
def test_snapshot_reads_the_same_rows_every_way(small: Site) -> None:
    part = source.snapshot(small, **HOW)
    read = part.way("this project (to Parquet)").runs[0].facts["answer"]
    assert read == part.way("pandas.read_sql").runs[0].facts["answer"]
    assert read["trade"] == small.portfolios * 30
    assert part.way("raw COPY to nowhere").runs[0].facts["bytes"] > 100_000


@pytest.mark.usefixtures("in_this_process")
def test_domains_packing_and_publishing_are_measured(small: Site) -> None:
    for part in (source.domains(small, **HOW), files.packing(small, **HOW), files.publishing(small, **HOW)):
        assert all(len(way.runs) == 1 for way in part.ways), part.name
    assert part.way("this project, S3").runs[0].facts == {"pages": 1}


@pytest.mark.usefixtures("in_this_process")
def test_whole_job_sends_the_rows_of_the_old_exporter(small: Site) -> None:
    part = whole_job.whole_job(small, FIRST, **HOW)
    named = [whole_job.OLD, whole_job.PLAIN, whole_job.EPHEMERAL, whole_job.SQLITE]
    assert [way.name for way in part.ways] == named
    assert set(part.way(whole_job.PLAIN).runs[0].facts["steps"]) == set(STEPS)
    assert part.way(whole_job.SQLITE).runs[0].facts["events"] > 100


@pytest.mark.usefixtures("in_this_process")
def test_ordinary_date_runs_next_to_the_old_exporter(small: Site) -> None:
    part = whole_job.whole_job(small, SECOND, dagster=(), **HOW)
    assert [way.name for way in part.ways] == [whole_job.OLD, whole_job.PLAIN]
    assert part.way(whole_job.PLAIN).runs[0].facts["answer"] == small.portfolios * 32 + 2


@pytest.mark.usefixtures("in_this_process")
def test_benchmark_runs_from_the_command_line(small: Site, tmp_path: Path) -> None:
    before = small.after(FIRST, PUBLISHED)
    facts = whole_job.prepare_command(tmp_path, small.url, before, "in_process")()
    assert facts is not None
    assert facts["steps"] > 5


@pytest.mark.usefixtures("in_this_process")
def test_reconciliation_benchmark_finds_the_planted_faults() -> None:
    part: Part = reconciliation(500, **HOW)
    assert {way.name for way in part.ways} == {"pandas merge", "this project"}
    assert part.ways[0].runs[0].facts["answer"] == (100, 100, 100)


def test_second_date_continues_from_the_first(small: Site) -> None:
    assert AUDIENCE.previous(SECOND) == FIRST
    store = small.after(SECOND, PUBLISHED) / "store"
    assert len(list((store / "delivered").rglob("manifest.json"))) == 2
