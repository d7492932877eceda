"""Records of an EPI document as text columns: fast for the writer's own form, correct for any.

Lines that are certainly whole, valid records in the plainest form (``xsd_regex``) are read by column expressions,
thousands at once. An lxml parser reads everything else: the document's frame, and records in other forms. The parser
tracks the position in the document. Lines bypass it only inside their record's section, where a plain name means the
XSD's, and never after a comment, CDATA section or instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_mapping import Element, RecordMapping, Section
from classfeed_dagster.documents.epi_validator import NoDoctype, hardened
from classfeed_dagster.documents.xsd_regex import valid_line

BATCH = 20_000  # parsed records in memory at a time
# Beginning of a UTF-8 document; lxml alone reads any other.
_BEGINNING = re.compile(rb"<\?xml version=(['\"])1\.0\1 encoding=(['\"])(?:UTF|utf)-8\2\?>")
_REFERENCES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#10;": "\n", "&amp;": "&"}

_LINE_FEED = 10

# Receives records: their mapping, and one row each with the requested columns, all of them text.
RecordSink = Callable[[RecordMapping, pl.DataFrame], None]


class RecordReader:
    """Reader of a document's records: feed it the valid pieces, then close it.

    It passes the records to ``take`` in batches, each type in order.

    ``columns``: the requested columns by record name. ``frame`` contains the leaves of Header and ControlTotals in
    order, as (path of names, text); the currency attribute is a separate leaf.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], take: RecordSink) -> None:
        self._columns = columns
        self._take = take
        self._target = _Target(self._deliver)
        self._parser = hardened(self._target)
        self._plain: bool | None = None  # None: no piece read yet
        self._section: Section | None = None

    @property
    def frame(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the leaves of Header and ControlTotals."""
        return self._target.leaves

    @property
    def section(self) -> Section | None:
        """Return the section whose lines ``take_lines`` may read at the current position."""
        return self._section

    def feed(self, piece: bytes) -> None:
        """Read a piece of the document, as cut by ``epi_validator.Lines``. LxmlError if it is not well-formed."""
        markup = piece
        if self._plain is None:
            beginning = _BEGINNING.match(piece)
            self._plain = beginning is not None
            markup = piece[beginning.end() :] if beginning else piece
        # A piece may end inside "<!" or "<?", after which a comment, CDATA section or instruction could follow.
        if b"<!" in markup or b"<?" in markup or markup.endswith(b"<"):
            self._plain = False
        self._parser.feed(piece)
        section = self._target.section if self._plain else None
        # A section that begins with its plain name, without prefix, shows that plain names are in the XSD's namespace.
        if section is not self._section:
            begun = section is not None and piece.endswith(f"<{section.name}>\n".encode())
            self._section = section if begun else None

    def close(self) -> None:
        """Finish the document. LxmlError if it is incomplete."""
        self._parser.close()
        self._target.flush()

    def _deliver(self, record: RecordMapping, rows: pl.DataFrame) -> None:
        if rows.height:
            self._take(record, rows.select(self._columns[record.name]))


# --- Plain lines --------------------------------------------------------------------------------------------------


def closing_tag(section: str) -> bytes:
    """Return the end tag of a section."""
    return f"</{section}>".encode()


def take_lines(record: RecordMapping, block: bytes, columns: Mapping[str, Sequence[str]], take: RecordSink) -> bool:
    """Pass whole lines to ``take`` if all of them are certainly valid records; otherwise return False and take none."""
    shortest = len(f"<{record.name}></{record.name}>\n")
    if block.count(b"\n") * shortest > len(block):  # some line is too short for a record, maybe millions are
        return False
    texts = _lines(block)
    if texts is None or not texts.str.contains(valid_line(record.name).removesuffix("$") + "\n$").all():
        return False
    for nested in record.nested:
        rows = nested_columns(record, nested, texts)
        if rows.height:
            take(nested, rows.select(columns[nested.name]))
    take(record, plain_columns(record, texts, columns[record.name]).select(columns[record.name]))
    return True


def _lines(block: bytes) -> pl.Series | None:
    """Return the lines, each with its line end, as views of the block; None if one is not UTF-8."""
    import numpy as np  # a command that reads no document does without them
    import pyarrow as pa

    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _LINE_FEED) + 1
    offsets = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int64).data)
    lines = pa.Array.from_buffers(pa.large_string(), len(ends), [None, offsets, pa.py_buffer(block)])
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return pl.Series("line", lines)


def plain_columns(record: RecordMapping, lines: pl.Series, columns: Iterable[str]) -> pl.DataFrame:
    """Return the columns of plain lines, null where a line lacks the element."""
    line = pl.col("line")
    own = line
    for nested in record.nested:  # its elements may have the names of the record's own
        own = own.str.splitn(f"<{nested.name}>", 2).struct.field("field_0")
    requested = set(columns)
    values = [
        *(
            line.str.extract(f' {attribute.name}="([A-Z]*)"').alias(attribute.column)
            for attribute in record.attributes
            if attribute.column in requested
        ),
        *(_value(element, pl.col("own")) for element in record.elements if element.column in requested),
    ]
    texts = lines.alias("line").to_frame().with_columns(own.alias("own")).select(values)
    return _unescaped(texts)


def nested_columns(record: RecordMapping, nested: RecordMapping, lines: pl.Series) -> pl.DataFrame:
    """Return the columns of records nested in plain lines, with the surrounding record's portfolio number."""
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
            for reference, character in _REFERENCES.items():  # "&amp;" last: it may produce the text of another
                column = column.str.replace_all(reference, character, literal=True)  # noqa: PLW2901
        columns.append(column)
    return pl.DataFrame(columns)


# --- Everything else ----------------------------------------------------------------------------------------------


class _Target(NoDoctype):
    """Parser target: records in any form as rows, and the leaves of the document's frame."""

    def __init__(self, take: RecordSink) -> None:
        self.leaves: list[tuple[tuple[str, ...], str]] = []
        self._take = take
        self._path: list[str] = []
        self._namespace: str | None = None  # of the last started element
        self._text: list[str] = []
        self._open: list[tuple[RecordMapping, dict[str, str | None], dict[str, str]]] = []
        self._rows: dict[str, list[dict[str, str | None]]] = {record.name: [] for record in epi.RECORDS}
        self._size = 0

    @property
    def section(self) -> Section | None:
        """Return the section that directly contains the current position; None anywhere else."""
        inside = len(self._path) == 2 and self._path[0] == epi.ROOT and self._namespace == epi.NAMESPACE
        return _SECTIONS.get(self._path[1]) if inside else None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Start an element."""
        qualified = etree.QName(tag)
        name, self._namespace = qualified.localname, qualified.namespace
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
        """Add a text or a part of it."""
        self._text.append(text)

    def end(self, tag: str) -> None:
        """End an element."""
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
        """Pass on the rows read so far."""
        for record in epi.RECORDS:
            rows = self._rows[record.name]
            if rows:
                names = [epi.PORTFOLIO, *(element.column for element in record.typed())]
                self._take(record, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)))
                rows.clear()
        self._size = 0


_SECTIONS = {section.name: section for section in epi.SECTIONS}
_RECORDS: dict[tuple[str, ...], RecordMapping] = {}
for _section in epi.SECTIONS:
    _path = (epi.ROOT, _section.name, _section.record.name)
    _RECORDS[_path] = _section.record
    _RECORDS.update({(*_path, _nested.name): _nested for _nested in _section.record.nested})
