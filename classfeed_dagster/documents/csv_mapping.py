"""Declaration of a CSV file: columns, their sources and their control totals.

Writer, reader and parity depend on layouts, not on columns. The forms of values are the EPI document's: money with 2
decimals, units and prices with 6, ISO dates, instants in UTC with 6 decimals and ``Z``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from classfeed_dagster.documents import formula_guard as spreadsheet
from classfeed_dagster.domains.columns import INSTANT, MONEY, UNITS
from classfeed_dagster.errors import ConfigurationError

LINE_END = "\r\n"
DETAIL, BALANCE, HEAD, TAIL = "D", "B", "H", "T"


class ColumnType(enum.Enum):
    """Form of a field: its pattern in the file and its type in a frame."""

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

    ``source`` computes its value from the domain frame's columns. A ``personal`` value may not appear in an error, a
    log or a report. A reversal has ``signed`` figures with the opposite sign. ``heading`` is the text of the heading
    line if it is not ``name``.
    """

    name: str
    kind: ColumnType
    source: pl.Expr
    required: bool = False
    personal: bool = False
    signed: bool = False
    heading: str = ""


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """Layout of a file's lines.

    Detail lines are the rows of ``movement_transactions`` selected by ``rows``, with the portfolio's HIN. If
    there are balance lines, details are grouped by cash account (``group``), and each account's group ends with its
    balance line. ``back`` computes the movement frame's columns from the detail line's.

    A framed file has a header (``H``), a trailer with control totals (``T``) and a letter before each line. A file that
    is not framed has one heading line and detail lines without a letter. It states no totals and has no balances.
    """

    name: str
    ledgers: frozenset[str]  # letters (EPI, TransactionId) of the ledgers that the recipient loads from it
    domains: tuple[str, ...]
    rows: pl.Expr
    details: tuple[CsvColumn, ...]
    back: Mapping[str, pl.Expr]
    key: str  # column that identifies a detail line
    reverses: str  # column that names the reversed line
    summed: str  # column of the control total, per currency
    business_date: str  # column of the row's date
    balances: tuple[CsvColumn, ...] = ()
    group: tuple[str, ...] = ()  # columns of detail and balance lines
    framed: bool = True
    per_portfolio: bool = False  # one file a portfolio

    def __post_init__(self) -> None:
        if self.balances and not self.framed:
            raise ConfigurationError(f"Invalid layout {self.name!r}: balance lines need the letters of a framed file")

    @property
    def columns(self) -> Mapping[str, tuple[CsvColumn, ...]]:
        """Return the columns of the layout's lines by their first letter."""
        return {DETAIL: self.details, BALANCE: self.balances} if self.balances else {DETAIL: self.details}


def field_of(column: CsvColumn, value: pl.Expr) -> pl.Expr:
    """Return a typed value as the file spells it: null is the empty field, text is guarded, then quoted (RFC 4180)."""
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


def heading_line(layout: CsvLayout) -> bytes:
    """Return the first line of a file that is not framed."""
    names = pl.Series("name", [column.heading or column.name for column in layout.details])
    line = pl.select(quoted(pl.lit(names)).str.join(",") + LINE_END).item()
    return str(line).encode()


def quoted(text: pl.Expr) -> pl.Expr:
    """Quote a field that contains a comma, a quote or a line break, and double its quotes (RFC 4180)."""
    inside = text.str.replace_all('"', '""', literal=True)
    return pl.when(text.str.contains('[",\r\n]')).then(pl.concat_str(pl.lit('"'), inside, pl.lit('"'))).otherwise(text)


def typed(column: CsvColumn, text: pl.Expr) -> pl.Expr:
    """Return a field's text, without quotes, as a typed value; the empty field is null. Inverts ``field_of``."""
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
    """Return the sort key of a ledger id: by number; other ids (openings) are first, by code point."""
    return (1, int(text), "") if text.isascii() and text.isdigit() else (0, 0, text)
