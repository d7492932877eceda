"""A CSV layout as a document format: the doors that delivery and reconciliation use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import csv_mapping, csv_reader, csv_writer
from classfeed_dagster.documents.csv_mapping import CsvLayout
from classfeed_dagster.documents.document_format import (
    DocumentColumn,
    PageHeader,
    PageInspection,
    RenderedPortfolio,
    Totals,
)


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """One CSV file a business date and revision, never paged. Its one section is ``details``.

    A portfolio that has nothing to say, a removed one among them, is rendered as no bytes at all: the file has no
    line for it, and it counts as delivered with the file.
    """

    layout: CsvLayout

    @property
    def name(self) -> str:
        """The format's name."""
        return self.layout.name

    @property
    def extension(self) -> str:
        """The file's ending."""
        return ".csv"

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it carries."""
        return self.layout.domains

    @property
    def sections(self) -> tuple[str, ...]:
        """The lines between the first and the last."""
        return (csv_writer.SECTION,)

    @property
    def ledgers(self) -> frozenset[str]:
        """Which ledgers' rows the recipient loads from it: T trades, C cash."""
        return self.layout.ledgers

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """See WithColumns: the fields, after the letter of their line."""
        return tuple(csv_mapping.document_columns(self.layout))

    def file_stem(self, header: PageHeader) -> str:
        """``<feed>_<YYYYMMDD>_r<revision>``: the file's name without its ending."""
        return f"{header.feed}_{header.business_date:%Y%m%d}_r{header.revision}"

    def unwritable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat."""
        return csv_writer.unwritable(self.layout, frames)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat."""
        return csv_writer.render(self.layout, frames)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        return csv_writer.page(header, totals, sections)

    def examine(self, chunks: Iterable[bytes]) -> PageInspection:
        """See DocumentFormat."""
        return csv_reader.examine(self.layout, chunks)

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat. A portfolio's HIN, which no movement holds, stays in ``csv_reader.lines_of``."""
        return csv_reader.frames_of(self.layout, path)
