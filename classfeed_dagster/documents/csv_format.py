"""CSV layouts as document formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.documents import csv_reader, csv_writer, locate
from classfeed_dagster.documents.csv_mapping import BALANCE, DETAIL, CsvLayout
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
from classfeed_dagster.documents.format_rules import FormatRule, csv_rules
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, ACCOUNTS, MOVEMENT_TRANSACTIONS, Frame


@dataclass(frozen=True, slots=True)
class CsvFormat(DocumentFormat):
    """CSV files: one a business date and revision, or one a portfolio. Its only section is ``details``.

    A portfolio without rows, such as a removed one, is rendered as no bytes. It counts as delivered with the file.
    """

    layout: CsvLayout

    @property
    def name(self) -> str:
        """Return the name of the format."""
        return self.layout.name

    @property
    def extension(self) -> str:
        """Return the extension of the file."""
        return ".csv"

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains that it contains."""
        return self.layout.domains

    @property
    def sections(self) -> tuple[str, ...]:
        """Return the section of the lines between the first and the last."""
        return (csv_writer.SECTION,)

    @property
    def page_rule(self) -> PageRule:
        """Return the rule of one file a revision, or of one a portfolio."""
        return PageRule.BY_PORTFOLIO if self.layout.per_portfolio else PageRule.ONE_FILE

    @property
    def states_totals(self) -> bool:
        """Return True if the file is framed: its last line states them."""
        return self.layout.framed

    @property
    def rules(self) -> tuple[FormatRule, ...]:
        """See DocumentFormat."""
        return csv_rules(self.layout.name, balances=bool(self.layout.balances))

    @property
    def ledgers(self) -> frozenset[str]:
        """Return the ledgers that the recipient loads from it: T trades, C cash."""
        return self.layout.ledgers

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """Return the fields, each after its line's letter."""
        return tuple(_document_columns(self.layout))

    @property
    def csv_layout(self) -> CsvLayout:
        """Return the layout of its lines."""
        return self.layout

    def file_stem(self, header: PageHeader) -> str:
        """Return ``<feed>_<YYYYMMDD>_r<revision>``; the message id if there is a file for each portfolio."""
        if self.page_rule is not PageRule.ONE_FILE:
            return header.message_id
        return f"{header.feed}_{header.business_date:%Y%m%d}_r{header.revision}"

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """See DocumentFormat."""
        return csv_writer.check_representable(self.layout, frames)

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """See DocumentFormat."""
        return csv_writer.render(self.layout, frames)

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """See DocumentFormat."""
        return csv_writer.page(self.layout, header, totals, sections)

    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        """See DocumentFormat."""
        return csv_reader.inspect_page(self.layout, chunks)

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """See DocumentFormat. No movement has a portfolio's HIN, so that it is only in ``csv_reader.lines_of``."""
        return csv_reader.frames_of(self.layout, path)

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """See DocumentFormat. The file states only the number of a TransactionId. NotAPageError as for EPI."""
        return locate.locate_line(path, key, DETAIL if self.layout.framed else "")


# Ids by type of row, as the movements have them: ledgers by their letter, openings.
_EXAMPLE_IDS = {
    **{table: f"{letter}1" for table, letter in LETTERS.items()},
    "opening_units": "OU-SW1-1-20230103",
    "opening_cash": "OC-SW1-1-20230103",
}


def _document_columns(layout: CsvLayout) -> Iterator[DocumentColumn]:
    # Every field of the layout's lines, named ``<letter of the line>/<field>``, in the order of the file.
    # Fields of a file that is not framed have no letter.
    ids = pl.DataFrame({"table": list(_EXAMPLE_IDS), "transaction_id": list(_EXAMPLE_IDS.values())})
    rows = tuple(ids.filter(layout.rows)["table"])
    for letter, fields in layout.columns.items():
        for field in fields:
            names = sorted(set(field.source.meta.root_names()))
            filled_by = tuple((_frame_of(letter, name).name, name) for name in names)
            name = f"{letter}/{field.name}" if layout.framed else field.heading or field.name
            yield DocumentColumn(name, field.kind.name, filled_by, not field.required, rows)


def _frame_of(letter: str, column: str) -> Frame:
    # Details are movements with the portfolio's HIN; balances are balances.
    if letter == BALANCE:
        return ACCOUNT_BALANCES
    return MOVEMENT_TRANSACTIONS if column in MOVEMENT_TRANSACTIONS.schema else ACCOUNTS
