"""Reader of the old apps' files, normalised for the comparison with the new feed's file.

The old files have the new files' columns in a free form. Only these variations are normalised:

- lines in any order, in one file or several; line ends CR LF or LF; a byte-order mark;
- either the H, D, B, T lines of the new form, or rows under a heading of column names, the columns in any order;
- dates ``YYYY-MM-DD`` or ``DD/MM/YYYY``; instants with a zone, or without one in Sydney's time;
- numbers with or without thousands commas, a plus sign, trailing zeros;
- blanks around text, and the apostrophe that guards a formula;
- a reversal as its own row, or as a copy of the original with ``reversal`` = ``Y`` in an additional column.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import formula_guard as spreadsheet
from classfeed_dagster.documents.csv_mapping import BALANCE, DETAIL, HEAD, TAIL, ColumnType, CsvColumn, CsvLayout
from classfeed_dagster.errors import DataError, NotReadyError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import SYDNEY

REVERSAL = "reversal"  # the flag's column
_BATCH = 20_000
_PORTFOLIO = "portfolio_number"  # a column of every kind of line, by which a heading is recognised
_GROUPED = r"^[+-]?[0-9]{1,3}(,[0-9]{3})+([.][0-9]*)?$"
_SLASHED = r"^([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})"


class LegacyMissingError(NotReadyError):
    """The old app's output for the date is not in the store yet."""

    def __init__(self, location: str) -> None:
        super().__init__(f"{location} has no file: copy the old app's output there, then compare again")


class LegacyFileError(DataError):
    """The old app's file is not in the expected form. Names file, line and column, never values."""

    def __init__(self, key: str, fault: str) -> None:
        super().__init__(f"{key}: {fault}. No lines were compared: have the file written again, complete and in UTF-8")


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """Object that was read."""

    key: str
    sha256: str


@dataclass(frozen=True)
class LegacyLines:
    """Lines of the old app for one date by letter: the layout's columns as normalised text, and ``reversal``.

    ``read_at`` is the earliest snapshot instant stated by a heading; None if none states one.
    """

    files: tuple[LegacyFile, ...]
    lines: dict[str, pl.DataFrame]
    read_at: dt.datetime | None


def legacy_prefix(feed: str, day: dt.date) -> str:
    """Return the prefix of the old app's output for the date."""
    return f"legacy/{feed}/{day.isoformat()}/"


def read_legacy(store: ObjectStore, feed: str, layout: CsvLayout, day: dt.date) -> LegacyLines:
    """Read the files under the date's prefix. LegacyMissingError without one, LegacyFileError if one is damaged."""
    prefix = legacy_prefix(feed, day)
    keys = list(store.list(prefix))
    if not keys:
        raise LegacyMissingError(store.location(prefix.removesuffix("/")))
    readings = []
    for key in keys:
        with store.local_file(key) as path:
            readings.append(_Reading(key, feed, layout, day).read(path))
    lines = {
        letter: pl.concat(
            [
                _normalised(columns, frame)
                for reading in readings
                for frame in (reading.empty(letter), *reading.frames[letter])
            ]
        )
        for letter, columns in layout.columns.items()
    }
    stated = [reading.read_at for reading in readings if reading.read_at is not None]
    files = tuple(LegacyFile(reading.key, reading.sha256) for reading in readings)
    return LegacyLines(files, lines, min(stated, default=None))


@dataclass
class _Reading:
    """State of reading one file."""

    key: str
    feed: str
    layout: CsvLayout
    day: dt.date
    sha256: str = ""
    read_at: dt.datetime | None = None
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=lambda: {DETAIL: [], BALANCE: []})
    _rows: dict[str, list[list[str]]] = field(default_factory=lambda: {DETAIL: [], BALANCE: []})
    _lines: int = 0
    _details: int = 0
    _headed: bool = False
    _ended: bool = False
    _section: tuple[str, list[int | None]] | None = None  # under a heading of names: letter, place of each column

    def read(self, path: Path) -> _Reading:
        """Read the whole file."""
        with path.open("rb") as source:
            self.sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            source.seek(0)
            text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="strict", newline="")
            at = 0
            try:
                for at, record in enumerate(csv.reader(text, strict=True), start=1):
                    if any(field.strip() for field in record):
                        self._take(at, record)
            except UnicodeDecodeError:
                raise LegacyFileError(self.key, f"it is not UTF-8, somewhere after line {at}") from None
            except csv.Error as error:
                raise LegacyFileError(self.key, f"after line {at} it is not CSV ({error})") from None
        if self._headed and not self._ended:
            raise LegacyFileError(self.key, "the trailer is missing: the file is truncated")
        if not self._headed and self._section is None and not self._lines:
            raise LegacyFileError(self.key, "it has no header line, no column names and no lines: it is empty")
        for letter in self._rows:
            self._flush(letter)
        return self

    def empty(self, letter: str) -> pl.DataFrame:
        """Return an empty frame of lines."""
        return pl.DataFrame(schema=self._schema(letter))

    def _schema(self, letter: str) -> dict[str, pl.DataType]:
        return {name: pl.String() for name in (*(c.name for c in self.layout.columns[letter]), REVERSAL)}

    def _take(self, at: int, record: list[str]) -> None:
        if self._ended:
            raise LegacyFileError(self.key, f"line {at} is after the trailer")
        if record[0] == HEAD and len(record) == 6 and not self._headed and at == 1:
            self._head(record)
        elif record[0] == TAIL and len(record) == 3:
            self._tail(record)
        elif (names := self._heading(at, record)) is not None:
            self._section = names
        elif self._section is not None:
            letter, places = self._section
            if len(record) != sum(place is not None for place in places):
                raise LegacyFileError(self.key, f"line {at} has {len(record)} fields, its heading another number")
            self._add(at, letter, [record[place] if place is not None else "" for place in places])
        else:
            self._positional(at, record)

    def _positional(self, at: int, record: list[str]) -> None:
        columns = self.layout.columns.get(record[0])
        surplus = len(record) - 1 - len(columns) if columns is not None else -1
        if surplus not in ((0, 1) if record[0] == DETAIL else (0,)):
            raise LegacyFileError(self.key, f"line {at} with {len(record)} fields is not a line of {self.layout.name}")
        self._add(at, record[0], [*record[1:], *([] if surplus else [""])])

    def _heading(self, at: int, record: Sequence[str]) -> tuple[str, list[int | None]] | None:
        names = [name.strip().lower() for name in record]
        if _PORTFOLIO not in names:
            return None
        for letter, columns in self.layout.columns.items():
            expected = [column.name for column in columns]
            if len(set(names) & set(expected)) <= len(expected) // 2:
                continue  # a row of values, or the other kind of line's heading
            allowed = {*expected, REVERSAL} if letter == DETAIL else set(expected)
            if len(set(names)) != len(names) or not set(expected) <= set(names) <= allowed:
                odd = sorted({*expected} - {*names}) or ["an unexpected column"]
                raise LegacyFileError(self.key, f"the heading in line {at} does not fit: check {', '.join(odd)}")
            return letter, [names.index(name) if name in names else None for name in (*expected, REVERSAL)]
        return None

    def _head(self, record: Sequence[str]) -> None:
        day = pl.select(_date(pl.lit(record[2].strip()))).item()
        if record[1].strip() != self.feed or day != self.day.isoformat():
            raise LegacyFileError(self.key, f"its header does not state {self.feed} of {self.day.isoformat()}")
        self._headed = True
        with suppress(ValueError):
            read_at = dt.datetime.fromisoformat(record[5].strip())
            self.read_at = (read_at if read_at.tzinfo else read_at.replace(tzinfo=SYDNEY)).astimezone(dt.UTC)

    def _tail(self, record: Sequence[str]) -> None:
        if record[1].strip() != str(self._details):
            raise LegacyFileError(
                self.key, f"it has {self._details} detail lines, its trailer states another number: it is incomplete"
            )
        self._ended = True

    def _add(self, at: int, letter: str, fields: list[str]) -> None:
        flag = fields[-1].strip().upper()
        if flag not in ("", "N", "Y"):
            raise LegacyFileError(self.key, f"line {at}: {REVERSAL} is neither Y nor N")
        fields[-1] = flag
        self._rows[letter].append(fields)
        self._lines += 1
        self._details += letter == DETAIL
        if len(self._rows[letter]) == _BATCH:
            self._flush(letter)

    def _flush(self, letter: str) -> None:
        if self._rows[letter]:
            self.frames[letter].append(pl.DataFrame(self._rows[letter], schema=self._schema(letter), orient="row"))
            self._rows[letter] = []


def _normalised(columns: Sequence[CsvColumn], lines: pl.DataFrame) -> pl.DataFrame:
    """Normalise the columns for the comparison. Invalid text is left unchanged and so reported as unreadable."""
    return lines.select(
        *(_normal(column, pl.col(column.name)).alias(column.name) for column in columns),
        (pl.col(REVERSAL) == "Y").alias(REVERSAL),
    )


def _normal(column: CsvColumn, text: pl.Expr) -> pl.Expr:
    trimmed = text.str.strip_chars()
    match column.kind:
        case ColumnType.TEXT:
            value = plain_text(trimmed)
        case ColumnType.DATE:
            value = _date(trimmed)
        case ColumnType.INSTANT:
            value = _instant(trimmed)
        case ColumnType.MONEY | ColumnType.DECIMAL6:
            value = _number(trimmed)
    return pl.when(value != "").then(value)


def plain_text(text: pl.Expr) -> pl.Expr:
    """Strip surrounding blanks and one guarding apostrophe, on both sides of the comparison."""
    return spreadsheet.unguard_column(text.str.strip_chars())


def _date(text: pl.Expr) -> pl.Expr:
    parts = text.str.extract_groups(_SLASHED + "$")
    ours = pl.concat_str(
        parts.struct.field("3"),
        parts.struct.field("2").str.zfill(2),
        parts.struct.field("1").str.zfill(2),
        separator="-",
    )
    return pl.coalesce(ours, text)


def _instant(text: pl.Expr) -> pl.Expr:
    parts = text.str.extract_groups(_SLASHED + "[T ](.*)$")
    ours = pl.concat_str(
        parts.struct.field("3"), pl.lit("-"), parts.struct.field("2").str.zfill(2), pl.lit("-"),
        parts.struct.field("1").str.zfill(2), pl.lit("T"), parts.struct.field("4"),
    )  # fmt: skip
    iso = pl.coalesce(ours, text).str.replace("^([0-9-]{10}) ", "${1}T").str.replace("Z$", "+00:00")
    zoned = iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    local = iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    # The repeated hour at the end of daylight saving is ambiguous, and one hour in spring does not exist.
    sydney = local.dt.replace_time_zone(SYDNEY.key, ambiguous="null", non_existent="null").dt.convert_time_zone("UTC")
    return pl.coalesce(pl.coalesce(zoned, sydney).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"), text)


def _number(text: pl.Expr) -> pl.Expr:
    without_marks = pl.when(text.str.contains(_GROUPED)).then(text.str.replace_all(",", "")).otherwise(text)
    signed = without_marks.str.replace(r"^[+]", "")
    # 12.500000 and 12.5 are equal: the comparison refuses more decimals than a column has.
    return signed.str.replace(r"^(-?[0-9]+[.][0-9]*?)0+$", "${1}").str.replace(r"^(-?[0-9]+)[.]$", "${1}")


def negated(text: pl.Expr) -> pl.Expr:
    """Negate a normalised number."""
    return pl.when(text.str.starts_with("-")).then(text.str.slice(1)).otherwise(pl.lit("-") + text)


def shows_seconds_only(lines: pl.DataFrame, columns: Sequence[CsvColumn]) -> Iterator[str]:
    """Yield the instant columns that the old file has without fractions throughout: compared to the second."""
    for column in columns:
        if column.kind is ColumnType.INSTANT and lines[column.name].drop_nulls().str.ends_with(".000000Z").all():
            yield column.name
