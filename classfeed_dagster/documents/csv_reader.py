"""Strict CSV reader: a file read back from its bytes only, as a stream, in constant memory.

``inspect_page`` reports every fault by line and column, never by value. It checks the form of each field, the order of
lines, the balance at the end of each cash account's group and the trailer. Writing the parsed fields again must give
the same bytes, which covers line ends, quoting and the formula guard. A file that was truncated, concatenated or edited
in a spreadsheet program is refused.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import formula_guard as spreadsheet
from classfeed_dagster.documents.csv_mapping import (
    BALANCE,
    DETAIL,
    HEAD,
    LINE_END,
    TAIL,
    ColumnType,
    CsvColumn,
    CsvLayout,
    heading_line,
    id_order,
    quoted,
    typed,
)
from classfeed_dagster.documents.csv_writer import (
    SECTION,
    control_total,
    currency_totals,
    head_line,
    summed,
    tail_line,
)
from classfeed_dagster.documents.document_format import PageInspection, Totals, file_chunks
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, MOVEMENT_TRANSACTIONS
from classfeed_dagster.errors import DataError

_BATCH = 20_000
_MOST_ERRORS = 20
_HEADER = ("Feed", "BusinessDate", "SequenceNumber", "Revision", "SnapshotAt")
_HEADER_FORMS = (
    re.compile(r"[a-z][a-z0-9_]*\Z"),
    re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"),
    re.compile(r"[1-9][0-9]*\Z"),
    re.compile(r"(?:0|[1-9][0-9]*)\Z"),
    re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z\Z"),
)
_CONTROL = re.compile(r"(?P<currency>[A-Z]{3}):(?P<sum>-?(?:0|[1-9][0-9]*)[.][0-9]{2})\Z")


class UnreadableFileError(DataError):
    """The file differs from its layout. The message names lines and columns, never values."""


@dataclass
class _Inspection:
    """State of a file's inspection."""

    errors: list[str] = field(default_factory=list)
    header: dict[str, str] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    totals: Totals = field(default_factory=Totals)
    stated: Totals | None = None
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=lambda: {DETAIL: [], BALANCE: []})
    canonical: hashlib._Hash = field(default_factory=hashlib.sha256)

    def error(self, text: str) -> None:
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(text)


@dataclass
class _Batch:
    """Lines to be checked together: their letters in order, and their fields by letter."""

    first_line: int
    letters: list[str] = field(default_factory=list)
    rows: dict[str, list[list[str]]] = field(default_factory=lambda: {DETAIL: [], BALANCE: []})


def inspect_page(layout: CsvLayout, chunks: Iterable[bytes]) -> PageInspection:
    """See DocumentFormat. Line numbers count records: a quoted line break does not begin another."""
    source = _Source(chunks)
    inspection = _Inspection()
    _parse(layout, source, inspection, keep=False)
    return PageInspection(
        errors=tuple(inspection.errors),
        header=inspection.header,
        portfolios={SECTION: frozenset(inspection.numbers)},
        removed=frozenset(),  # not part of this file
        totals=inspection.totals,
        stated=inspection.stated,
        sha256=source.digest.hexdigest(),
        size=source.size,
        states_totals=layout.framed,
    )


def lines_of(layout: CsvLayout, chunks: Iterable[bytes]) -> dict[str, pl.DataFrame]:
    """Return the file's lines by their letter (``D``, and ``B`` if the layout has it), columns as in the layout.

    UnreadableFileError states the file's faults.
    """
    inspection = _Inspection()
    _parse(layout, _Source(chunks), inspection, keep=True)
    if inspection.errors:
        raise UnreadableFileError(f"Not a {layout.name} file: {'; '.join(inspection.errors[:3])}")
    return {
        letter: pl.concat([_no_lines(columns), *inspection.frames[letter]])
        for letter, columns in layout.columns.items()
    }


def frames_of(layout: CsvLayout, path: Path) -> dict[str, pl.DataFrame]:
    """Return the records of a file, gzipped or not, as the domains' frames; columns that the file lacks are null."""
    lines = _whole_lines(layout, path)
    values = {column.name: pl.col(column.name) for column in layout.details} | dict(layout.back)
    movements = lines[DETAIL].select(
        values.get(column.name, pl.lit(None, column.dtype)).alias(column.name)
        for column in MOVEMENT_TRANSACTIONS.columns
    )
    frames = {MOVEMENT_TRANSACTIONS.name: MOVEMENT_TRANSACTIONS.conform(movements)}
    if layout.balances:
        frames[ACCOUNT_BALANCES.name] = ACCOUNT_BALANCES.conform(lines[BALANCE])
    return frames


def _whole_lines(layout: CsvLayout, path: Path) -> dict[str, pl.DataFrame]:
    try:
        return lines_of(layout, file_chunks(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableFileError(f"Not a {layout.name} file: it cannot be unpacked ({type(error).__name__})") from None


class _Source(io.RawIOBase):
    """Chunks of bytes as a readable file that computes size and digest on the way."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""
        self.size = 0
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants any writable buffer
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self.size += len(chunk)
            self.digest.update(chunk)
            self._rest = chunk
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def drain(self) -> None:
        """Read the rest after a reader that stopped early, for size and digest."""
        scratch = memoryview(bytearray(1 << 16))
        while self.readinto(scratch):
            pass


def _parse(layout: CsvLayout, source: _Source, inspection: _Inspection, *, keep: bool) -> None:
    text = io.TextIOWrapper(io.BufferedReader(source), encoding="utf-8", errors="strict", newline="")
    try:
        _records(layout, csv.reader(text, strict=True), inspection, keep=keep)
    except UnicodeDecodeError:
        inspection.error("not UTF-8")
    except csv.Error as error:
        inspection.error(f"not CSV: {error}")
    finally:
        text.detach().detach()  # closing them would close the source before its rest is read
    source.drain()
    if not inspection.errors and inspection.canonical.hexdigest() != source.digest.hexdigest():
        inspection.error("line ends or quoting are not as the file's form requires (CR LF, quotes only where needed)")


def _records(layout: CsvLayout, records: Iterator[list[str]], inspection: _Inspection, *, keep: bool) -> None:
    first = next(records, [])
    if layout.framed:
        _head(first, inspection)
    else:
        _heading(layout, first, inspection)
        records = ([DETAIL, *record] for record in records)
    widths = {letter: len(columns) + 1 for letter, columns in layout.columns.items()}
    order = _LineOrder(layout, inspection)
    batch, at, tail = _Batch(first_line=2), 1, None
    for at, record in enumerate(records, start=2):
        letter = record[0] if record else ""
        if tail is not None:
            inspection.error(f"line {at} comes after the trailer")
            break
        if letter == TAIL and layout.framed:
            tail = record
        elif len(record) != widths.get(letter):
            count = len(record) if layout.framed else len(record) - 1
            inspection.error(f"line {at} is not a line of this file: {count} fields")
            break
        else:
            batch.letters.append(letter)
            batch.rows[letter].append(record[1:])
            order.next(at, letter, record)
            if len(batch.letters) == _BATCH:
                _check_batch(layout, batch, inspection, keep=keep)
                batch = _Batch(first_line=at + 1)
    order.end(at)
    _check_batch(layout, batch, inspection, keep=keep)
    if layout.framed:
        _tail(layout, tail, inspection)


def _heading(layout: CsvLayout, record: Sequence[str], inspection: _Inspection) -> None:
    if list(record) != [column.heading or column.name for column in layout.details]:
        inspection.error("line 1 is not the heading line of this file")
    inspection.canonical.update(heading_line(layout))


def _head(record: Sequence[str], inspection: _Inspection) -> None:
    fits = len(record) == len(_HEADER) + 1 and record[0] == HEAD
    if not fits or not all(form.match(text) for form, text in zip(_HEADER_FORMS, record[1:], strict=True)):
        inspection.error(
            "line 1 is not a header: H,<feed>,<business date>,<sequence number>,<revision>,<snapshot instant>"
        )
        return
    inspection.header = dict(zip(_HEADER, record[1:], strict=True))
    inspection.canonical.update(head_line(*record[1:]))


def _tail(layout: CsvLayout, record: Sequence[str] | None, inspection: _Inspection) -> None:
    if record is None:
        inspection.error("the trailer is missing: the file is truncated")
        return
    if len(record) != 3 or not record[1].isascii() or not record[1].isdigit():
        inspection.error("the last line is not a trailer: T,<detail lines>,<control total>")
        return
    parts = [_CONTROL.match(part) for part in record[2].split("|")] if record[2] else []
    currencies = [part["currency"] for part in parts if part]
    if len(currencies) != len(parts) or currencies != sorted(set(currencies)):
        inspection.error("the control total is not <currency>:<sum>|..., ordered by currency")
        return
    sums = {part["currency"]: Decimal(part["sum"]) for part in parts if part}
    inspection.stated = Totals(
        {SECTION: int(record[1])},
        {currency: currency_totals(layout, total, Decimal("0.00")) for currency, total in sums.items()},
    )
    inspection.canonical.update(tail_line(record[1], record[2]))
    if inspection.errors:
        return  # the sums lack the lines that could not be read
    counted = inspection.totals.counts.get(SECTION, 0)
    if int(record[1]) != counted:
        inspection.error(f"the trailer states {int(record[1])} detail lines, the file has {counted}")
    if control_total(sums) != control_total(summed(inspection.totals)):
        inspection.error("the control total is not the sum of the detail lines")


class _LineOrder:
    """Check of the lines' order, and of the balance at the end of a cash account's group."""

    def __init__(self, layout: CsvLayout, inspection: _Inspection) -> None:
        self._found = inspection
        self._where: dict[str, list[int]] = {}
        for letter, columns in layout.columns.items():
            names = [column.name for column in columns]
            self._where[letter] = [names.index(name) + 1 for name in ("portfolio_number", *layout.group[1:])]
        self._key = [column.name for column in layout.details].index(layout.key) + 1
        self._grouped = bool(layout.balances)
        self._last: tuple[object, ...] | None = None
        self._group: tuple[str, ...] | None = None
        self._letter = BALANCE

    def next(self, line: int, letter: str, record: Sequence[str]) -> None:
        """Check the next line against the previous one."""
        group = tuple(spreadsheet.unguard(record[at]) for at in self._where[letter])
        rank = (0, *id_order(record[self._key])) if letter == DETAIL else (1, 0, 0, "")
        place = (*group, *rank)
        if self._last is not None and place <= self._last:
            self._found.error(f"line {line} is out of order or a duplicate")
        if group != self._group:
            self.end(line - 1)
        self._last, self._group, self._letter = place, group, letter
        self._found.numbers.add(group[0])

    def end(self, line: int) -> None:
        """Check that the previous group has ended at this line."""
        if self._grouped and self._letter != BALANCE:
            self._found.error(f"the cash account at line {line} has no balance line after its details")


def _check_batch(layout: CsvLayout, batch: _Batch, inspection: _Inspection, *, keep: bool) -> None:
    spelled: dict[str, Iterator[str]] = {}
    for letter, columns in layout.columns.items():
        texts = pl.DataFrame(batch.rows[letter], schema={column.name: pl.String for column in columns}, orient="row")
        spelled[letter] = iter(_spelled_again(columns, letter if layout.framed else "", texts))
        if _fields_fit(columns, letter, texts, batch.first_line, inspection):
            lines = texts.select(typed(column, pl.col(column.name)).alias(column.name) for column in columns)
            if letter == DETAIL:
                inspection.totals = inspection.totals + _sums(layout, lines)
            if keep:
                inspection.frames[letter].append(lines)
    inspection.canonical.update("".join(next(spelled[letter]) for letter in batch.letters).encode())


def _fields_fit(
    columns: Sequence[CsvColumn], letter: str, texts: pl.DataFrame, line: int, inspection: _Inspection
) -> bool:
    # True if every field has the form of its type; faults are reported by column and count.
    before = len(inspection.errors)
    for column in columns:
        text = pl.col(column.name)
        if column.kind is ColumnType.TEXT:
            bad = texts.filter(spreadsheet.guard_column(spreadsheet.unguard_column(text)) != text).height
        else:
            bad = texts.filter((text != "") & ~text.str.contains(column.kind.pattern)).height
        missing = texts.filter(text == "").height if column.required else 0
        for count, fault in ((bad, "have no valid"), (missing, "lack")):
            if count:
                inspection.error(f"{count} {letter} lines from line {line} on {fault} {column.name}")
    if len(inspection.errors) > before:
        return False
    try:
        texts.select(typed(c, pl.col(c.name)).alias(c.name) for c in columns if c.kind is not ColumnType.TEXT)
    except pl.exceptions.InvalidOperationError:
        # The form is right, but the value does not exist (30 February) or exceeds its type; the error holds values.
        inspection.error(f"a date, instant or number of the {letter} lines from line {line} on is impossible")
        return False
    return True


def _sums(layout: CsvLayout, lines: pl.DataFrame) -> Totals:
    amount, zero = pl.col(layout.summed), Decimal("0.00")
    sums = lines.group_by("currency").agg(
        amount.filter(amount > 0).sum().alias("credits"), amount.filter(amount < 0).sum().alias("debits")
    )
    return Totals(
        {SECTION: lines.height} if lines.height else {},
        {
            currency: currency_totals(layout, credits_ or zero, debits or zero)
            for currency, credits_, debits in sums.sort("currency").iter_rows()
        },
    )


def _spelled_again(columns: Sequence[CsvColumn], letter: str, texts: pl.DataFrame) -> pl.Series:
    start = [pl.lit(letter)] if letter else []
    line = pl.concat_str(*start, *(quoted(pl.col(column.name)) for column in columns), separator=",")
    return texts.select((line + pl.lit(LINE_END)).alias("line"))["line"]


def _no_lines(columns: Sequence[CsvColumn]) -> pl.DataFrame:
    return pl.DataFrame(schema={column.name: column.kind.dtype for column in columns})
