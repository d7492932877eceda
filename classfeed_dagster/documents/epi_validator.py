"""Validates an EPI document against its XSD as a stream: flat memory, every error with its element and line.

lxml does it, fed line by line, so that an error belongs to the line just fed (its own streaming errors have none).
Messages are put together from the kind of the error and from names that the document format knows: what libxml2
says holds the offending value, which may be a name or an account number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.errors import DataError

MOST_ERRORS = 20  # then the rest isn't validated: a broken document could have millions
PIECE = 1 << 16  # no more bytes than this are handed to a parser at a time
READ_ON = 1 << 20  # bytes after the last error; nothing limits how deep a document may nest once it is invalid
LONGEST_TEXT = 1 << 16  # bytes without an element's tag; the longest legal text is 200 characters
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}
_BEGINS = re.compile(b"|".join(map(re.escape, _ENDS)))
_TORN = max(map(len, _ENDS)) - 1

_ELEMENT = re.compile(r"^Element '(?:\{([^}]*)\})?([^']*)'(?:, attribute '([^']*)')?")
_EXPECTED = re.compile(r"Expected is (?:one of )?\( ([^()]*) \)\.?\s*$")
_MISSING_ATTRIBUTE = re.compile(r"The attribute '([^']*)' is required")
_ATTRIBUTES = frozenset({attribute.name for record in epi.RECORDS for attribute in record.attributes}) | {
    epi.CURRENCY_ATTRIBUTE
}
# libxml2's name for the kind of error, without SCHEMAV_: what it means to people.
_MEANINGS = {
    "CVC_PATTERN_VALID": "its value is not of the form that the XSD demands",
    "CVC_ENUMERATION_VALID": "its value is not one of those that the XSD allows",
    "CVC_MAXLENGTH_VALID": "its value is too long",
    "CVC_MINLENGTH_VALID": "its value is too short",
    "CVC_DATATYPE_VALID_1_2_1": "its value is not of the type that the XSD demands",
    "CVC_ELT_1": "no such document is known",
    "CVC_ELT_5_2_2_2_2": "its value is not the one that the XSD fixes",
    "CVC_COMPLEX_TYPE_2_2": "it holds an element where only a value may stand",
    "CVC_COMPLEX_TYPE_2_3": "it holds text between its elements",
    "CVC_COMPLEX_TYPE_3_2_1": "this attribute is not allowed",
    "CVC_TYPE_3_1_1": "it has an attribute, and may have none",
    "CVC_TYPE_3_1_2": "it holds an element where only a value may stand",
}


class PushParser(Protocol):
    """Interface of lxml's feed parsers as used here."""

    @property
    def feed_error_log(self) -> Sequence[Any]:
        """Return the errors so far."""
        ...

    def feed(self, data: bytes) -> None:
        """Parse some bytes."""
        ...

    def close(self) -> object:
        """The document has ended."""
        ...


class RefusedError(DataError):
    """Reading stops here: what follows is not read at all. The message has no personal data."""


class NoDoctype:
    """The parser's target: refuses a DOCTYPE before any entity in it is declared, and looks at nothing else."""

    def doctype(self, *_: object) -> None:
        """The parser calls this where a DOCTYPE begins."""
        raise RefusedError("a DOCTYPE (with it, entities) has no place in a document")

    def close(self) -> None:
        """The parser calls this at the end."""


class Validator:
    """Feed it pieces, none across two lines, until it says stop, else close it. ``errors`` are what it found."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._parser = hardened(NoDoctype(), compiled())
        self._seen = 0
        self._since_error = 0
        self._stretch = _Stretch()

    def feed(self, piece: bytes, line: int) -> bool:
        """Take a piece of the document, which stands on ``line``. False once the rest need not be read."""
        if self._stretch.add(piece) > LONGEST_TEXT:
            return self._stop(f"line {line}: a text or comment goes on for longer than any in a document may")
        self._since_error += len(piece)
        if self.errors and self._since_error > READ_ON:
            return self._stop(f"line {line}: the rest was not read")
        try:
            self._parser.feed(piece)
        except (RefusedError, etree.LxmlError) as error:
            self._note(line)
            return self._stop(_said(error, line))
        return self._note(line)

    def skip(self, lines: int) -> None:
        """So many lines, whole records of a section that the document stands in, are known to be valid."""
        self._parser.feed(b"\n" * lines)  # libxml2 counts lines itself, for errors that it finds at the end

    def close(self, line: int) -> None:
        """The document has ended, on ``line``."""
        try:
            self._parser.close()
        except etree.LxmlError as error:
            self._stop(_said(error, line))
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

    libxml2 alone would take a text of any length, and megabytes of the others, in time that grows with the square.
    """

    def __init__(self) -> None:
        self._length = 0
        self._until = b""  # what ends the comment or the like that we are in
        self._tail = b""

    def add(self, piece: bytes) -> int:
        """Take a piece; bytes since an element's tag was last seen."""
        if self._until or b"<!" in piece or b"<?" in piece or self._tail:
            self._follow(self._tail + piece)
        # A line may be cut inside "<!--" or "-->"; with its line end neither can be torn.
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


def hardened(target: NoDoctype, schema: etree.XMLSchema | None = None) -> PushParser:
    """A push parser that expands no entity, opens no file or address and keeps libxml2's limits."""
    parser = etree.XMLParser(
        target=cast(Any, target),  # lxml takes targets that lack the callbacks they have no use for
        schema=schema,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    return cast(PushParser, parser)


def _said(error: Exception, line: int) -> str:
    """Why a parser gave up, and on which line, in words that hold nothing of the document."""
    if isinstance(error, RefusedError):
        return f"line {line}: {error}"
    # A tag whose quote never ends is looked at much later than it is fed: here libxml2 knows the line.
    line = getattr(error, "lineno", 0) or line
    code = getattr(error, "code", None)
    kind = etree.ErrorTypes._getName(code, "") if isinstance(code, int) else ""  # type: ignore[attr-defined, unused-ignore]
    return f"line {line}: not well-formed XML ({kind.removeprefix('ERR_').lower().replace('_', ' ') or 'unreadable'})"


class Lines:
    """The document in pieces, each with the number of its line: lines with their end, longer ones cut at ``PIECE``.

    Between two pieces, ``block`` takes many lines at once.
    """

    def __init__(self, chunks: Iterable[bytes], first: int = 1) -> None:
        self._chunks = iter(chunks)
        self._line = first
        self._held = b""
        self._at = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            end = self._held.find(b"\n", self._at, self._at + PIECE)
            if end < 0 and len(self._held) - self._at < PIECE:
                if self._more():
                    continue
                if self._at < len(self._held):
                    yield self._line, self._take(len(self._held))
                return
            line = self._line
            yield line, self._take(end + 1 if end >= 0 else self._at + PIECE)

    def block(self, closing: bytes, size: int) -> tuple[int, bytes]:
        """The next whole lines, about ``size`` bytes of them at most, before one that begins with ``closing``.

        With the number of the first. Empty if there are none, or the next line is longer than that.
        """
        self._more(size)
        if self._held.startswith(closing, self._at):
            return self._line, b""
        stop = self._held.rfind(b"\n", self._at, self._at + size) + 1
        found = self._held.find(b"\n" + closing, self._at, stop)
        line = self._line
        return line, self._take(stop if found < 0 else found + 1) if stop else b""

    def _more(self, wanted: int = 0) -> bool:
        # Chunks until as much as is wanted is held, at least one; False if there are no more.
        if wanted and len(self._held) - self._at >= wanted:
            return True
        parts = [self._held[self._at :]]
        size = len(parts[0])
        for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= wanted:
                break
        self._held, self._at = b"".join(parts), 0
        return len(parts) > 1

    def _take(self, stop: int) -> bytes:
        taken = self._held[self._at : stop]
        self._line += taken.count(b"\n")
        self._at = stop
        return taken


def _schema_error(kind: str, message: str) -> str:
    kind = kind.removeprefix("SCHEMAV_")
    found = _ELEMENT.match(message)
    namespace, name, attribute = found.groups() if found else (None, "", None)
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
        what = "it ends before it is complete" if "Missing child" in message else "it is not expected here"
        known = [name for name in names if name in epi.ELEMENT_NAMES]
        return f"{what}; the XSD expects {' or '.join(known)}" if known else what
    return _MEANINGS.get(kind, f"it breaks the XSD's rule {kind}")
