"""Finds a record in a document, to the byte: where in what was delivered does this transaction stand?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.csv_mapping import DETAIL, LINE_END
from classfeed_dagster.documents.epi_mapping import Record
from classfeed_dagster.documents.epi_reader import file_chunks

_LONGEST_RECORD = 1 << 20  # bytes; a longer one is not of a document that this project wrote


class NotAPageError(ValueError):
    """The file can't be searched: it is not a document of this project, or it is damaged."""


@dataclass(frozen=True, slots=True)
class Place:
    """One record of a document.

    ``line`` counts from 1. ``offset`` and ``length`` are bytes of the document before compression: from the ``<``
    of the record's start tag to the ``>`` of its end tag.
    """

    element: str
    line: int
    offset: int
    length: int


def locate(path: Path, key: str | tuple[str, str, str]) -> list[Place]:
    """Every record of ``key`` in a page (``.xml`` or ``.csv``, gzipped or not), in order; none if it isn't there.

    ``key`` is a TransactionId, or a holding's portfolio number, exchange and security code. A CSV file states only
    the number of a TransactionId: ask for one whose ledger the file carries. NotAPageError if the file can't be read
    to its end.
    """
    if path.name.removesuffix(".gz").endswith(".csv"):
        return list(_lines(path, key)) if isinstance(key, str) else []
    if isinstance(key, str):
        record, values = epi.MOVEMENT_TRANSACTION, {"transaction_id": key}
    else:
        record, values = epi.INVESTMENT_HOLDING, dict(zip(epi.INVESTMENT_HOLDING.sort_key, key, strict=True))
    needles = [
        f"<{element.name}>{values[element.column]}</{element.name}>".encode()
        for element in record.elements
        if element.column in values
    ]
    found = _records(path, record, needles[-1])
    return [place for place, content in found if all(needle in content for needle in needles)]


def excerpt(path: Path, place: Place) -> bytes:
    """The bytes of a located record, as they stand in the document. They hold personal data: for people, not logs."""
    found = bytearray()
    at = 0
    for chunk in _chunks(path):
        found += chunk[max(0, place.offset - at) : max(0, place.offset + place.length - at)]
        at += len(chunk)
        if len(found) == place.length:
            return bytes(found)
    raise NotAPageError(f"{path.name} ends before the record at byte {place.offset}: it is not the file located in")


def _lines(path: Path, transaction_id: str) -> Iterator[Place]:
    """Detail lines of a CSV file that begin with the id, or with its number. A quoted field may hold line breaks."""
    beginnings = tuple(f"{DETAIL},{text},".encode() for text in (transaction_id[1:], transaction_id))
    record, rest, offset, number = b"", b"", 0, 1
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        for piece in whole:
            record += piece + b"\n"
            if record.count(b'"') % 2:
                continue  # inside a quoted field
            if record.startswith(beginnings):
                yield Place(DETAIL, number, offset, len(record) - len(LINE_END))
            number += record.count(b"\n")
            offset += len(record)
            record = b""
    if rest or record:
        raise NotAPageError(f"{path.name} ends inside line {number}: it is cut short")


def _records(path: Path, record: Record, needle: bytes) -> Iterator[tuple[Place, bytes]]:
    """Records of the kind that hold ``needle``, with their bytes.

    Markup can be searched for as bytes because in the writer's form ``<`` begins nothing but an element's tag:
    in texts it is a reference, and there is no comment, CDATA or prefix.
    """
    begin, end = f"<{record.name}>".encode(), f"</{record.name}>".encode()
    buffer, offset, line = b"", 0, 1  # where in the document the buffer begins
    for chunk in _chunks(path):
        buffer += chunk
        done = buffer.rfind(end) + len(end) if end in buffer else 0
        at = buffer.find(needle, 0, done)
        while at >= 0:
            start = buffer.rfind(begin, 0, at)
            stop = buffer.find(end, at) + len(end)
            if start >= 0 and end not in buffer[start:at]:  # else it stands in a record of another kind
                place = Place(record.name, line + buffer.count(b"\n", 0, start), offset + start, stop - start)
                yield place, buffer[start:stop]
            at = buffer.find(needle, stop, done)
        # What no record of the kind can begin in is let go of.
        keep = buffer.find(begin, done)
        done = keep if keep >= 0 else max(done, len(buffer) - len(begin) + 1)
        line += buffer.count(b"\n", 0, done)
        offset += done
        buffer = buffer[done:]
        if len(buffer) > _LONGEST_RECORD + len(chunk):
            raise NotAPageError(f"{path.name}: the record at line {line} has no end")
    if buffer.startswith(begin):
        raise NotAPageError(f"{path.name} ends inside the record at line {line}: it is cut short")


def _chunks(path: Path) -> Iterable[bytes]:
    try:
        yield from file_chunks(path)
    except (OSError, EOFError) as error:
        raise NotAPageError(f"{path.name} can't be read to its end ({type(error).__name__})") from None
