"""EPI reader: errors, totals and portfolios of a document, from its bytes only."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import polars as pl

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import (
    CurrencyTotals,
    KnownRecords,
    PageInspection,
    RecordInspection,
    Totals,
    file_chunks,
)
from classfeed_dagster.documents.epi_mapping import ElementType, RecordMapping
from classfeed_dagster.documents.epi_records import RecordReader, RecordSink, closing_tag, take_lines
from classfeed_dagster.documents.epi_totals import totals_of
from classfeed_dagster.documents.epi_validator import Lines, Validator
from classfeed_dagster.errors import DataError

BLOCK = 1 << 22  # bytes of records inspected at once
_CONTROL_SECTIONS = {section.counted_as: section.name for section in epi.SECTIONS}
_SECTION_OF = {section.record.name: section.name for section in epi.SECTIONS}
_FRAME_FIELDS = {element.name: element.column for element in epi.CURRENCY_ELEMENTS}
# Columns of each record that the totals need.
_COUNTED = {
    epi.ACCOUNT.name: (epi.PORTFOLIO, epi.CONSENT),
    epi.CASH_ACCOUNT.name: (epi.PORTFOLIO,),
    epi.ACCOUNT_BALANCE.name: (epi.PORTFOLIO, epi.CURRENCY, "ledger_balance"),
    epi.INVESTMENT_HOLDING.name: (epi.PORTFOLIO, epi.CURRENCY, "market_value", "units"),
    epi.MOVEMENT_TRANSACTION.name: (
        epi.PORTFOLIO,
        epi.CURRENCY,
        "transaction_id",
        "transaction_type",
        "amount",
        "net_amount",
        "units",
    ),
}
_EVERYTHING = {
    record.name: tuple(dict.fromkeys((epi.PORTFOLIO, *(element.column for element in record.typed()))))
    for record in epi.RECORDS
}


class UnreadableDocumentError(DataError):
    """The file is not a valid EPI document. The message names lines and elements, never values."""


def inspect_page(chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
    """Read a page as a stream in constant memory: validate it, recompute its totals, list its portfolios.

    Blocks of records whose bytes are ``known``, by their SHA-256, are not inspected again. The content of the bytes
    never raises: all faults are in ``errors``. After an error, sums and lists are incomplete and meaningless.
    ``header`` is by element name.
    """
    summary = _Summary()
    source = _Hashed(chunks)

    def take_known(section: str, block: bytes) -> bool:
        facts = known.get(_digest(section, block)) if known else None
        if facts is not None:
            summary.add(section, facts)
        return facts is not None

    errors, frame = _read(source, _COUNTED, summary.take, take_known)
    for _ in source:
        pass  # the rest after a reader that stopped early, for size and digest
    header = {path[2]: text for path, text in frame if path[1:2] == (epi.HEADER,) and len(path) == 3}
    return PageInspection(
        errors=tuple(errors + summary.errors()),
        header=header,
        portfolios={name: frozenset(numbers) for name, numbers in summary.portfolios.items()},
        removed=frozenset(summary.removed),
        totals=summary.totals,
        stated=_stated(frame),
        sha256=source.digest.hexdigest(),
        size=source.size,
    )


def inspect_records(section: str, chunks: Iterable[bytes]) -> dict[str, RecordInspection]:
    """Return the inspection of a section's records by block; blocks that are not certainly valid are left out.

    Blocks are cut as in a page's inspection, which finds them by their SHA-256.
    """
    record = next(each.record for each in epi.SECTIONS if each.name == section)
    source, inspections = Lines(chunks), dict[str, RecordInspection]()
    while block := source.block(closing_tag(section), BLOCK)[1]:
        summary = _Summary()
        if take_lines(record, block, _COUNTED, summary.take):
            inspections[_digest(section, block)] = summary.facts(section)
    return inspections


def _digest(section: str, block: bytes) -> str:
    digest = hashlib.sha256(f"{section}\0".encode())
    digest.update(block)
    return digest.hexdigest()


def read(path: Path) -> dict[str, pl.DataFrame]:
    """Return a page's records, gzipped or not, as the five frames that the domains declare, in the frames' order.

    UnreadableDocumentError states the fault by line and element, without values.
    """
    parts: dict[str, list[pl.DataFrame]] = {record.name: [record.frame.empty()] for record in epi.RECORDS}
    lost: list[str] = []  # values that the XSD allows and no frame can hold: an hour 24, a price of 20 digits

    def take(record: RecordMapping, texts: pl.DataFrame) -> None:
        rows = texts.select(_typed(record, texts.columns))
        lost.extend(
            f"{record.name} {name}" for name in texts.columns if rows[name].null_count() > texts[name].null_count()
        )
        parts[record.name].append(rows)

    try:
        errors, _ = _read(file_chunks(path), _EVERYTHING, take)
    except (OSError, EOFError) as error:
        raise UnreadableDocumentError(f"{path.name} cannot be read to its end ({type(error).__name__})") from None
    if errors:
        raise UnreadableDocumentError(f"{path.name} is not a valid {epi.ROOT}: {'; '.join(errors[:5])}")
    if lost:
        raise UnreadableDocumentError(f"{path.name} has values that exceed the columns' types: {', '.join(lost[:5])}")
    return {
        record.frame.name: record.frame.conform(pl.concat(parts[record.name], how="diagonal")) for record in epi.RECORDS
    }


class _StopReading(Exception):  # noqa: N818
    """The validator needs no more pieces."""


class _Hashed:
    """Chunks that are counted and hashed as they pass."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def _read(
    chunks: Iterable[bytes],
    columns: Mapping[str, Sequence[str]],
    take: RecordSink,
    take_known: Callable[[str, bytes], bool] = lambda section, block: False,
) -> tuple[list[str], list[tuple[tuple[str, ...], str]]]:
    # Validate and read in one pass: the errors, and the leaves of the document's frame.
    validator, records = Validator(), RecordReader(columns, take)

    def feed(line: int, piece: bytes) -> None:
        if not validator.feed(piece, line):
            raise _StopReading
        if not validator.errors:  # an invalid document may nest without limit, which only the validator can handle
            records.feed(piece)

    line, source = 1, Lines(chunks)
    with contextlib.suppress(_StopReading):
        for line, piece in source:
            feed(line, piece)
            while not validator.errors and (section := records.section) is not None:
                first, block = source.block(closing_tag(section.name), BLOCK)
                if not block:
                    break
                if take_known(section.name, block) or take_lines(section.record, block, columns, take):
                    validator.skip(block.count(b"\n"))
                    continue
                for line, part in Lines([block], first):  # noqa: PLW2901
                    feed(line, part)
        validator.close(line)
        if not validator.errors:
            records.close()
    return validator.errors, records.frame


def _typed(record: RecordMapping, columns: Iterable[str]) -> list[pl.Expr]:
    # Text columns in the frame's types: null where the text is not of the type.
    requested = set(columns)
    values = {epi.PORTFOLIO: pl.col(epi.PORTFOLIO)}
    for element in record.typed():
        if element.column not in requested:
            continue
        text = pl.col(element.column)
        if element.type in epi.NUMBERS:
            values[element.column] = text.cast(record.frame.column(element.column).dtype, strict=False)
        elif element.type is ElementType.DATE:
            values[element.column] = text.str.to_date("%Y-%m-%d", strict=False)
        elif element.type is ElementType.INSTANT:
            # Whole seconds or six decimals: the fraction is optional.
            naive = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.6fZ", time_unit="us", strict=False)
            values[element.column] = naive.dt.replace_time_zone("UTC")
        else:
            values[element.column] = text
    return [value.alias(name) for name, value in values.items()]


class _Summary:
    """Running totals and lists of ``inspect_page``."""

    def __init__(self) -> None:
        self.totals = Totals(dict.fromkeys(_SECTION_OF.values(), 0))
        self.portfolios: dict[str, set[str]] = {name: set() for name in _SECTION_OF.values()}
        self.removed: set[str] = set()
        self._no_currency: list[str] = []

    def take(self, record: RecordMapping, texts: pl.DataFrame) -> None:
        """Add records."""
        section = _SECTION_OF.get(record.name)
        if section is None:
            return
        rows = texts.select(_typed(record, texts.columns))
        self.portfolios[section].update(rows[epi.PORTFOLIO].unique())
        if record is epi.ACCOUNT:
            self.removed.update(rows.filter(pl.col(epi.CONSENT) == epi.REMOVED)[epi.PORTFOLIO])
        frames = {name: pl.DataFrame(schema=_NO_ROWS[name]) for name in self.portfolios}
        self.totals += totals_of(frames | {section: rows})
        if record is epi.MOVEMENT_TRANSACTION:
            money = pl.any_horizontal(pl.col("amount", "net_amount").is_not_null())
            bare = rows.filter(money & pl.col(epi.CURRENCY).is_null())
            self._no_currency += bare["transaction_id"].to_list()

    def add(self, section: str, facts: RecordInspection) -> None:
        """Add records inspected in advance."""
        self.totals += facts.totals
        self.portfolios[section] |= facts.portfolios
        self.removed |= facts.removed
        self._no_currency += facts.without_currency

    def facts(self, section: str) -> RecordInspection:
        """Return the inspection of the added records, all of one section."""
        numbers = frozenset(self.portfolios[section])
        return RecordInspection(self.totals, numbers, frozenset(self.removed), tuple(self._no_currency))

    def errors(self) -> list[str]:
        """Return the errors in the records that the XSD cannot express."""
        if not self._no_currency:
            return []
        name = epi.MOVEMENT_TRANSACTION.name
        first = self._no_currency[0]
        return [f"{name}: {len(self._no_currency)} records have money without a currency, the first is {first}"]


_NO_ROWS = {
    section.name: {column: section.record.frame.schema[column] for column in _COUNTED[section.record.name]}
    for section in epi.SECTIONS
}


def _stated(frame: Iterable[tuple[tuple[str, ...], str]]) -> Totals | None:
    # The control totals as the page states them; None if they cannot be read.
    counts: dict[str, int] = {}
    currencies: dict[str, dict[str, Decimal]] = {}
    units: dict[str, Decimal] = {}
    currency = ""
    try:
        for path, text in frame:
            if path[1:2] != (epi.CONTROL_TOTALS,):
                continue
            name = path[-1]
            if path[2:] == (epi.CURRENCY_TOTAL, epi.CURRENCY_ATTRIBUTE):
                currency = text
                currencies[currency] = {}
            elif path[2:3] == (epi.CURRENCY_TOTAL,) and name in _FRAME_FIELDS:
                currencies[currency][_FRAME_FIELDS[name]] = Decimal(text)
            elif name in _CONTROL_SECTIONS:
                counts[_CONTROL_SECTIONS[name]] = int(text)
            elif name in (epi.UNITS_HELD.name, epi.UNITS_MOVED.name):
                units[name] = Decimal(text)
        return Totals(
            counts,
            {
                currency: CurrencyTotals(
                    ledger_balance=sums["ledger_balance"],
                    market_value=sums["market_value"],
                    cash_credits=sums["cash_amount"],
                    net_amount=sums["net_amount"],
                )
                for currency, sums in sorted(currencies.items())
            },
            units[epi.UNITS_HELD.name],
            units[epi.UNITS_MOVED.name],
        )
    except (InvalidOperation, ValueError, KeyError):
        return None
