"""Position of a record in a document, to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.csv_mapping import DETAIL, LINE_END
from classfeed_dagster.documents.document_format import BalanceKey, Place, RecordKey, file_chunks
from classfeed_dagster.documents.epi_mapping import RecordMapping
from classfeed_dagster.errors import DataError

_LONGEST_RECORD = 1 << 20  # bytes; this project writes no longer record


class NotAPageError(DataError):
    """The file is not a document of this project, or it is damaged, so it cannot be searched."""


def locate_element(path: Path, key: RecordKey) -> list[Place]:
    """Return every record with ``key`` in an EPI page, gzipped or not, in order; empty if there is none.

    NotAPageError if the file cannot be read to its end.
    """
    if isinstance(key, str):
        record, values, rarest = epi.MOVEMENT_TRANSACTION, {"transaction_id": key}, "transaction_id"
    elif isinstance(key, BalanceKey):
        record, values, rarest = epi.ACCOUNT_BALANCE, key._asdict(), "account_number"
    else:
        record, rarest = epi.INVESTMENT_HOLDING, "security_code"
        values = dict(zip(record.sort_key, key, strict=True))
    needles = {
        element.column: f"<{element.name}>{values[element.column]}</{element.name}>".encode()
        for element in record.elements
        if element.column in values
    }
    records = _records(path, record, needles[rarest])
    return [place for place, content in records if all(needle in content for needle in needles.values())]


def locate_line(path: Path, key: RecordKey, letter: str = DETAIL) -> list[Place]:
    """Return every detail line of a CSV file that begins with its letter, if any, and the id or its number.

    The file has only the number of a TransactionId, so its ledger must be one of the file's. A quoted field may
    contain line breaks. NotAPageError if the file cannot be read to its end.
    """
    return list(_lines(path, key, letter)) if isinstance(key, str) else []


def excerpt(path: Path, place: Place) -> bytes:
    """Return the bytes of a located record. They hold personal data: show them to people, never log them."""
    content = bytearray()
    at = 0
    for chunk in _chunks(path):
        content += chunk[max(0, place.offset - at) : max(0, place.offset + place.length - at)]
        at += len(chunk)
        if len(content) == place.length:
            return bytes(content)
    raise NotAPageError(f"{path.name} ends before the record at byte {place.offset}: locate the record in this file")


def _lines(path: Path, transaction_id: str, letter: str) -> Iterator[Place]:
    start = f"{letter}," if letter else ""
    beginnings = tuple(f"{start}{text},".encode() for text in (transaction_id[1:], transaction_id))
    record, rest, offset, number = b"", b"", 0, 1
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        for piece in whole:
            record += piece + b"\n"
            if record.count(b'"') % 2:
                continue  # inside a quoted field
            if record.startswith(beginnings):
                yield Place(letter or "line", number, offset, len(record) - len(LINE_END))
            number += record.count(b"\n")
            offset += len(record)
            record = b""
    if rest or record:
        raise NotAPageError(f"{path.name} ends inside line {number}: it is truncated")


def _records(path: Path, record: RecordMapping, needle: bytes) -> Iterator[tuple[Place, bytes]]:
    """Yield the records that contain ``needle``, with their bytes.

    Markup can be searched as bytes, because in the writer's form ``<`` only begins an element's tag. In texts it is a
    reference; comments, CDATA sections and prefixes do not occur.
    """
    begin, end = f"<{record.name}>".encode(), f"</{record.name}>".encode()
    buffer, offset, line = b"", 0, 1  # position of the buffer in the document
    for chunk in _chunks(path):
        buffer += chunk
        done = buffer.rfind(end) + len(end) if end in buffer else 0
        at = buffer.find(needle, 0, done)
        while at >= 0:
            start, stop = buffer.rfind(begin, 0, at), at + len(needle)
            if start >= 0 and end not in buffer[start:at]:  # otherwise it is in another type of record
                stop = buffer.find(end, at) + len(end)
                place = Place(record.name, line + buffer.count(b"\n", 0, start), offset + start, stop - start)
                yield place, buffer[start:stop]
            at = buffer.find(needle, stop, done)
        # Drop bytes in which no such record can begin.
        keep = buffer.find(begin, done)
        done = keep if keep >= 0 else max(done, len(buffer) - len(begin) + 1)
        line += buffer.count(b"\n", 0, done)
        offset += done
        buffer = buffer[done:]
        if len(buffer) > _LONGEST_RECORD + len(chunk):
            raise NotAPageError(f"{path.name}: the record at line {line} has no end")
    if buffer.startswith(begin):
        raise NotAPageError(f"{path.name} ends inside the record at line {line}: it is truncated")


def _chunks(path: Path) -> Iterable[bytes]:
    try:
        yield from file_chunks(path)
    except (OSError, EOFError) as error:
        raise NotAPageError(f"{path.name} cannot be read to its end ({type(error).__name__})") from None
