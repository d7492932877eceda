"""The records of an EPI document as text columns: fast for documents as the writer makes them, right for any.

Lines that are whole, valid records in the plainest form for certain (``epi_proof``) are read by column expressions,
thousands together. Everything else goes to an lxml parser: the document's frame, and records in any other form. The
parser keeps track of where in the document reading stands: lines are taken past it only inside the section that the
record belongs to, in which a plain name means the XSD's, and never once a comment or the like was seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.epi_mapping import Element, Record, Section
from classfeed_dagster.documents.epi_validator import NoDoctype, hardened
from classfeed_dagster.documents.xsd_regex import valid_line

BATCH = 20_000  # of the parser's records in memory at a time
# How a document in UTF-8 begins; others are read by lxml alone.
_BEGINNING = re.compile(rb"<\?xml version=(['\"])1\.0\1 encoding=(['\"])(?:UTF|utf)-8\2\?>")
_REFERENCES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#10;": "\n", "&amp;": "&"}

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
        self._section: Section | None = None

    @property
    def frame(self) -> list[tuple[tuple[str, ...], str]]:
        """Header and totals of the document's frame."""
        return self._target.leaves

    @property
    def section(self) -> Section | None:
        """The section right inside which reading stands, if its lines may be taken by ``take_lines``."""
        return self._section

    def feed(self, piece: bytes) -> None:
        """Take a piece of the document, as ``epi_validator.Lines`` cuts it. LxmlError if it isn't well-formed."""
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
        # A section begun by its plain name, without a prefix, shows that the XSD's is the namespace of plain names.
        if section is not self._section:
            begun = section is not None and piece.endswith(f"<{section.name}>\n".encode())
            self._section = section if begun else None

    def close(self) -> None:
        """The document has ended. LxmlError if it is incomplete."""
        self._parser.close()
        self._target.flush()

    def _took(self, record: Record, rows: pl.DataFrame) -> None:
        if rows.height:
            self._take(record, rows.select(self._columns[record.name]))


# --- Plain lines --------------------------------------------------------------------------------------------------


def closing_tag(section: str) -> bytes:
    """End of a section."""
    return f"</{section}>".encode()


def take_lines(record: Record, block: bytes, columns: Mapping[str, Sequence[str]], take: Taker) -> bool:
    """Hand whole lines to ``take``, if all of them are valid records for certain; else False, and nothing is taken."""
    try:
        texts = pl.Series(record.name, block.decode().split("\n")[:-1], pl.String)
    except UnicodeDecodeError:
        return False
    if not texts.str.contains(valid_line(record.name)).all():
        return False
    for nested in record.nested:
        rows = nested_columns(record, nested, texts)
        if rows.height:
            take(nested, rows.select(columns[nested.name]))
    take(record, plain_columns(record, texts, columns[record.name]).select(columns[record.name]))
    return True


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
        self._namespace: str | None = None  # of the last element that began
        self._text: list[str] = []
        self._open: list[tuple[Record, dict[str, str | None], dict[str, str]]] = []
        self._rows: dict[str, list[dict[str, str | None]]] = {record.name: [] for record in epi.RECORDS}
        self._size = 0

    @property
    def section(self) -> Section | None:
        """The section right inside which the parser stands; None anywhere else."""
        inside = len(self._path) == 2 and self._path[0] == epi.ROOT and self._namespace == epi.NAMESPACE
        return _SECTIONS.get(self._path[1]) if inside else None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
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
