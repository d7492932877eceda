"""EPI document format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import epi_mapping, epi_reader, epi_totals, epi_value_checks, epi_writer, locate
from classfeed_dagster.documents.document_format import (
    DocumentColumn,
    DocumentFormat,
    KnownRecords,
    PageHeader,
    PageInspection,
    Place,
    RecordKey,
    RenderedPortfolio,
    Totals,
)
from classfeed_dagster.documents.format_rules import EPI_RULES, FormatRule


@dataclass(frozen=True, slots=True)
class EpiFormat(DocumentFormat):
    """EPIDataResponse (``epi_data_response.xsd``) in pages of whole portfolios. Its sections are the root's."""

    name: str = "epi"
    extension: str = ".xml"
    domains: tuple[str, ...] = tuple(section.domain for section in epi_mapping.SECTIONS)
    sections: tuple[str, ...] = tuple(section.name for section in epi_mapping.SECTIONS)

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """Return the elements by their paths, attributes as ``Record/@name``."""
        return tuple(epi_mapping.document_columns())

    @property
    def rules(self) -> tuple[FormatRule, ...]:
        """See DocumentFormat."""
        return EPI_RULES

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat. FrameShapeError if a frame differs from the domains' declaration."""
        return epi_value_checks.check_representable(frames)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat. FrameShapeError for values that ``check_representable`` reports."""
        return epi_writer.render(frames)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        return epi_writer.page(header, totals, sections)

    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        """See DocumentFormat."""
        return epi_reader.inspect_page(chunks, known)

    def inspect_records(self, section: str, chunks: Iterable[bytes]) -> KnownRecords:
        """See DocumentFormat."""
        return epi_reader.inspect_records(section, chunks)

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat. UnreadableDocumentError (a ValueError) states the fault."""
        return epi_reader.read(path)

    def can_state(self, totals: Totals) -> bool:
        """See DocumentFormat: 16 digits of money and 14 of units before the decimal point."""
        return epi_totals.fits_control_totals(totals)

    def totals(self, frames: Mapping[str, pl.DataFrame]) -> Totals:
        """See DocumentFormat."""
        return epi_totals.totals_of(
            {section.name: frames[section.record.frame.name] for section in epi_mapping.SECTIONS}
        )

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """See DocumentFormat. NotAPageError if the file cannot be read to its end."""
        return locate.locate_element(path, key)


EPI = EpiFormat()
