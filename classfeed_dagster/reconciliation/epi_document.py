"""Independent reader of EPI pages: every record with its line, the header, the control totals."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast

from lxml import etree

from classfeed_dagster.errors import DataError
from classfeed_dagster.reconciliation.page_contents import PageContents
from classfeed_dagster.reconciliation.records import ACCOUNTS, CASH_ACCOUNTS, KINDS, NAMESPACE, RecordKind

TRACE = ("page", "line")
_MAX_LINE = 65_535  # libxml2 counts no further; beyond it the line is omitted rather than wrong
_GZIP = b"\x1f\x8b"
Row = dict[str, str | None]


class UnreadableDeliveryError(DataError):
    """A manifest or page that cannot be read at all, so that its contents cannot be compared."""


def open_document(path: Path) -> IO[bytes]:
    """Open a stored page, decompressed if it is gzipped."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def message_of(key: str) -> str:
    """Return the page's name in traces: its file name without extensions."""
    return Path(key).name.split(".xml")[0]


def read_epi_page(path: Path, key: str, contents: PageContents) -> Iterator[tuple[RecordKind, Row]]:
    """Yield each record of a page in document order, and fill ``contents`` with its header and totals."""
    message = message_of(key)
    kinds = {_name(kind.path[-1]): kind for kind in KINDS}
    try:
        with open_document(path) as document:
            tags = [*kinds, _HEADER, _TOTALS]
            events = etree.iterparse(
                document, events=("end",), tag=tags, resolve_entities=False, no_network=True, huge_tree=False
            )
            for _, element in events:
                if element.getroottree().docinfo.doctype:
                    raise UnreadableDeliveryError(f"{key}: a DOCTYPE is not allowed in a delivered document")
                if element.tag == _HEADER:
                    contents.header = {_local(child): child.text or "" for child in element}
                elif element.tag == _TOTALS:
                    contents.stated = dict(_totals(element))
                else:
                    kind = kinds[str(element.tag)]
                    row = _row(kind, element, message)
                    contents.add(kind, row)
                    yield kind, row
                    if kind is not CASH_ACCOUNTS:
                        element.clear()
                        while element.getprevious() is not None:
                            del element.getparent()[0]  # type: ignore[index, union-attr, unused-ignore]
    except (etree.XMLSyntaxError, OSError, EOFError) as error:
        raise UnreadableDeliveryError(f"{key} cannot be read to its end ({type(error).__name__})") from None


def _name(element: str) -> str:
    return f"{{{NAMESPACE}}}{element}"


def _local(element: Any) -> str:
    return str(etree.QName(element).localname)


_HEADER, _TOTALS = _name("Header"), _name("ControlTotals")
_STATED = {
    "Accounts": "AccountDetails",
    "AccountBalances": "AccountBalances",
    "InvestmentHoldings": "InvestmentHoldings",
    "MovementTransactions": "MovementTransactions",
    "UnitsHeld": "units_held",
    "UnitsMoved": "units_moved",
    "LedgerBalance": "ledger_balance",
    "MarketValue": "market_value",
    "CashAmount": "cash_amount",
    "NetAmount": "net_amount",
}


def _totals(element: Any) -> Iterator[tuple[str, Decimal]]:
    for child in element:
        if _local(child) == "CurrencyTotal":
            currency = child.get("currency")
            for amount in child:
                yield f"{currency} {_STATED.get(_local(amount), _local(amount))}", _stated(amount)
        else:
            yield _STATED.get(_local(child), _local(child)), _stated(child)


def _stated(element: Any) -> Decimal:
    try:
        return Decimal(element.text or "")
    except ArithmeticError:
        return Decimal("NaN")  # equals nothing, so that it counts as a difference


_COLUMNS = {kind.name: {_name(name): column.name for name, column in kind.columns if name[0] != "@"} for kind in KINDS}
_ATTRIBUTES = {kind.name: {name[1:]: column.name for name, column in kind.columns if name[0] == "@"} for kind in KINDS}
_EMPTY: dict[str, Row] = {kind.name: dict.fromkeys((*kind.names, *TRACE)) for kind in KINDS}
_NUMBER = _name(ACCOUNTS.columns[0][0])


def _row(kind: RecordKind, element: Any, message: str) -> Row:
    row = _EMPTY[kind.name].copy()
    columns = _COLUMNS[kind.name]
    for child in element:
        column = columns.get(child.tag)
        if column is not None:
            row[column] = child.text or ""
    for name, column in _ATTRIBUTES[kind.name].items():
        row[column] = element.get(name)
    if kind is CASH_ACCOUNTS:
        row["portfolio_number"] = element.getparent().findtext(_NUMBER)
    line = element.sourceline
    row["page"] = message
    row["line"] = str(line) if line is not None and line < _MAX_LINE else None
    return row
