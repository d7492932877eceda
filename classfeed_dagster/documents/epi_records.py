"""The records of an EPI document as text columns: fast for documents as the writer makes them, right for any.

A line that is one whole plain record (tags without blanks or prefixes, no comment, no CDATA) is read by column
expressions together with thousands of others. Everything else goes to an lxml parser: the document's frame, and
records in any other form. The parser keeps track of where in the document reading stands: a line is taken past it
only inside the section that the record belongs to, and never once a comment or the like was seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import polars as pl
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_mapping import Element, Record, Section
from classfeed_dagster.documents.epi_validator import NoDoctype, hardened

BATCH = 20_000  # records in memory at a time
# How a document in UTF-8 begins; others are read by lxml alone.
_BEGINNING = re.compile(rb"<\?xml version=(['\"])1\.0\1 encoding=(['\"])(?:UTF|utf)-8\2\?>")
_REFERENCES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#10;": "\n", "&amp;": "&"}
_PLAIN_TEXT = f"(?:[^<&\r]|{'|'.join(_REFERENCES)})*"
_PLAIN_ELEMENT = f"<[A-Za-z]+>{_PLAIN_TEXT}</[A-Za-z]+>"

# What takes records: the kind, and one row each with the columns asked for, all of them text.
Taker = Callable[[Record, pl.DataFrame], None]


class Records:
    """Feed it a document's pieces, as far as they are valid, and close it.

    It hands the records to ``take`` in batches, each kind in order.

    ``columns`` are those wanted, by record name. ``frame`` then holds the leaves of Header and ControlTotals as
    (path of names, text), in order; the currency attribute stands as a leaf of its own.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], take: Taker) -> None:
        self._columns = columns
        self._take = take
        self._target = _Target(self._took)
        self._parser = hardened(self._target)
        self._plain: bool | None = None  # None: nothing read yet
        self._waiting: list[bytes] = []
        self._section: Section | None = None
        self._edges = (b"", b"")

    @property
    def frame(self) -> list[tuple[tuple[str, ...], str]]:
        """What the document's frame says."""
        return self._target.leaves

    def feed(self, piece: bytes) -> None:
        """Take a piece of the document, as ``epi_validator.lines`` cuts it. LxmlError if it isn't well-formed."""
        if self._section is not None:
            begin, end = self._edges
            if piece.startswith(begin) and piece.endswith(end):
                self._waiting.append(piece)
                if len(self._waiting) >= BATCH:
                    self._flush()
                return
            self._flush()
        self._parse(piece)

    def close(self) -> None:
        """The document has ended. LxmlError if it is incomplete."""
        self._flush()
        self._parser.close()
        self._target.flush()

    def _parse(self, piece: bytes) -> None:
        markup = piece
        if self._plain is None:
            found = _BEGINNING.match(piece)
            self._plain = found is not None
            markup = piece[found.end() :] if found else piece
        # A piece may end inside "<!" or "<?"; what follows would be inside a comment or the like.
        if b"<!" in markup or b"<?" in markup or markup.endswith(b"<"):
            self._plain = False
        self._parser.feed(piece)
        section = self._target.section if self._plain else None
        if section is not self._section:
            self._section = section
            name = section.record.name.encode() if section else b""
            attributes = bool(section and section.record.attributes)
            self._edges = (b"<" + name + (b" " if attributes else b">"), b"</" + name + b">\n")

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._section is None:
            return
        record = self._section.record
        try:
            texts = pl.Series(record.name, b"".join(waiting).decode().split("\n")[:-1], pl.String)
        except UnicodeDecodeError:  # the validator may still be waiting for the end of the tag that it stands in
            texts = None
        if texts is None or not texts.str.contains(plain_pattern(record)).all():
            for piece in waiting:
                self._parse(piece)
            return
        for nested in record.nested:
            self._took(nested, nested_columns(record, nested, texts))
        self._took(record, plain_columns(record, texts, self._columns[record.name]))

    def _took(self, record: Record, rows: pl.DataFrame) -> None:
        if rows.height:
            self._take(record, rows.select(self._columns[record.name]))


# --- Plain lines --------------------------------------------------------------------------------------------------


@cache
def plain_pattern(record: Record) -> str:
    """What a line must be that ``plain_columns`` can read: one whole record in the plainest form of XML."""
    attributes = "".join(f' {attribute.name}="[A-Z]*"' for attribute in record.attributes)
    nested = "".join(f"(?:<{one.name}>(?:{_PLAIN_ELEMENT})*</{one.name}>)*" for one in record.nested)
    return f"^<{record.name}{attributes}>(?:{_PLAIN_ELEMENT})*{nested}</{record.name}>$"


def plain_columns(record: Record, lines: pl.Series, columns: Iterable[str]) -> pl.DataFrame:
    """The columns of plain lines, null where a line lacks the element."""
    line = pl.col("line")
    own = line
    for nested in record.nested:  # whose elements may have the record's own elements' names
        own = own.str.splitn(f"<{nested.name}>", 2).struct.field("field_0")
    wanted = set(columns)
    values = [
        *(
            line.str.extract(f' {attribute.name}="([A-Z]*)"').alias(attribute.column)
            for attribute in record.attributes
            if attribute.column in wanted
        ),
        *(_value(element, pl.col("own")) for element in record.elements if element.column in wanted),
    ]
    texts = lines.alias("line").to_frame().with_columns(own.alias("own")).select(values)
    return _unescaped(texts)


def nested_columns(record: Record, nested: Record, lines: pl.Series) -> pl.DataFrame:
    """The columns of the records nested in plain lines, with the portfolio number of the record around them."""
    numbers = plain_columns(record, lines, [epi.PORTFOLIO])[epi.PORTFOLIO]
    each = pl.col("line").str.extract_all(f"<{nested.name}>.*?</{nested.name}>")
    inside = pl.DataFrame({"line": lines, epi.PORTFOLIO: numbers}).with_columns(each).explode("line").drop_nulls("line")
    columns = plain_columns(nested, inside["line"], [element.column for element in nested.elements])
    return columns.with_columns(inside[epi.PORTFOLIO])


def _value(element: Element, line: pl.Expr) -> pl.Expr:
    return line.str.extract(f"<{element.name}>([^<]*)</{element.name}>").alias(element.column)


def _unescaped(texts: pl.DataFrame) -> pl.DataFrame:
    columns = []
    for column in texts:
        if column.str.contains("&", literal=True).any():
            for reference, character in _REFERENCES.items():  # "&amp;" last: it may make what looks like another
                column = column.str.replace_all(reference, character, literal=True)  # noqa: PLW2901
        columns.append(column)
    return pl.DataFrame(columns)


# --- Everything else ----------------------------------------------------------------------------------------------


class _Target(NoDoctype):
    """The parser's target: records in any form as rows, and the leaves of the document's frame."""

    def __init__(self, take: Taker) -> None:
        self.leaves: list[tuple[tuple[str, ...], str]] = []
        self._take = take
        self._path: list[str] = []
        self._text: list[str] = []
        self._open: list[tuple[Record, dict[str, str | None], dict[str, str]]] = []
        self._rows: dict[str, list[dict[str, str | None]]] = {record.name: [] for record in epi.RECORDS}
        self._size = 0

    @property
    def section(self) -> Section | None:
        """The section right inside which the parser stands; None anywhere else."""
        return _SECTIONS.get(self._path[1]) if len(self._path) == 2 and self._path[0] == epi.ROOT else None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        name = etree.QName(tag).localname
        self._path.append(name)
        self._text.clear()
        record = _RECORDS.get(tuple(self._path))
        if record is not None:
            row: dict[str, str | None] = {a.column: attributes.get(a.name) for a in record.attributes}
            if self._open:
                row[epi.PORTFOLIO] = self._open[-1][1].get(epi.PORTFOLIO)
            self._open.append((record, row, {element.name: element.column for element in record.elements}))
        elif attributes:
            self.leaves.extend(((*self._path, key), value) for key, value in attributes.items())

    def data(self, text: str) -> None:
        """Text, or a part of it."""
        self._text.append(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        path = tuple(self._path)
        name = self._path.pop()
        if path in _RECORDS:
            record, row, _ = self._open.pop()
            self._rows[record.name].append(row)
            self._size += 1
            if self._size >= BATCH:
                self.flush()
        elif self._open:
            column = self._open[-1][2].get(name)
            if column is not None:
                self._open[-1][1][column] = "".join(self._text)
        elif len(path) > 2 and self._text:
            self.leaves.append((path, "".join(self._text)))
        self._text.clear()

    def flush(self) -> None:
        """Hand over the rows read so far."""
        for record in epi.RECORDS:
            rows = self._rows[record.name]
            if rows:
                names = [epi.PORTFOLIO, *(element.column for element in record.typed())]
                self._take(record, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)))
                rows.clear()
        self._size = 0


_SECTIONS = {section.name: section for section in epi.SECTIONS}
_RECORDS: dict[tuple[str, ...], Record] = {}
for _section in epi.SECTIONS:
    _path = (epi.ROOT, _section.name, _section.record.name)
    _RECORDS[_path] = _section.record
    _RECORDS.update({(*_path, _nested.name): _nested for _nested in _section.record.nested})
