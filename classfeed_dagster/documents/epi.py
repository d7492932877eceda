"""The EPI document as a document format: the doors that delivery, checks and reconciliation use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import epi_mapping, epi_reader, epi_totals, epi_writer
from classfeed_dagster.documents import epi_value_checks as epi_findings
from classfeed_dagster.documents.document_format import (
    DocumentColumn,
    KnownRecords,
    PageHeader,
    PageInspection,
    RenderedPortfolio,
    Totals,
)


@dataclass(frozen=True, slots=True)
class EpiFormat:
    """EPIDataResponse (``epi_data_response.xsd``), in pages of whole portfolios. Its sections are those of the root."""

    name: str = "epi"
    extension: str = ".xml"
    domains: tuple[str, ...] = tuple(section.domain for section in epi_mapping.SECTIONS)
    sections: tuple[str, ...] = tuple(section.name for section in epi_mapping.SECTIONS)
    # Which ledgers' rows the recipient loads from it: T trades, S security movements, I income, C cash.
    ledgers: frozenset[str] = frozenset("TSIC")

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """See WithColumns: the elements by their paths, attributes as ``Record/@name``."""
        return tuple(epi_mapping.document_columns())

    def unwritable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat. FrameShapeError if a frame isn't as the domains declare it."""
        return epi_findings.unwritable(frames)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat. FrameShapeError for what ``unwritable`` reports as rows that can't be."""
        return epi_writer.render(frames)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        return epi_writer.page(header, totals, sections)

    def examine(self, chunks: Iterable[bytes]) -> PageInspection:
        """See DocumentFormat."""
        return epi_reader.examine(chunks)

    def examine_records(self, section: str, chunks: Iterable[bytes]) -> KnownRecords:
        """See ExaminedAhead."""
        return epi_reader.examine_records(section, chunks)

    def examine_page(self, chunks: Iterable[bytes], known: KnownRecords) -> PageInspection:
        """See ExaminedAhead."""
        return epi_reader.examine(chunks, known)

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat. UnreadableDocumentError (a ValueError) says what is wrong."""
        return epi_reader.read(path)

    def totals(self, frames: Mapping[str, pl.DataFrame]) -> Totals:
        """See WithTotals."""
        return epi_totals.totals_of({one.name: frames[one.record.frame.name] for one in epi_mapping.SECTIONS})


EPI = EpiFormat()
