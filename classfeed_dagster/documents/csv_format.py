"""CSV layouts as document formats, as delivery and reconciliation use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import csv_mapping, csv_reader, csv_writer, locate
from classfeed_dagster.documents.csv_mapping import CsvLayout
from classfeed_dagster.documents.document_format import (
    DocumentColumn,
    DocumentFormat,
    KnownRecords,
    PageHeader,
    PageInspection,
    PageRule,
    Place,
    RecordKey,
    RenderedPortfolio,
    Totals,
)


@dataclass(frozen=True, slots=True)
class CsvFormat(DocumentFormat):
    """One CSV file a business date and revision, never paged. Its one section is ``details``.

    A portfolio without rows, a removed one for example, is rendered as no bytes at all: the file has no line for it,
    and it counts as delivered with the file.
    """

    layout: CsvLayout

    @property
    def name(self) -> str:
        """Name of the format."""
        return self.layout.name

    @property
    def extension(self) -> str:
        """Extension of the file."""
        return ".csv"

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that it carries."""
        return self.layout.domains

    @property
    def sections(self) -> tuple[str, ...]:
        """Lines between the first and the last."""
        return (csv_writer.SECTION,)

    @property
    def page_rule(self) -> PageRule:
        """One file."""
        return PageRule.ONE_FILE

    @property
    def ledgers(self) -> frozenset[str]:
        """Ledgers whose rows the recipient loads from it: T trades, C cash."""
        return self.layout.ledgers

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """Fields, after the letter of their line."""
        return tuple(csv_mapping.document_columns(self.layout))

    @property
    def csv_layout(self) -> CsvLayout:
        """Layout of its lines."""
        return self.layout

    def file_stem(self, header: PageHeader) -> str:
        """Return ``<feed>_<YYYYMMDD>_r<revision>``."""
        return f"{header.feed}_{header.business_date:%Y%m%d}_r{header.revision}"

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat."""
        return csv_writer.check_representable(self.layout, frames)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat."""
        return csv_writer.render(self.layout, frames)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        return csv_writer.page(header, totals, sections)

    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        """See DocumentFormat."""
        return csv_reader.inspect_page(self.layout, chunks)

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat. A portfolio's HIN, which no movement holds, stays in ``csv_reader.lines_of``."""
        return csv_reader.frames_of(self.layout, path)

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """See DocumentFormat. The file states only the number of a TransactionId. NotAPageError as for EPI."""
        return locate.locate_line(path, key)
