"""Page files, written and read back as streams with constant memory."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from classfeed_dagster.documents.document_format import (
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
