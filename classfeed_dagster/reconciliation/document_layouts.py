"""Layouts of delivered documents that reconciliation can read, by format name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.reconciliation.csv_document import (
    CASH,
    TRADES,
    headed_kind,
    read_cash_file,
    read_headed_file,
    read_trade_file,
)
from classfeed_dagster.reconciliation.epi_document import Row, read_epi_page
from classfeed_dagster.reconciliation.iso_documents import ENTRIES, STATED, read_camt_message, read_semt_message
from classfeed_dagster.reconciliation.page_contents import CSV_DETAILS, PageContents
from classfeed_dagster.reconciliation.records import BALANCES, KINDS, RecordKind

Reader = Callable[[Path, str, PageContents], Iterator[tuple[RecordKind, Row]]]


class UnknownLayoutError(ConfigurationError):
    """A document format without a reader in reconciliation."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Reconciliation has no reader for the format {name!r}: add one to reconciliation/document_layouts.py, or "
            "declare the feed's layout"
        )


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """One document format: the kinds of records it contains, their reader, and the amounts of its totals."""

    name: str
    kinds: tuple[RecordKind, ...]
    read: Reader
    sums: tuple[str, ...]
    section: str | None = None
    states_totals: bool = True
    states_header: bool = True

    def contents(self) -> PageContents:
        """Return empty contents, to be filled while a page is read."""
        return PageContents(self.sums, self.section, self.states_totals, self.states_header)


LAYOUTS: Mapping[str, DocumentLayout] = {
    layout.name: layout
    for layout in (
        DocumentLayout("epi", KINDS, read_epi_page, ("net_amount", "amount", "units")),
        DocumentLayout("class_trade", (TRADES,), read_trade_file, ("net_amount",), CSV_DETAILS),
        DocumentLayout("class_cash", (BALANCES, CASH), read_cash_file, ("amount",), CSV_DETAILS),
        DocumentLayout("camt_053", (BALANCES, ENTRIES), read_camt_message, ("amount",), states_totals=False),
        DocumentLayout("semt_002", (STATED,), read_semt_message, (), states_totals=False),
    )
}
EPI = LAYOUTS["epi"]


def layout_named(name: str) -> DocumentLayout:
    """Return the layout of a format. UnknownLayoutError if reconciliation cannot read it."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UnknownLayoutError(name) from None


def headed_csv(name: str, columns: Mapping[str, str], *, ledgers: str) -> DocumentLayout:
    """Return the layout of a CSV file of movements with one heading line, no letters and no trailer.

    ``columns`` are the record's fields by their heading in the file, in the file's order; ``ledgers`` the first
    letters of its TransactionIds.
    """
    kind = headed_kind(tuple(columns.values()), ledgers)
    read = partial(read_headed_file, kind, columns)
    return DocumentLayout(name, (kind,), read, ("net_amount",), CSV_DETAILS, states_totals=False, states_header=False)
