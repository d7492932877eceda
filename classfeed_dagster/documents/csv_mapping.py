"""Declaration of a CSV file: columns, their sources and their control totals.

A layout is a table; the writer, the reader and parity know columns only through it. The forms of values are the
EPI document's: money with 2 decimals, units and prices with 6, ISO dates, instants in UTC with 6 decimals and ``Z``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.documents import formula_guard as spreadsheet
from classfeed_dagster.documents.document_format import DocumentColumn
from classfeed_dagster.domains.columns import (
    ACCOUNT_BALANCES,
    ACCOUNTS,
    INSTANT,
    MONEY,
    MOVEMENT_TRANSACTIONS,
    UNITS,
    Frame,
)
from classfeed_dagster.domains.movement_transactions import LETTERS

LINE_END = "\r\n"
DETAIL, BALANCE, HEAD, TAIL = "D", "B", "H", "T"


class ColumnType(enum.Enum):
    """The form of a field: its pattern in the file and its type in a frame."""

    TEXT = ("", pl.String())
    DATE = ("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", pl.Date())
    INSTANT = ("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z$", INSTANT)
    MONEY = ("^-?(?:0|[1-9][0-9]{0,15})[.][0-9]{2}$", MONEY)
    DECIMAL6 = ("^-?(?:0|[1-9][0-9]{0,13})[.][0-9]{6}$", UNITS)

    def __init__(self, pattern: str, dtype: pl.DataType) -> None:
        self.pattern = pattern
        self.dtype = dtype


@dataclass(frozen=True, slots=True)
class CsvColumn:
    """One field of a line.

    ``source`` makes its value from the domain frame's columns. ``personal`` marks what may not appear in an error,
    a log or a report. ``signed`` marks the figures that a reversal carries with the opposite sign.
    """

    name: str
    kind: ColumnType
    source: pl.Expr
    required: bool = False
    personal: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """A file's lines.

    Detail lines come from the rows of ``movement_transactions`` that ``rows`` picks, with the portfolio's HIN
    beside them. If there are balance lines, details are grouped by cash account (``group``), and each account's
    group ends with its balance line. ``back`` makes the movement frame's columns out of the detail line's.
    """

    name: str
    ledgers: frozenset[str]  # which of the ledgers' letters (EPI, TransactionId) the recipient loads from it
    domains: tuple[str, ...]
    rows: pl.Expr
    details: tuple[CsvColumn, ...]
    back: Mapping[str, pl.Expr]
    key: str  # the column that identifies a detail line
    reverses: str  # the column that names what the line undoes
    summed: str  # the column that the control total adds up, per currency
    business_date: str  # the column with the date that the row carries
    balances: tuple[CsvColumn, ...] = ()
    group: tuple[str, ...] = ()  # columns of both kinds of line

    @property
    def columns(self) -> Mapping[str, tuple[CsvColumn, ...]]:
        """The columns by the line's first letter; only the lines that the layout has."""
        return {DETAIL: self.details, BALANCE: self.balances} if self.balances else {DETAIL: self.details}


def field_of(column: CsvColumn, value: pl.Expr) -> pl.Expr:
    """A typed value as the file spells it: null is the empty field, text is guarded, then quoted (RFC 4180)."""
    match column.kind:
        case ColumnType.TEXT:
            text = quoted(spreadsheet.guard_column(value))
        case ColumnType.DATE:
            text = value.dt.strftime("%Y-%m-%d")
        case ColumnType.INSTANT:
            text = value.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        case ColumnType.MONEY | ColumnType.DECIMAL6:
            text = value.cast(column.kind.dtype, strict=True).cast(pl.String)
    return text.fill_null("")


def quoted(text: pl.Expr) -> pl.Expr:
    """A field in quotes if it holds a comma, a quote or a line break, its own quotes doubled (RFC 4180)."""
    inside = text.str.replace_all('"', '""', literal=True)
    return pl.when(text.str.contains('[",\r\n]')).then(pl.concat_str(pl.lit('"'), inside, pl.lit('"'))).otherwise(text)


def typed(column: CsvColumn, text: pl.Expr) -> pl.Expr:
    """A field's text, quotes already gone, as a typed value; the empty field is null. The inverse of ``field_of``."""
    value = pl.when(text == "").then(None).otherwise(text)
    match column.kind:
        case ColumnType.TEXT:
            return spreadsheet.unguard_column(value)
        case ColumnType.DATE:
            return value.str.to_date("%Y-%m-%d", strict=True)
        case ColumnType.INSTANT:
            naive = value.str.strip_suffix("Z").str.to_datetime("%Y-%m-%dT%H:%M:%S%.6f", time_unit="us", strict=True)
            return naive.dt.replace_time_zone("UTC")
        case ColumnType.MONEY | ColumnType.DECIMAL6:
            return value.cast(column.kind.dtype, strict=True)


def id_order(text: str) -> tuple[int, int, str]:
    """Ledger ids in order of their number; ids that aren't numbers (openings) come before them, by code point."""
    return (1, int(text), "") if text.isascii() and text.isdigit() else (0, 0, text)


# An id of each kind of row, as the movements have them: ledgers by their letter, openings.
_EXAMPLE_IDS = {
    **{table: f"{letter}1" for table, letter in LETTERS.items()},
    "opening_units": "OU-SW1-1-20230103",
    "opening_cash": "OC-SW1-1-20230103",
}


def document_columns(layout: CsvLayout) -> Iterator[DocumentColumn]:
    """Every field of the layout's lines, named ``<letter of the line>/<field>``, in the order of the file."""
    ids = pl.DataFrame({"table": list(_EXAMPLE_IDS), "transaction_id": list(_EXAMPLE_IDS.values())})
    rows = tuple(ids.filter(layout.rows)["table"])
    for letter, fields in layout.columns.items():
        for field in fields:
            names = sorted(set(field.source.meta.root_names()))
            filled_by = tuple((_frame_of(letter, name).name, name) for name in names)
            yield DocumentColumn(f"{letter}/{field.name}", field.kind.name, filled_by, not field.required, rows)


def _frame_of(letter: str, column: str) -> Frame:
    # Details are movements with the portfolio's HIN beside them; balances are balances.
    if letter == BALANCE:
        return ACCOUNT_BALANCES
    return MOVEMENT_TRANSACTIONS if column in MOVEMENT_TRANSACTIONS.schema else ACCOUNTS
