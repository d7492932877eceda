"""Streaming XSD validation of an EPI document in constant memory, each error with its element and line.

lxml validates, fed line by line, so that an error belongs to the line just fed (lxml's own streaming errors have no
line). Messages consist of the error's type and the document format's names. libxml2's messages contain the invalid
value, which may be a name or an account number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.errors import DataError

MOST_ERRORS = 20  # then validation stops: an invalid document could have millions
PIECE = 1 << 16  # most bytes passed to a parser at a time
READ_ON = 1 << 20  # bytes read after the last error: an invalid document may nest without limit
LONGEST_TEXT = 1 << 16  # most bytes without an element's tag; the longest valid text has 200 characters
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}
_BEGINS = re.compile(b"|".join(map(re.escape, _ENDS)))
_TORN = max(map(len, _ENDS)) - 1

_ELEMENT = re.compile(r"^Element '(?:\{([^}]*)\})?([^']*)'(?:, attribute '([^']*)')?")
_EXPECTED = re.compile(r"Expected is (?:one of )?\( ([^()]*) \)\.?\s*$")
_MISSING_ATTRIBUTE = re.compile(r"The attribute '([^']*)' is required")
_ATTRIBUTES = frozenset({attribute.name for record in epi.RECORDS for attribute in record.attributes}) | {
    epi.CURRENCY_ATTRIBUTE
}
# Meaning of libxml2's error types, by name without SCHEMAV_.
_MEANINGS = {
    "CVC_PATTERN_VALID": "its value does not match the XSD's pattern",
    "CVC_ENUMERATION_VALID": "its value is not one that the XSD allows",
    "CVC_MAXLENGTH_VALID": "its value is too long",
    "CVC_MINLENGTH_VALID": "its value is too short",
    "CVC_DATATYPE_VALID_1_2_1": "its value is not of the XSD's type",
    "CVC_ELT_1": "the document type is unknown",
    "CVC_ELT_5_2_2_2_2": "its value differs from the XSD's fixed value",
    "CVC_COMPLEX_TYPE_2_2": "it contains an element where only a value is allowed",
    "CVC_COMPLEX_TYPE_2_3": "it contains text between its elements",
    "CVC_COMPLEX_TYPE_3_2_1": "this attribute is not allowed",
    "CVC_TYPE_3_1_1": "it has an attribute but may have none",
    "CVC_TYPE_3_1_2": "it contains an element where only a value is allowed",
}


class RefusedError(DataError):
    """Reading stops and the rest is not read. The message has no personal data."""


class NoDoctype:
    """Parser target that refuses a DOCTYPE before any of its entities is declared, and ignores everything else."""

    def doctype(self, *_: object) -> None:
        """Refuse a DOCTYPE; called by the parser at its beginning."""
        raise RefusedError("a DOCTYPE (and with it, entities) is not allowed in a document")

    def close(self) -> None:
        """Finish; called by the parser at the end."""


class Validator:
    """Validator that is fed pieces of single lines until it returns False, then closed. ``errors``: its result."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._parser = hardened(NoDoctype(), compiled())
        self._seen = 0
        self._since_error = 0
        self._stretch = _Stretch()

    def feed(self, piece: bytes, line: int) -> bool:
        """Validate a piece of the document from ``line``. False if the rest need not be read."""
        if self._stretch.add(piece) > LONGEST_TEXT:
            return self._stop(f"line {line}: a text or comment is longer than any valid one")
        self._since_error += len(piece)
        if self.errors and self._since_error > READ_ON:
            return self._stop(f"line {line}: the rest was not read")
        try:
            self._parser.feed(piece)
        except (RefusedError, etree.LxmlError) as error:
            self._note(line)
            return self._stop(_parser_error(error, line))
        return self._note(line)

    def skip(self, lines: int) -> None:
        """Skip whole records of the current section, on this number of lines, which are known to be valid."""
        self._parser.feed(b"\n" * lines)  # libxml2 counts lines itself, for errors at the end

    def close(self, line: int) -> None:
        """Finish the document, which ends on ``line``."""
        try:
            self._parser.close()
        except etree.LxmlError as error:
            self._stop(_parser_error(error, line))
        else:
            self._note(line)

    def _note(self, line: int) -> bool:
        log = self._parser.feed_error_log
        for entry in itertools.islice(log, self._seen, None) if len(log) > self._seen else ():
            if entry.domain_name == "SCHEMASV":
                self._since_error = 0
                self.errors.append(f"line {line}: {_schema_error(entry.type_name, entry.message)}")
            if len(self.errors) >= MOST_ERRORS:
                return self._stop(f"line {line}: more errors than {MOST_ERRORS}, the rest was not read")
        self._seen = len(log)
        return True

    def _stop(self, error: str) -> bool:
        self.errors.append(error)
        return False


class _Stretch:
    """Length of the document since the last element: one text, comment, CDATA section or instruction.

    libxml2 accepts texts of any length, and megabytes of the others in quadratic time.
    """

    def __init__(self) -> None:
        self._length = 0
        self._until = b""  # end marker of the current comment, CDATA section or instruction
        self._tail = b""

    def add(self, piece: bytes) -> int:
        """Add a piece; return the number of bytes since the last element's tag."""
        if self._until or b"<!" in piece or b"<?" in piece or self._tail:
            self._follow(self._tail + piece)
        # A line may be cut inside "<!--" or "-->"; neither can contain a line end.
        self._tail = b"" if piece.endswith(b"\n") else piece[-_TORN:]
        if self._until or b"<" not in piece:
            self._length += len(piece)
        else:
            self._length = 0
        return self._length

    def _follow(self, text: bytes) -> None:
        at = 0
        while True:
            if self._until:
                end = text.find(self._until, at)
                if end < 0:
                    return
                at, self._until = end + len(self._until), b""
            begin = _BEGINS.search(text, at)
            if begin is None:
                return
            at, self._until = begin.end(), _ENDS[begin[0]]


def hardened(target: NoDoctype, schema: etree.XMLSchema | None = None) -> etree.XMLParser[Any]:
    """Return a push parser that expands no entity, opens no file or address and keeps libxml2's limits."""
    parser = etree.XMLParser(
        target=cast(Any, target),  # lxml accepts targets without the callbacks that they do not use
        schema=schema,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    return cast("etree.XMLParser[Any]", parser)


def _parser_error(error: Exception, line: int) -> str:
    # The parser's error with its line, without content of the document.
    if isinstance(error, RefusedError):
        return f"line {line}: {error}"
    # A tag with an unterminated quote is parsed much later than it is fed; libxml2 has its line.
    line = getattr(error, "lineno", 0) or line
    code = getattr(error, "code", None)
    kind = etree.ErrorTypes._getName(code, "") if isinstance(code, int) else ""  # type: ignore[attr-defined, unused-ignore]
    return f"line {line}: not well-formed XML ({kind.removeprefix('ERR_').lower().replace('_', ' ') or 'unreadable'})"


class Lines:
    """The document in pieces with their line numbers: lines with their end, longer ones cut at ``PIECE``.

    Between two pieces, ``block`` returns many lines at once.
    """

    def __init__(self, chunks: Iterable[bytes], first: int = 1) -> None:
        self._chunks = iter(chunks)
        self._line = first
        self._buffer = b""
        self._at = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            end = self._buffer.find(b"\n", self._at, self._at + PIECE)
            if end < 0 and len(self._buffer) - self._at < PIECE:
                if self._more():
                    continue
                if self._at < len(self._buffer):
                    yield self._line, self._take(len(self._buffer))
                return
            line = self._line
            yield line, self._take(end + 1 if end >= 0 else self._at + PIECE)

    def block(self, closing: bytes, size: int) -> tuple[int, bytes]:
        """Return the next whole lines, up to about ``size`` bytes, before a line that begins with ``closing``.

        The number of the first comes with them. Empty if there are none, or the next line is longer than ``size``.
        """
        self._more(size)
        if self._buffer.startswith(closing, self._at):
            return self._line, b""
        stop = self._buffer.rfind(b"\n", self._at, self._at + size) + 1
        end = self._buffer.find(b"\n" + closing, self._at, stop)
        line = self._line
        return line, self._take(stop if end < 0 else end + 1) if stop else b""

    def _more(self, size_needed: int = 0) -> bool:
        # Read chunks until the buffer holds ``size_needed`` bytes, at least one chunk; False if there are no more.
        if size_needed and len(self._buffer) - self._at >= size_needed:
            return True
        parts = [self._buffer[self._at :]]
        size = len(parts[0])
        for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= size_needed:
                break
        self._buffer, self._at = b"".join(parts), 0
        return len(parts) > 1

    def _take(self, stop: int) -> bytes:
        piece = self._buffer[self._at : stop]
        self._line += piece.count(b"\n")
        self._at = stop
        return piece


def _schema_error(kind: str, message: str) -> str:
    kind = kind.removeprefix("SCHEMAV_")
    match = _ELEMENT.match(message)
    namespace, name, attribute = match.groups() if match else (None, "", None)
    where = name if name in epi.ELEMENT_NAMES else "an element unknown to the XSD"
    if name in epi.ELEMENT_NAMES and namespace != epi.NAMESPACE:
        where = f"{name} outside the document's namespace"
    if attribute is not None:
        where += f", attribute {attribute}" if attribute in _ATTRIBUTES else ", an attribute unknown to the XSD"
    return f"{where}: {_meaning(kind, message)}"


def _meaning(kind: str, message: str) -> str:
    if kind == "CVC_COMPLEX_TYPE_4":
        missing = _MISSING_ATTRIBUTE.search(message)
        return f"the attribute {missing[1]} is missing" if missing else "an attribute is missing"
    if kind == "ELEMENT_CONTENT":
        expected = _EXPECTED.search(message)
        names = [name.strip().rpartition("}")[2] for name in expected[1].split(",")] if expected else []
        fault = "it ends before it is complete" if "Missing child" in message else "it is not expected here"
        known = [name for name in names if name in epi.ELEMENT_NAMES]
        return f"{fault}; the XSD expects {' or '.join(known)}" if known else fault
    return _MEANINGS.get(kind, f"it violates the XSD's rule {kind}")
