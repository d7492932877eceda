"""Base class of document formats, and the types that rendering, checks and delivery share."""

from __future__ import annotations

import datetime as dt
import enum
import gzip
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import polars as pl

from classfeed_dagster.documents.csv_mapping import CsvLayout
from classfeed_dagster.documents.format_rules import FormatRule
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.trading_days import Window

_READ = 1 << 18
ALL_LEDGERS = frozenset("TSIC")  # the letters of TransactionId: trade, security movement, income, cash


@dataclass(frozen=True, slots=True)
class PageHeader:
    """Identity of a page. Every value comes from the snapshot and the plan, none from the clock."""

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
        """Return ``<feed>-<YYYYMMDD>-r<revision>-p<page>``, unique for all time (XSD, Header)."""
        return message_id(self.feed, self.business_date, self.revision, self.page_number)


LONGEST_ID_NUMBERS = len("-20230103-r9999-p999999")  # after the feed's name in a message id


def message_id(feed: str, business_date: dt.date, revision: int, page: int) -> str:
    """Return the id of one page of one revision. It is also the stem of the page's file name."""
    return f"{feed}-{business_date:%Y%m%d}-r{revision}-p{page}"


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """Sums over one currency of a page, exact to the cent. Cash debits and credits are kept apart."""

    ledger_balance: Decimal = Decimal("0.00")
    market_value: Decimal = Decimal("0.00")
    cash_credits: Decimal = Decimal("0.00")
    cash_debits: Decimal = Decimal("0.00")  # zero or negative
    net_amount: Decimal = Decimal("0.00")

    @property
    def cash_amount(self) -> Decimal:
        """Return credits plus debits."""
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
    """Control totals of some portfolios. They are additive: a page's totals are the sum of its portfolios' totals."""

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
    """One portfolio's part of the document: its records as bytes by section, and their totals."""

    number: str
    sections: Mapping[str, bytes]
    totals: Totals

    @property
    def size(self) -> int:
        """Return the size in bytes before compression."""
        return sum(map(len, self.sections.values()))


@dataclass(frozen=True, slots=True)
class PageInspection:
    """Facts about a written page, from its bytes alone."""

    errors: tuple[str, ...]  # reasons why the page is invalid, without personal data; empty if it is valid
    header: Mapping[str, str]
    portfolios: Mapping[str, frozenset[str]]  # portfolio numbers by section
    removed: frozenset[str]  # portfolios announced as REMOVED, with number and reference only
    totals: Totals  # recomputed from the records
    stated: Totals | None  # as the page states them, if it does; cash credits hold the sum of credits and debits
    sha256: str  # of the uncompressed bytes
    size: int  # of the uncompressed bytes
    states_totals: bool = True  # False: the format states none, so that none are missing

    @property
    def valid(self) -> bool:
        """Return True if the page is well-formed and valid against its schema."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class RecordInspection:
    """Facts about some valid records of one section."""

    totals: Totals
    portfolios: frozenset[str]
    removed: frozenset[str]
    without_currency: tuple[str, ...] = ()  # ids of records with money but no currency


# Facts of prevalidated records, by the SHA-256 that the format computes over a block of records.
KnownRecords = Mapping[str, RecordInspection]


@dataclass(frozen=True, slots=True)
class DocumentColumn:
    """One field of a document's records, and the domain columns that fill it.

    Attributes:
        name: path of an element or field of a line
        kind: its type in the document
        filled_by: frame and column of each value
        optional: True if a record may lack the field
        rows: the landed ledgers and openings whose rows the document contains; None means all of them
    """

    name: str
    kind: str
    filled_by: tuple[tuple[str, str], ...]
    optional: bool
    rows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Position of one record in a document.

    ``line`` counts from 1. ``offset`` and ``length`` are bytes of the document before compression, from the record's
    first byte to its last.
    """

    element: str
    line: int
    offset: int
    length: int


class BalanceKey(NamedTuple):
    """Key of a cash balance in a document. The account number is personal data."""

    portfolio_number: str
    account_number: str
    currency: str


# A TransactionId, a cash balance's key, or a holding's portfolio number, exchange and security code.
RecordKey = str | BalanceKey | tuple[str, str, str]


class PageRule(enum.Enum):
    """Rules by which a format divides portfolios into files."""

    BY_SIZE = "whole portfolios up to a size limit"
    ONE_FILE = "one file a revision"
    BY_PORTFOLIO = "one file a portfolio"


class DocumentFormat(ABC):
    """Base class of document formats.

    A format implements ``name``, ``extension``, ``domains``, ``sections``, ``render``, ``page``, ``inspect_page`` and
    ``read``. Every other member has a default.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name of the format."""

    @property
    @abstractmethod
    def extension(self) -> str:
        """Return the extension of its files, for example ``.xml``."""

    @property
    @abstractmethod
    def domains(self) -> tuple[str, ...]:
        """Return the domains that its documents contain."""

    @property
    @abstractmethod
    def sections(self) -> tuple[str, ...]:
        """Return the names of its sections, in document order."""

    @property
    def page_rule(self) -> PageRule:
        """Return the rule by which portfolios are divided into files."""
        return PageRule.BY_SIZE

    @property
    def compressible(self) -> bool:
        """Return True if its files may be gzipped."""
        return self.page_rule is PageRule.BY_SIZE

    @property
    def states_totals(self) -> bool:
        """Return True if every page states its control totals. Without them, the gate compares with the frames only."""
        return True

    @property
    def longest_id(self) -> int | None:
        """Return the most characters of a message id that the format can state; None: any."""
        return None

    @property
    def ledgers(self) -> frozenset[str]:
        """Return the ledgers that the recipient loads from it: T trades, S security movements, I income, C cash."""
        return ALL_LEDGERS

    @property
    def columns(self) -> tuple[DocumentColumn, ...]:
        """Return every field that a domain fills, in document order, for lineage."""
        return ()

    @property
    def rules(self) -> tuple[FormatRule, ...]:
        """Return the rules of ``check_representable``: each has a section in the runbook."""
        return ()

    @property
    def csv_layout(self) -> CsvLayout | None:
        """Return the layout of its lines if they can be compared with an old app's CSV file."""
        return None

    def file_stem(self, header: PageHeader) -> str:
        """Return the name of a page's file without its extension."""
        return header.message_id

    def check_representable(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Return FINDINGS rows for portfolios whose values this format cannot hold (characters, patterns, lengths)."""
        return FINDINGS.empty()

    @abstractmethod
    def render(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[RenderedPortfolio]:
        """Yield each portfolio of ``frames`` (by frame name, rows in any order), ordered by portfolio number."""

    @abstractmethod
    def page(self, header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
        """Yield a whole page in chunks: header, the sections' records, control totals."""

    @abstractmethod
    def inspect_page(self, chunks: Iterable[bytes], known: KnownRecords | None = None) -> PageInspection:
        """Read a page back as a stream: validate it, recompute its totals, list its portfolios.

        Records whose bytes are ``known`` are not inspected again.
        """

    def inspect_records(self, section: str, chunks: Iterable[bytes]) -> KnownRecords:
        """Inspect a section's records before the page around them is written.

        A page states the number of pages, so none can be written before the last portfolio is rendered. Records that
        are not certainly valid are left to ``inspect_page``. By default all of them are.
        """
        return {}

    @abstractmethod
    def read(self, path: Path) -> dict[str, pl.DataFrame]:
        """Return a page's records as frames, typed as the domains declare them; ValueError if they are damaged."""

    def can_state(self, totals: Totals) -> bool:
        """Return False if these sums do not fit a page's control totals, so that the page must be divided."""
        return True

    def totals(self, frames: Mapping[str, pl.DataFrame]) -> Totals | None:
        """Return the totals of the frames of ``read``; None if they cannot be computed in the form that pages state."""
        return None

    def locate(self, path: Path, key: RecordKey) -> list[Place]:
        """Return the position of every record with ``key`` in a file, in order; empty if unsupported."""
        return []


class Paging:
    """Division of portfolios into pages, in the order in which they are added; one page if there are none.

    A portfolio is never split: one that exceeds the limit gets its own page. A page also ends before its control totals
    could not be stated (``can_state``). A portfolio without records begins no page of its own: it is counted with the
    page before it.
    """

    def __init__(
        self,
        limit: int | None,
        *,
        by_portfolio: bool = False,
        can_state: Callable[[Totals], bool] = lambda totals: True,
    ) -> None:
        self._limit = limit
        self._can_state = can_state
        self.totals: list[Totals] = []  # by page with a portfolio
        self._by_portfolio = by_portfolio
        self._starts = [0]
        self._used = 0
        self._count = 0

    def add(self, size: int, totals: Totals | None = None) -> int:
        """Add the next portfolio, of ``size`` bytes, and return the number of its page, from 1."""
        totals = totals or Totals()
        together = self.totals[-1] + totals if self.totals else totals
        full = (
            (self._by_portfolio and size > 0 and self._used > 0)
            or (self._limit is not None and self._used + size > self._limit)
            or not self._can_state(together)
        )
        if full and self._count > self._starts[-1]:
            self._starts.append(self._count)
            self._used, together = 0, totals
        self.totals[len(self._starts) - 1 :] = [together]
        self._used += size
        self._count += 1
        return len(self._starts)

    @property
    def pages(self) -> list[range]:
        """Return the pages so far, as ranges of portfolios from 0."""
        return [range(*bounds) for bounds in itertools.pairwise([*self._starts, self._count])]


def paging_of(document: DocumentFormat, limit: int) -> Paging:
    """Return the paging of a format, with pages of at most ``limit`` bytes if it divides by size."""
    match document.page_rule:
        case PageRule.BY_SIZE:
            return Paging(limit, can_state=document.can_state)
        case PageRule.BY_PORTFOLIO:
            return Paging(None, by_portfolio=True)
        case PageRule.ONE_FILE:
            return Paging(None)


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content in blocks, decompressed if its name ends in ``.gz``. OSError or EOFError if damaged."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as source:
        while block := source.read(_READ):
            yield block
