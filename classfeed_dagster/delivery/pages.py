"""Page files: written and read back as streams with constant memory, and compared with their records.

Gate and verify compare a page's header, portfolios and control totals.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.documents.document_format import (
    CurrencyTotals,
    DocumentFormat,
    KnownRecords,
    PageInspection,
    Totals,
)
from classfeed_dagster.stored_records import file_facts

_BLOCK = 256 * 1024
# Exceptions that a damaged file can raise in a decompressor or a parser.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    SyntaxError,
    zlib.error,
    cast(type[Exception], isal_zlib.error),  # wrong in its stub
)


@dataclass(frozen=True, slots=True)
class Written:
    """Sizes in bytes and SHA-256 of a page file, as stored and before compression."""

    bytes: int
    sha256: str
    document_bytes: int
    document_sha256: str


def write_page(chunks: Iterable[bytes], path: Path, *, compress: bool) -> Written:
    """Write a document to ``path``, gzipped with ``compress``. Equal documents give equal files, for any chunks."""
    stored, document = hashlib.sha256(), hashlib.sha256()
    stored_size = document_size = 0
    # 31: a gzip header without file name and with time 0. The compressor's output depends on the blocks it is fed.
    compressor = isal_zlib.compressobj(isal_zlib.ISAL_DEFAULT_COMPRESSION, wbits=31) if compress else None
    with path.open("xb") as target:

        def store(data: bytes) -> None:
            nonlocal stored_size
            stored.update(data)
            stored_size += target.write(data)

        for block in _blocks(chunks):
            document.update(block)
            document_size += len(block)
            store(compressor.compress(block) if compressor else block)
        if compressor:
            store(compressor.flush())
    return Written(stored_size, stored.hexdigest(), document_size, document.hexdigest())


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _BLOCK:
            yield bytes(buffer[:_BLOCK])
            del buffer[:_BLOCK]
    if buffer:
        yield bytes(buffer)


def read_page(path: Path) -> Iterator[bytes]:
    """Yield a page file's document in blocks, decompressed if its name ends in ``.gz``. Raises one of UNREADABLE."""
    opened: IO[bytes] = igzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[no-untyped-call]
    with opened as source:
        while block := source.read(_BLOCK):
            yield block


def written(path: Path) -> Written:
    """Return sizes and hashes of an existing page file. Raises one of UNREADABLE."""
    size, digest = file_facts(path)
    document, document_size = hashlib.sha256(), 0
    for block in read_page(path):
        document.update(block)
        document_size += len(block)
    return Written(size, digest, document_size, document.hexdigest())


def examine_file(path: Path, document_format: DocumentFormat, known: KnownRecords | None = None) -> PageInspection:
    """Read a page back and return its facts. For an unreadable file the facts consist of that error.

    ``known`` are the prevalidated records.
    """
    try:
        return document_format.inspect_page(read_page(path), known)
    except UNREADABLE as error:
        fault = f"it cannot be read to its end as {document_format.name} ({type(error).__name__}): cut off or replaced"
        return PageInspection((fault,), {}, {}, frozenset(), Totals(), None, "", 0)


_SUMS = ("ledger_balance", "market_value", "cash_credits", "cash_debits", "cash_amount", "net_amount")
_STATED = ("ledger_balance", "market_value", "cash_amount", "net_amount")  # documents state cash as one sum


def numbers_in(facts: PageInspection) -> frozenset[str]:
    """Return every portfolio on a page, including announced removals."""
    return facts.removed.union(*facts.portfolios.values())


def numbers_with_data(facts: PageInspection) -> frozenset[str]:
    """Return the portfolios with data on a page, that is more than an announced removal."""
    # An announcement is in one section. A portfolio that is also in another section has data there.
    announced = {n for n in facts.removed if sum(n in numbers for numbers in facts.portfolios.values()) <= 1}
    return numbers_in(facts) - announced


def header_faults(
    header: Mapping[str, str],
    *,
    feed: str,
    business_date: dt.date,
    sequence_number: int,
    revision: int,
    message_id: str,
) -> list[str]:
    """Return the differences between the header, if the format has one, and the record of the delivery."""
    expected = {
        "Feed": feed,
        "BusinessDate": business_date.isoformat(),
        "SequenceNumber": str(sequence_number),
        "Revision": str(revision),
        "MessageId": message_id,
    }
    return [
        f"its header states {name} {header[name][:64]!r}, the record {value!r}"
        for name, value in expected.items()
        if name in header and header[name] != value
    ]


def portfolio_faults(facts: PageInspection, recorded: Iterable[PortfolioRecord]) -> list[tuple[str, str]]:
    """Return (portfolio number, fault) for the differences between a page and its recorded portfolios."""
    by_number = {portfolio.number: portfolio for portfolio in recorded}
    inside, with_data = numbers_in(facts), numbers_with_data(facts)
    faults = [(number, "is in the file and not in the record") for number in sorted(inside - by_number.keys())]
    for number, portfolio in sorted(by_number.items()):
        if number not in inside and portfolio.bytes:
            faults.append((number, "is in the record and not in the file"))
        elif portfolio.change == "REMOVED" and number in with_data:
            faults.append((number, "is announced as removed, but the file has its data"))
    return faults


def totals_faults(facts: PageInspection, expected: Totals) -> list[str]:
    """Return the differences of the page's recomputed and stated totals from the expected ones."""
    faults = [f"recomputed {fault}" for fault in _differences(facts.totals, expected, _SUMS)]
    if facts.stated is None and not facts.states_totals:
        return faults
    if facts.stated is None:
        return [*faults, "the page states no control totals"]
    return faults + [f"stated {fault}" for fault in _differences(facts.stated, expected, _STATED)]


def _differences(actual: Totals, expected: Totals, sums: Collection[str]) -> Iterator[str]:
    for name in sorted({*actual.counts, *expected.counts}):
        if actual.counts.get(name, 0) != expected.counts.get(name, 0):
            yield f"count of {name} is {actual.counts.get(name, 0)}, expected {expected.counts.get(name, 0)}"
    for currency in sorted({*actual.currencies, *expected.currencies}):
        actual_sums = actual.currencies.get(currency, CurrencyTotals())
        expected_sums = expected.currencies.get(currency, CurrencyTotals())
        for name in sums:
            if getattr(actual_sums, name) != getattr(expected_sums, name):
                yield f"{name} in {currency} is {getattr(actual_sums, name)}, expected {getattr(expected_sums, name)}"
    for name in ("units_held", "units_moved"):
        if getattr(actual, name) != getattr(expected, name):
            yield f"{name} is {getattr(actual, name)}, expected {getattr(expected, name)}"
