"""What every document format offers, and the small types that rendering, checking and delivery share."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Protocol, runtime_checkable

import polars as pl

from classfeed_dagster.trading_days import Window


@dataclass(frozen=True, slots=True)
class PageHeader:
    """What a page says of itself. Everything comes from the snapshot and the plan; nothing from the clock."""

    feed: str
    recipient: str
    business_date: dt.date
    sequence_number: int
    revision: int
    replaces: str | None
    page_number: int
    page_count: int
    window: Window
    snapshot_at: dt.datetime

    @property
    def message_id(self) -> str:
        """``<feed>-<YYYYMMDD>-r<revision>-p<page>``: unique for ever (XSD, Header)."""
        return message_id(self.feed, self.business_date, self.revision, self.page_number)


def message_id(feed: str, business_date: dt.date, revision: int, page: int) -> str:
    """The id of one page of one revision; also the stem of its file's name."""
    return f"{feed}-{business_date:%Y%m%d}-r{revision}-p{page}"


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """Sums over one currency of a page, debits and credits of cash also apart. Exact to the cent."""

    ledger_balance: Decimal = Decimal("0.00")
    market_value: Decimal = Decimal("0.00")
    cash_credits: Decimal = Decimal("0.00")
    cash_debits: Decimal = Decimal("0.00")  # zero or negative
    net_amount: Decimal = Decimal("0.00")

    @property
    def cash_amount(self) -> Decimal:
        """Credits and debits together."""
        return self.cash_credits + self.cash_debits

    def __add__(self, other: CurrencyTotals) -> CurrencyTotals:
        return CurrencyTotals(
            self.ledger_balance + other.ledger_balance,
            self.market_value + other.market_value,
            self.cash_credits + other.cash_credits,
            self.cash_debits + other.cash_debits,
            self.net_amount + other.net_amount,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """The control totals of some portfolios: additive, so those of a page are the sum of its portfolios'."""

    counts: Mapping[str, int] = field(default_factory=dict)  # records by section
    currencies: Mapping[str, CurrencyTotals] = field(default_factory=dict)  # ordered by currency when written
    units_held: Decimal = Decimal("0.000000")
    units_moved: Decimal = Decimal("0.000000")

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in {**self.counts, **other.counts}},
            {
                name: self.currencies.get(name, CurrencyTotals()) + other.currencies.get(name, CurrencyTotals())
                for name in sorted({*self.currencies, *other.currencies})
            },
            self.units_held + other.units_held,
            self.units_moved + other.units_moved,
        )


@dataclass(frozen=True, slots=True)
class RenderedPortfolio:
    """One portfolio's part of the document: its records as bytes, by section, and what they add up to."""

    number: str
    sections: Mapping[str, bytes]
    totals: Totals

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(map(len, self.sections.values()))


@dataclass(frozen=True, slots=True)
class PageInspection:
    """What reading a written page back found, from its bytes alone."""

    errors: tuple[str, ...]  # why it is not valid; empty if it is. No personal data.
    header: Mapping[str, str]
    portfolios: Mapping[str, frozenset[str]]  # portfolio numbers by section
    removed: frozenset[str]  # those announced as REMOVED: number and reference alone
    totals: Totals  # recomputed from the records
    stated: Totals | None  # as the page states them; cash credits and debits not apart (credits hold the sum)
    sha256: str  # of the uncompressed bytes
    size: int  # of the uncompressed bytes

    @property
    def valid(self) -> bool:
        """True if the page is well-formed and obeys its schema."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class RecordInspection:
    """What examining some records of one section found: all of them valid, and what they add up to."""

    totals: Totals
    portfolios: frozenset[str]
    removed: frozenset[str]
    without_currency: tuple[str, ...] = ()  # ids of records with money and no currency


# What was examined ahead: facts by the SHA-256 that the format gives to the bytes of a block of records.
KnownRecords = Mapping[str, RecordInspection]


@runtime_checkable
class ExaminedAhead(Protocol):
    """What a format has on top if its records can be examined before the page around them is known.

    The page says how many pages there are, so none can be written before the last portfolio is rendered. Records can
    be examined meanwhile: a page that holds exactly these bytes needs no more than their hash.
    """

    def examine_records(self, section: str, chunks: Iterable[bytes]) -> KnownRecords:
        """Examine all records of a page's section; those that aren't surely valid are left to ``examine_page``."""
        ...

    def examine_page(self, chunks: Iterable[bytes], known: KnownRecords) -> PageInspection:
        """``examine``, taking the facts of records from ``known`` where their bytes are those examined ahead."""
        ...


@dataclass(frozen=True, slots=True)
class DocumentColumn:
    """One field of a document's records, an element's path or a line's field, and the domain's columns that fill it.

    ``rows`` are the landed ledgers and openings whose rows the document carries; None: all of them.
    """

    name: str
    kind: str  # its type in the document
    filled_by: tuple[tuple[str, str], ...]  # frame and column
    optional: bool
    rows: tuple[str, ...] | None = None


@runtime_checkable
class WithColumns(Protocol):
    """A format that says what fills each field of its records, from the declaration that writes them: for lineage."""

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """Every field that a domain fills, in document order."""
        ...


@runtime_checkable
class WithTotals(Protocol):
    """A format whose records, read into frames, can be added up again as its pages state."""

    def totals(self, frames: Mapping[str, pl.DataFrame]) -> Totals:
        """What the records of ``DocumentFormat.read`` add up to."""
        ...


class DocumentFormat(Protocol):
    """A document format: declarative inside, these doors outside."""

    @property
    def name(self) -> str:
        """The format's name."""
        ...

    @property
    def extension(self) -> str:
        """The ending of its files, ``.xml``."""
        ...

    @property
    def domains(self) -> tuple[str, ...]:
        """Which domains it carries."""
        ...

    @property
    def sections(self) -> tuple[str, ...]:
        """The names of its sections, in document order."""
        ...

    def unwritable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """FINDINGS rows for portfolios whose values this format can't carry (characters, patterns, lengths)."""
        ...

    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """Each portfolio of ``frames`` (by frame name, any order of rows), ordered by portfolio number."""
        ...

    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """A whole page in chunks: header, the sections' records, control totals."""
        ...

    def examine(self, chunks: Iterable[bytes]) -> PageInspection:
        """Read a page back: validate it as a stream, recompute its totals, list its portfolios."""
        ...

    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """A page's records as frames, typed as the domains declare them. ValueError says what is wrong."""
        ...


@runtime_checkable
class OneFileFormat(Protocol):
    """What a format has on top if it is one file a revision, never paged, under a name of its own."""

    def file_stem(self, header: PageHeader) -> str:
        """The file's name without its ending."""
        ...


def file_stem(document: DocumentFormat, header: PageHeader) -> str:
    """The name of a page's file without its ending: the format's own, by default the message id."""
    return document.file_stem(header) if isinstance(document, OneFileFormat) else header.message_id


class Paging:
    """Splits portfolios into pages under ``limit`` bytes (None: one page), as they come; one page if there are none.

    A portfolio is never split: one larger than the limit has a page to itself.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._starts = [0]
        self._used = 0
        self._count = 0

    def add(self, size: int) -> int:
        """The next portfolio, of ``size`` bytes; the number of its page, from 1."""
        if self._limit is not None and self._count > self._starts[-1] and self._used + size > self._limit:
            self._starts.append(self._count)
            self._used = 0
        self._used += size
        self._count += 1
        return len(self._starts)

    @property
    def pages(self) -> list[range]:
        """The pages so far, as ranges of portfolios from 0."""
        return [range(*bounds) for bounds in itertools.pairwise([*self._starts, self._count])]


def paging_of(document: DocumentFormat, limit: int) -> Paging:
    """Pages of at most ``limit`` bytes, or one page of everything for a format that is one file."""
    return Paging(None if isinstance(document, OneFileFormat) else limit)


def plan_pages(sizes: Iterable[int], limit: int) -> list[range]:
    """Split portfolios (sizes in bytes, in order) into pages under ``limit`` bytes: see Paging."""
    paging = Paging(limit)
    for size in sizes:
        paging.add(size)
    return paging.pages
