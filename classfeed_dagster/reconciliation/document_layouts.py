"""The layouts of delivered documents that reconciliation can read, by the name of their format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.reconciliation.csv_document import CASH, TRADES, read_cash_file, read_trade_file
from classfeed_dagster.reconciliation.epi_document import Row, read_epi_page
from classfeed_dagster.reconciliation.page_contents import CSV_DETAILS, PageContents
from classfeed_dagster.reconciliation.records import BALANCES, KINDS, RecordKind

Reader = Callable[[Path, str, PageContents], Iterator[tuple[RecordKind, Row]]]


class UnknownLayoutError(ConfigurationError):
    """A document format for which reconciliation has no reader."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"reconciliation has no reader for the format {name!r}: add one to reconciliation/document_layouts.py"
        )


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """One form of document: the kinds of records it carries, their reader, and the amounts that its totals add up."""

    name: str
    kinds: tuple[RecordKind, ...]
    read: Reader
    sums: tuple[str, ...]
    section: str | None = None

    def contents(self) -> PageContents:
        """Return the empty contents that reading one page fills."""
        return PageContents(self.sums, self.section)


LAYOUTS: Mapping[str, DocumentLayout] = {
    layout.name: layout
    for layout in (
        DocumentLayout("epi", KINDS, read_epi_page, ("net_amount", "amount", "units")),
        DocumentLayout("class_trade", (TRADES,), read_trade_file, ("net_amount",), CSV_DETAILS),
        DocumentLayout("class_cash", (BALANCES, CASH), read_cash_file, ("amount",), CSV_DETAILS),
    )
}
EPI = LAYOUTS["epi"]


def layout_named(name: str) -> DocumentLayout:
    """Return the layout of a format; UnknownLayoutError if reconciliation can't read it."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UnknownLayoutError(name) from None
