"""EPI writer: records from column expressions, portfolios as slices of bytes, pages from lxml.

Rows become text by whole columns (Polars), because usual builders call Python for each of some millions of elements. A
test checks that the bytes equal lxml's, except that a line break inside a text is a reference: every record is one
line.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import polars as pl
from lxml import etree

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import PageHeader, RenderedPortfolio, Totals
from classfeed_dagster.documents.epi_mapping import Element, ElementType, Group, RecordMapping
from classfeed_dagster.documents.epi_schema import text_rules
from classfeed_dagster.documents.epi_totals import portfolio_totals
from classfeed_dagster.errors import CodeFaultError
from classfeed_dagster.trading_days import instant_text

if TYPE_CHECKING:
    import numpy as np  # functions import it: a command that writes no document does without
    import numpy.typing as npt

BLOCK_ROWS = 16_000  # records whose text is in memory at a time; does not change the output
CHUNK = 1 << 18  # bytes to which small pieces of a page are joined

# As lxml writes text, plus line feed. CR must be a reference, or a reader would see a line feed.
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;", "\n": "&#10;"}
ATTRIBUTE_ESCAPES = {**ESCAPES, '"': "&quot;", "\t": "&#9;"}

_PLACES = {ElementType.MONEY: 2, ElementType.DECIMAL6: 6}

Frames = Mapping[str, pl.DataFrame]


class FrameShapeError(CodeFaultError):
    """The frames cannot be rendered: a column, a type, a null or a portfolio that no document may have."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """A section's rows in document order, and the start of each portfolio's rows (with one more entry at the end)."""

    frame: pl.DataFrame
    starts: npt.NDArray[np.int64]


def render(frames: Frames) -> Iterator[RenderedPortfolio]:
    """Yield each portfolio of ``frames`` as bytes by section with its totals, ordered by portfolio number.

    ``frames`` holds the five frames by name, rows in any order. FrameShapeError if a frame differs from the domains'
    declaration, a group of elements is incomplete, money has no currency, or a row's portfolio has no account or is
    REMOVED. ``check_representable`` reports all of these beforehand.
    """
    checked = {record.frame.name: _checked(record, frames) for record in epi.RECORDS}
    del frames  # keeps one copy of the rows in memory
    accounts = checked[epi.ACCOUNT.frame.name].sort(epi.ACCOUNT.sort_key)
    sending = accounts.filter(pl.col(epi.CONSENT) != epi.REMOVED)[epi.PORTFOLIO]
    numbers = accounts[epi.PORTFOLIO]
    if numbers.n_unique() != len(numbers):
        raise FrameShapeError("accounts has two rows for one portfolio: its details must be unambiguous")
    sections = {
        section.name: _rows(
            section.record,
            checked.pop(section.record.frame.name),
            numbers,
            numbers if section.record is epi.ACCOUNT else sending,
        )
        for section in epi.SECTIONS
    }
    cash = _rows(epi.CASH_ACCOUNT, checked[epi.CASH_ACCOUNT.frame.name], numbers, numbers)
    for first, last in itertools.pairwise(_block_bounds([rows.starts for rows in sections.values()])):
        yield from _render_block(numbers[first:last], first, sections, cash)


def page(header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
    """Yield a whole page in chunks: declaration, root, Header, the sections' records, ControlTotals."""
    return _joined(_page(header, totals, sections))


def _page(header: PageHeader, totals: Totals, sections: Mapping[str, Iterable[bytes]]) -> Iterator[bytes]:
    unknown = sorted(set(sections) - {section.name for section in epi.SECTIONS})
    if unknown:
        raise ValueError(f"An EPI page has no sections {unknown}")
    rest = _frame_of_page(header, totals)
    for section in epi.SECTIONS:
        empty = f"<{section.name}/>".encode()
        before, _, rest = rest.partition(empty)
        yield before
        records = filter(None, sections.get(section.name, ()))
        first = next(records, None)
        if first is None:
            yield empty
            continue
        yield f"<{section.name}>\n".encode()
        yield first
        yield from records
        yield f"</{section.name}>".encode()
    yield rest


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


def _frame_of_page(header: PageHeader, totals: Totals) -> bytes:
    """Return the page without records, each section empty."""
    root = etree.Element(epi.tag(epi.ROOT), nsmap={None: epi.NAMESPACE})
    head = etree.SubElement(root, epi.tag(epi.HEADER))
    values = {
        "recorded_after": header.window.start,
        "recorded_before": header.window.end,
        "holding_basis": epi.HOLDING_BASIS,
    }
    for element in epi.HEADER_ELEMENTS:
        value = values[element.column] if element.column in values else getattr(header, element.column)
        if value is not None:
            _leaf(head, element.name, _scalar(value))
    for section in epi.SECTIONS:
        etree.SubElement(root, epi.tag(section.name))
    control = etree.SubElement(root, epi.tag(epi.CONTROL_TOTALS))
    for section in epi.SECTIONS:
        _leaf(control, section.counted_as, str(totals.counts.get(section.name, 0)))
    for currency in sorted(totals.currencies):
        total = etree.SubElement(control, epi.tag(epi.CURRENCY_TOTAL), {epi.CURRENCY_ATTRIBUTE: currency})
        for element in epi.CURRENCY_ELEMENTS:
            _leaf(total, element.name, _fixed(element, getattr(totals.currencies[currency], element.column)))
    for element in (epi.UNITS_HELD, epi.UNITS_MOVED):
        _leaf(control, element.name, _fixed(element, getattr(totals, element.column)))
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _leaf(parent: etree._Element, name: str, text: str) -> None:
    etree.SubElement(parent, epi.tag(name)).text = text


def _scalar(value: object) -> str:
    # datetime first: it is a date too.
    if isinstance(value, dt.datetime):
        return instant_text(value)
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def _fixed(element: Element, value: Decimal) -> str:
    places = _PLACES[element.type]
    text = f"{value if value else Decimal(0):.{places}f}"  # never -0.00
    pattern = text_rules()[element.type].pattern or ""
    if Decimal(text) != value or not re.fullmatch(pattern, text):
        raise ValueError(f"the control total {element.name} is not of the form {pattern}: it can't be stated")
    return text


# --- Rows ---------------------------------------------------------------------------------------------------------


def declared_frame(record: RecordMapping, frames: Frames) -> pl.DataFrame:
    """Return the record's frame. FrameShapeError if its columns and types differ from the declaration."""
    declared = record.frame
    frame = frames.get(declared.name)
    if frame is None:
        raise FrameShapeError(f"the frame {declared.name} is missing")
    if dict(frame.schema) != declared.schema:
        wrong = sorted(
            name for name in {*frame.schema, *declared.schema} if frame.schema.get(name) != declared.schema.get(name)
        )
        raise FrameShapeError(f"{declared.name} differs from domains/columns.py: see the columns {wrong}")
    return frame


def _checked(record: RecordMapping, frames: Frames) -> pl.DataFrame:
    # The record's frame, whose nulls and groups are checked as well.
    declared, frame = record.frame, declared_frame(record, frames)
    nulls = [column.name for column in declared.columns if not column.nullable and frame[column.name].null_count()]
    if nulls:
        raise FrameShapeError(f"{declared.name} has nulls in required columns: {nulls}")
    for name, broken in group_breaches(record).items():
        if frame.select(broken.any()).item():
            raise FrameShapeError(f"{declared.name} has rows whose {name} is incomplete")
    return frame


def group_breaches(record: RecordMapping) -> dict[str, pl.Expr]:
    """Return the all-or-nothing rules by name, as expressions that are true for a bad row."""
    breaches: dict[str, pl.Expr] = {}
    for group in record.groups:
        needed = [pl.col(element.column).is_null() for element in group.elements if not element.optional]
        if group is epi.DETAILS:
            # The details of a REMOVED account are not written, so they cannot be incomplete.
            breaches[group.name] = (pl.col(epi.CONSENT) != epi.REMOVED) & pl.any_horizontal(needed)
        else:
            present = [pl.col(element.column).is_not_null() for element in group.elements]
            breaches[group.name] = pl.any_horizontal(present) & pl.any_horizontal(needed)
    columns = {element.column: element for element in record.elements}
    money = [e.column for e in record.elements if e.type is ElementType.MONEY or e.column == "price"]
    if epi.CURRENCY in columns and columns[epi.CURRENCY].optional:
        carries = pl.any_horizontal(pl.col(column).is_not_null() for column in money)
        breaches[epi.CURRENCY] = carries & pl.col(epi.CURRENCY).is_null()
    return breaches


def _rows(record: RecordMapping, frame: pl.DataFrame, numbers: pl.Series, allowed: pl.Series) -> _Rows:
    # The frame in document order, with the position of each portfolio of ``numbers``.
    keys = frame.select(pl.struct(record.sort_key)).to_series()
    ordered = frame if keys.is_sorted() else frame.sort(record.sort_key)  # the domains' frames are in this order
    runs = ordered[epi.PORTFOLIO].rle().struct.unnest()
    unexpected = runs.filter(~pl.col("value").is_in(allowed.implode()))
    if unexpected.height:
        raise FrameShapeError(
            f"{record.frame.name} has rows of {unexpected.height} portfolios without an account or REMOVED, "
            f"e.g. {unexpected['value'][0]}"
        )
    lengths = (
        pl.DataFrame({"value": numbers}).join(runs, on="value", how="left", maintain_order="left")["len"].fill_null(0)
    )
    import numpy as np

    starts = np.zeros(len(numbers) + 1, dtype=np.int64)
    np.cumsum(lengths.to_numpy(), out=starts[1:])
    return _Rows(ordered, starts)


def _block_bounds(starts: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    """Return the bounds of blocks of whole portfolios, each of at most ``BLOCK_ROWS`` rows or one portfolio."""
    import numpy as np

    rows = np.sum(starts, axis=0)  # before each portfolio, over all sections
    bounds = [0]
    while bounds[-1] < len(rows) - 1:
        full = int(np.searchsorted(rows, rows[bounds[-1]] + BLOCK_ROWS, side="right")) - 1
        bounds.append(max(full, bounds[-1] + 1))
    return bounds


def _render_block(
    numbers: pl.Series, first: int, sections: Mapping[str, _Rows], cash: _Rows
) -> Iterator[RenderedPortfolio]:
    last = first + len(numbers)

    def part(rows: _Rows) -> pl.DataFrame:
        return rows.frame[int(rows.starts[first]) : int(rows.starts[last])]

    texts: dict[str, tuple[memoryview, list[int]]] = {}
    frames: dict[str, pl.DataFrame] = {}
    for section in epi.SECTIONS:
        rows = sections[section.name]
        frame = frames[section.name] = part(rows)
        extra = {nested.name: _nested_text(nested, frame, part(cash)) for nested in section.record.nested}
        starts = rows.starts[first : last + 1] - rows.starts[first]
        texts[section.name] = _bytes(record_text(section.record, frame, extra, end="\n"), starts)
    totals = portfolio_totals(numbers, frames)
    for at, number in enumerate(numbers.to_list()):
        yield RenderedPortfolio(
            number,
            {name: bytes(text[bounds[at] : bounds[at + 1]]) for name, (text, bounds) in texts.items()},
            totals[at],
        )


def _bytes(records: pl.Series, starts: npt.NDArray[np.int64]) -> tuple[memoryview, list[int]]:
    # The concatenated records as UTF-8, and the position in it of each row of ``starts``.
    import numpy as np

    array = records.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = array.buffers()
    if offsets is None or content is None or not len(array):
        return memoryview(b""), [0] * len(starts)
    places = np.frombuffer(memoryview(offsets), dtype=np.int64)[array.offset :]
    return memoryview(content), places[starts].tolist()


# --- Text ---------------------------------------------------------------------------------------------------------


def record_text(
    record: RecordMapping, frame: pl.DataFrame, nested: Mapping[str, pl.Series] | None = None, end: str = ""
) -> pl.Series:
    """Return one string a row: the record's element, then ``end``. ``nested``: texts of nested records, by row."""
    columns = {element.column: element for element in record.typed()}
    texts = frame.select(
        *(_text(element, frame[element.column], record) for element in columns.values()),
        *(text.alias(f"nested {name}") for name, text in (nested or {}).items()),
    )
    attributes = "".join(f' {attribute.name}="{{}}"' for attribute in record.attributes)
    template = [f"<{record.name}{attributes}>"]
    values = [pl.col(attribute.column) for attribute in record.attributes]
    for part in record.content:
        _add(part, template, values)
    template.append(f"</{record.name}>{end}")
    return texts.select(pl.format("".join(template), *values).alias(record.name)).to_series()


def _add(part: Element | Group | RecordMapping, template: list[str], values: list[pl.Expr]) -> None:
    # Append an element, a group or nested records to a template, and the values of its placeholders.
    if isinstance(part, RecordMapping):
        template.append("{}")
        values.append(pl.col(f"nested {part.name}"))
        return
    if isinstance(part, Element) and not part.optional:
        template.append(f"<{part.name}>{{}}</{part.name}>")
        values.append(pl.col(part.column))
        return
    template.append("{}")
    if isinstance(part, Element):
        present = pl.format(f"<{part.name}>{{}}</{part.name}>", pl.col(part.column))
    else:
        inner: list[str] = []
        inner_values: list[pl.Expr] = []
        for member in part.members:
            _add(member, inner, inner_values)
        present = pl.format("".join(inner), *inner_values)  # null if any required member is: all or nothing
        if part is epi.DETAILS:
            present = pl.when(pl.col(epi.CONSENT) != epi.REMOVED).then(present)
    values.append(present.fill_null(""))


def _nested_text(record: RecordMapping, parents: pl.DataFrame, frame: pl.DataFrame) -> pl.Series:
    # The text of each row's nested records, empty if it has none.
    texts = frame.select(pl.col(epi.PORTFOLIO), record_text(record, frame).alias("text"))
    joined = texts.group_by(epi.PORTFOLIO, maintain_order=True).agg(pl.col("text").str.join(""))
    return parents.join(joined, on=epi.PORTFOLIO, how="left", maintain_order="left")["text"].fill_null("")


def _text(element: Element, values: pl.Series, record: RecordMapping) -> pl.Expr:
    # A column as the document contains it; nulls stay null.
    column = pl.col(element.column)
    if element.type in epi.NUMBERS or element.type is ElementType.DATE:
        return column.cast(pl.String)  # a decimal keeps its scale: 2 for money, 6 for the rest
    if element.type is ElementType.INSTANT:
        return column.dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
    # Most columns have nothing to escape, and a search is much cheaper than a replacement. Every text column is
    # searched, codes and identifiers too, so that no value can be read as markup.
    if element.optional and element.type is ElementType.TEXT:
        column = pl.when(column != "").then(column)  # empty means absent (XSD, reading rules)
    escapes = ATTRIBUTE_ESCAPES if element in record.attributes else ESCAPES
    if values.str.contains(f"[{''.join(escapes)}]").any():
        for character, reference in escapes.items():
            column = column.str.replace_all(character, reference, literal=True)
    return column
