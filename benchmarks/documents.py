"""Rendering and validating the document: the domains' frames to bytes, and the bytes read back."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
from lxml import etree

from benchmarks import writers
from benchmarks.measure import Facts, Part, Way, Work, compare, fits
from benchmarks.site import AUDIENCE, DOMAIN, FIRST, Site, morning_after, runtime_at
from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import PageHeader, Totals, file_chunks
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.documents.epi_totals import totals_of
from classfeed_dagster.domains.build import CONSENTED, DOMAINS, DomainReference, open_domains
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, FINDINGS
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime

BLOCK = 1 << 18
TREE_BYTES = 8_000  # that a record takes as a tree, its rows and its text included

WINDOW = AUDIENCE.window(FIRST)
HEADER = PageHeader(FEED.name, FEED.recipient, FIRST, 1, 0, None, 1, 1, WINDOW, morning_after(FIRST))
# By the name shown: the function, and whether it takes the frames in slices.
WRITERS: dict[str, tuple[Callable[..., None], bool]] = {
    "E builder, whole tree": (writers.e_builder, False),
    "this project": (writers.this_project, True),
    "Polars, formatting alone": (writers.polars_formatting, False),
    "DuckDB, formatting alone": (writers.duckdb_formatting, False),
}
PEERS: dict[str, tuple[Callable[..., None], bool]] = {
    "lxml elements, whole tree": (writers.subelement, False),
    "lxml xmlfile": (writers.xmlfile, False),
    "pandas to_xml": (writers.pandas_to_xml, False),
    "xsdata": (writers.xsdata, False),
}


def frames_of(home: Path, url: str) -> list[dict[str, pl.DataFrame]]:
    """Yield the built domains of the first date, slice by slice."""
    runtime: Runtime = runtime_at(url, home)
    references = [runtime.load_reference(AUDIENCE.reference(name), FIRST, DomainReference) for name in DOMAINS]
    assert references[0].domain == CONSENTED
    with open_domains(runtime.store, references) as slices:
        result = [dict(frames) for frames in slices]
    for frames in result:
        for name in (CONSENTED_PORTFOLIOS.name, FINDINGS.name):
            frames.pop(name)
    return result


def whole(slices: list[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Return the frames of all slices as one."""
    return {name: pl.concat([frames[name] for frames in slices], rechunk=True) for name in slices[0]}


def totals(frames: dict[str, pl.DataFrame]) -> Totals:
    """Return the frames' totals."""
    return totals_of({section.name: frames[section.record.frame.name] for section in epi.SECTIONS})


def prepare_writing(scratch: Path, home: Path, url: str, writer: Callable[..., None], *, sliced: bool) -> Work:
    """Prepare frames in memory; the work writes the document."""
    slices = frames_of(home, url)
    frames = whole(slices)
    stated = totals(frames)
    given: Any = slices if sliced else frames
    if sliced:
        del frames
    else:
        del slices
    path = scratch / "document.xml"

    def work() -> Facts:
        writer(given, HEADER, stated, path)
        return {"bytes": sum(file.stat().st_size for file in scratch.glob("*.xml"))}

    return work


def rendering(site: Site, *, rounds: int, until: float, peers: bool) -> Part:
    """Measure frames in memory to one document on disk. ``peers``: also what a user would reach for, which is slow."""
    home = site.after(FIRST, DOMAIN)
    records = site.portfolios * 132
    chosen = WRITERS | (PEERS if peers else {})
    if peers and find_spec("xsdata") is None:
        chosen.pop("xsdata")
    ways = [
        Way(name, prepare_writing, {"home": home, "url": site.url, "writer": writer, "sliced": sliced})
        for name, (writer, sliced) in chosen.items()
        if "whole tree" not in name or fits(records * TREE_BYTES)
    ]
    description = f"{records:,} records, frames in memory to one document on disk"
    return compare(
        "rendering with peers" if peers else "rendering", site.portfolios, description, ways, rounds=rounds, until=until
    )


# --- Validation ---------------------------------------------------------------------------------------------------


def tree_and_schema(path: Path) -> None:
    """Measure the baseline: the document parsed into a tree, then the tree validated."""
    compiled().assertValid(etree.parse(path))


def stream_and_schema(path: Path) -> None:
    """Validate with libxml2 while it parses a stream; no record is inspected."""
    _feed({"schema": compiled()}, path)


def bare_parse(path: Path) -> None:
    """Measure the floor: libxml2 parsing as a stream, without inspection or validation."""
    _feed({}, path)


def iterparse_and_sums(path: Path) -> None:
    """Read by lxml's iterparse with the XSD, one dict a record: what one would write to validate and add up at once."""
    tags = [epi.tag(section.record.name) for section in epi.SECTIONS]
    portfolios: set[str | None] = set()
    for _, element in etree.iterparse(str(path), tag=tags, schema=compiled(), resolve_entities=False):
        row = {child.tag: child.text for child in element}
        portfolios.add(row[epi.tag("PortfolioNumber")])
        element.clear()
        parent = element.getparent()
        while parent is not None and element.getprevious() is not None:
            del parent[0]


def this_projects_gate(path: Path) -> None:
    """Read a page as the gate does: validated, hashed, records added up, portfolios listed."""
    facts = EPI.inspect_page(file_chunks(path))
    assert facts.valid, facts.errors


class _Nothing:
    def close(self) -> None:
        """End the document; called by the parser."""


def _feed(options: dict[str, Any], path: Path) -> None:
    target: Any = _Nothing()
    parser = etree.XMLParser(target=target, resolve_entities=False, **options)
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            parser.feed(block)
    parser.close()


READERS: dict[str, Callable[[Path], None]] = {
    "lxml, tree and XMLSchema": tree_and_schema,
    "lxml iterparse with XMLSchema": iterparse_and_sums,
    "libxml2, XMLSchema as a stream": stream_and_schema,
    "this project (and adds up)": this_projects_gate,
    "libxml2, bare parse": bare_parse,
}


def prepare_reading(scratch: Path, document: Path, reader: Callable[[Path], None]) -> Work:
    """Compile the XSD; the work reads the document."""
    compiled()

    def work() -> Facts:
        reader(document)
        return {"bytes": document.stat().st_size}

    return work


def document_of(site: Site) -> Path:
    """Write the first date's document as one uncompressed file."""
    path = site.folder / "document.xml"
    if not path.exists():
        slices = frames_of(site.after(FIRST, DOMAIN), site.url)
        writers.this_project(slices, HEADER, totals(whole(slices)), path)
    return path


def validation(site: Site, *, rounds: int, until: float) -> Part:
    """Compare ways of reading a document back."""
    document = document_of(site)
    size = document.stat().st_size
    ways = [
        Way(name, prepare_reading, {"document": document, "reader": reader})
        for name, reader in READERS.items()
        if "tree" not in name or fits(size * 20)
    ]
    description = f"one document of {size / 1e6:,.0f} MB, read back from disk"
    return compare("validation", site.portfolios, description, ways, rounds=rounds, until=until)
