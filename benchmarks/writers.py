"""Ways of writing the EPI document from the domains' frames: this project's, others', and formatting alone.

Each takes the whole frames, sorted as the domains sort them, and the page's header and totals, and writes one file.
All but the last two (whose documents are flat or indented) give canonically the same document, which a test proves.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field as dataclass_field
from dataclasses import make_dataclass
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from lxml import etree
from lxml.builder import ElementMaker

from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.document_format import PageHeader, Totals
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.documents.epi_mapping import Element, ElementType, Group, RecordMapping

Frames = dict[str, pl.DataFrame]
Make = Callable[..., etree._Element]


# --- Whole trees --------------------------------------------------------------------------------------------------


def e_builder(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Measure the baseline: lxml's E builder, one call an element, the whole document as a tree."""
    maker = ElementMaker(namespace=epi.NAMESPACE, nsmap={None: epi.NAMESPACE})

    def make(name: str, *content: Any, **attributes: str) -> etree._Element:
        return maker(name, *content, **attributes)

    _whole_tree(frames, header, totals, path, make)


def subelement(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Write by lxml's own elements, the whole document as a tree."""
    _whole_tree(frames, header, totals, path, _plain)


def _plain(name: str, *content: Any, **attributes: str) -> etree._Element:
    element = etree.Element(epi.tag(name), attributes, nsmap={None: epi.NAMESPACE})
    for value in content:
        if isinstance(value, str):
            element.text = value
        else:
            element.append(value)
    return element


def _whole_tree(frames: Frames, header: PageHeader, totals: Totals, path: Path, make: Make) -> None:
    root = etree.fromstring(b"".join(EPI.page(header, totals, {})))
    for section in epi.SECTIONS:
        parent = root.find(epi.tag(section.name))
        assert parent is not None
        for element in _records(section.record, frames, make):
            element.tail = "\n"
            parent.append(element)
        parent.text = "\n" if len(parent) else None
    path.write_bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8"))


def _records(record: RecordMapping, frames: Frames, make: Make) -> Iterator[etree._Element]:
    nested = {
        number: list(rows)
        for number, rows in groupby(
            frames[epi.CASH_ACCOUNT.frame.name].iter_rows(named=True), key=lambda row: row[epi.PORTFOLIO]
        )
    }
    for row in frames[record.frame.name].iter_rows(named=True):
        yield make(
            record.name,
            *_content(record, row, nested, make),
            **{attribute.name: row[attribute.column] for attribute in record.attributes},
        )


def _content(record: RecordMapping, row: dict[str, Any], nested: dict[str, Any], make: Make) -> Iterator[Any]:
    for part in record.content:
        for member in part.members if isinstance(part, Group) else (part,):
            if isinstance(member, RecordMapping):
                for inner in nested.get(row[epi.PORTFOLIO], ()):
                    yield make(member.name, *_content(member, inner, nested, make))
            elif row[member.column] is not None:
                yield make(member.name, _text(row[member.column]))


def _text(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


# --- Streams ------------------------------------------------------------------------------------------------------


def this_project(slices: Iterable[Frames], header: PageHeader, totals: Totals, path: Path) -> None:
    """Write by column expressions over slices of portfolios, as a delivery is built."""
    spool: dict[str, list[bytes]] = {section.name: [] for section in epi.SECTIONS}
    for frames in slices:
        for portfolio in EPI.render(frames):
            for name, content in portfolio.sections.items():
                spool[name].append(content)
    with path.open("wb") as target:
        target.writelines(EPI.page(header, totals, spool))


def xmlfile(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Write by ``lxml.etree.xmlfile``: each record a small tree, written and forgotten."""
    frame = etree.fromstring(b"".join(EPI.page(header, totals, {})))
    by_name = {section.name: section for section in epi.SECTIONS}
    with etree.xmlfile(str(path), encoding="UTF-8") as document:
        document.write_declaration()
        with document.element(epi.tag(epi.ROOT), nsmap={None: epi.NAMESPACE}):
            for part in frame:
                section = by_name.get(etree.QName(part).localname)
                if section is None:
                    document.write(part)
                    continue
                with document.element(epi.tag(section.name)):
                    for at, element in enumerate(_records(section.record, frames, _plain)):
                        if not at:
                            document.write("\n")
                        document.write(element)
                        document.write("\n")


# --- Formatting alone: no escaping, no cutting by portfolio, no totals, no rule looked at --------------------------


def polars_formatting(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Measure a floor: the same text by one Polars expression a record type."""
    texts: dict[str, Any] = {}
    for section in epi.SECTIONS:
        frame = frames[section.record.frame.name]
        for nested in section.record.nested:
            inner = frames[nested.frame.name]
            rendered = inner.select(epi.PORTFOLIO, _polars(nested, "").alias("nested"))
            joined = rendered.group_by(epi.PORTFOLIO, maintain_order=True).agg(pl.col("nested").str.join(""))
            frame = frame.join(joined, on=epi.PORTFOLIO, how="left", maintain_order="left")
        text = frame.select(_polars(section.record, "\n")).to_series().rechunk()
        texts[section.name] = text.to_arrow(compat_level=pl.CompatLevel.oldest())
    _write_page(header, totals, {name: [text] for name, text in texts.items()}, path)


def _polars(record: RecordMapping, end: str) -> pl.Expr:
    def leaf(element: Element) -> pl.Expr:
        column = pl.col(element.column)
        text = (
            column.dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
            if element.type is ElementType.INSTANT
            else column.cast(pl.String)
        )
        return pl.concat_str(pl.lit(f"<{element.name}>"), text, pl.lit(f"</{element.name}>"))

    parts: list[pl.Expr] = [pl.lit(f"<{record.name}")]
    for attribute in record.attributes:
        parts += [pl.lit(f' {attribute.name}="'), pl.col(attribute.column), pl.lit('"')]
    parts.append(pl.lit(">"))
    for part in record.content:
        for member in part.members if isinstance(part, Group) else (part,):
            parts.append(pl.col("nested") if isinstance(member, RecordMapping) else leaf(member))
    return pl.concat_str(*parts, pl.lit(f"</{record.name}>{end}"), ignore_nulls=True)


def duckdb_formatting(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Measure a floor: the same text by one DuckDB query a record type, over the frames as they are."""
    import duckdb  # imported lazily: a run without it must not be measured with it

    with duckdb.connect(config={"preserve_insertion_order": True}) as db:
        for name, frame in frames.items():
            db.register(name, frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        pieces: dict[str, list[Any]] = {}
        for section in epi.SECTIONS:
            source = section.record.frame.name
            for nested in section.record.nested:
                source = f"""(SELECT r.*, n.nested FROM {source} r LEFT JOIN (
                    SELECT {epi.PORTFOLIO}, string_agg({_duckdb(nested, "")}, '') AS nested
                    FROM {nested.frame.name} GROUP BY 1) n USING ({epi.PORTFOLIO}) ORDER BY {epi.PORTFOLIO})"""
            table: Any = db.sql(f"SELECT {_duckdb(section.record, chr(10))} AS text FROM {source} r").to_arrow_table()
            pieces[section.name] = list(table.column("text").chunks)
    _write_page(header, totals, pieces, path)


def _duckdb(record: RecordMapping, end: str) -> str:
    def leaf(element: Element) -> str:
        text = f"CAST({element.column} AS VARCHAR)"
        if element.type is ElementType.INSTANT:
            text = f"strftime(make_timestamp(epoch_us({element.column})), '%Y-%m-%dT%H:%M:%S.%fZ')"
        return f"'<{element.name}>' || {text} || '</{element.name}>'"

    parts = [f"'<{record.name}'"]
    parts += [f"' {attribute.name}=\"' || {attribute.column} || '\"'" for attribute in record.attributes]
    parts.append("'>'")
    for part in record.content:
        for member in part.members if isinstance(part, Group) else (part,):
            parts.append("nested" if isinstance(member, RecordMapping) else leaf(member))
    return f"concat({', '.join(parts)}, '</{record.name}>{end}')"


def _write_page(header: PageHeader, totals: Totals, texts: Mapping[str, list[Any]], path: Path) -> None:
    pieces = {name: map(_content_of, arrays) for name, arrays in texts.items()}
    with path.open("wb") as target:
        target.writelines(EPI.page(header, totals, pieces))


def _content_of(array: Any) -> bytes:
    # A string array's text is contiguous in one buffer.
    wide = array.cast(pa.large_string())
    buffers = wide.buffers()
    return b"" if buffers[2] is None else bytes(memoryview(buffers[2]))


# --- What a user would reach for; flat or indented documents, for their time only ---------------------------------


def pandas_to_xml(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Write by ``pandas.DataFrame.to_xml``, a file a record type: one flat list of rows is all that it can write."""
    for section in epi.SECTIONS:
        record = section.record
        frame = frames[record.frame.name].select(element.column for element in record.typed()).to_pandas()
        frame.columns = [element.name for element in record.typed()]
        frame.to_xml(
            path.with_suffix(f".{section.name}.xml"),
            index=False,
            root_name=section.name,
            row_name=record.name,
            namespaces={"": epi.NAMESPACE},
        )


def xsdata(frames: Frames, header: PageHeader, totals: Totals, path: Path) -> None:
    """Write by xsdata's data classes and serializer, a list of records a section."""
    from xsdata.formats.dataclass.serializers import XmlSerializer

    serializer = XmlSerializer()
    for section in epi.SECTIONS:
        record = section.record
        kind = _data_class(record)
        names = [element.name for element in record.typed()]
        columns = frames[record.frame.name].select(element.column for element in record.typed())
        texts = [[None if value is None else _text(value) for value in row] for row in columns.iter_rows()]
        rows = [kind(**dict(zip(names, row, strict=True))) for row in texts]
        listed = make_dataclass(
            section.name,
            [("rows", list[kind], dataclass_field(metadata={"name": record.name, "type": "Element"}))],  # type: ignore[valid-type]
        )
        path.with_suffix(f".{section.name}.xml").write_text(serializer.render(listed(rows=rows)))


def _data_class(record: RecordMapping) -> Any:
    return make_dataclass(
        record.name,
        [
            (
                element.name,
                str | None,
                dataclass_field(
                    default=None,
                    metadata={"type": "Attribute" if element in record.attributes else "Element"},
                ),
            )
            for element in record.typed()
        ],
    )
