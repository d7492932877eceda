"""Column metadata of assets: type, meaning, unit, personal data and lineage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import dagster as dg
import polars as pl
from pydantic import BaseModel

from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.documents.lineage import field_sources, filling, is_personal
from classfeed_dagster.domains.build import CONSENTED
from classfeed_dagster.domains.lineage import bigsite_columns, domain_of, shown_frames, shown_name, sources_of
from classfeed_dagster.orchestration.asset_keys import domain_key, landing_key
from classfeed_dagster.orchestration.metadata_values import markdown_table

PERSONAL = "personal_data"  # tag of a column with personal data
PERSONAL_DATA = "personal"  # its usual value; "restricted" data never leaves the broker


@dataclass(frozen=True, slots=True)
class AssetColumn:
    """A displayed column of an asset, with its source columns in other assets."""

    name: str
    type: str
    description: str
    nullable: bool = True
    unit: str | None = None
    personal: str | None = None  # personal or restricted, if it may never appear in a log, an alert or metadata
    sources: tuple[tuple[dg.AssetKey, str], ...] = ()
    origin: tuple[str, ...] = ()  # bigsite's columns, through all steps


def table_metadata(columns: Sequence[AssetColumn]) -> dict[str, Any]:
    """Return an asset's column schema and lineage as metadata of its definition.

    Materializations leave them out: they are the same on every date, and were a third of what a run stores.
    The open-source UI stores and serves column lineage but does not draw it, so a column's description ends with its
    origin in bigsite.
    """
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=plain_type(column.type),
                description=_described(column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags={PERSONAL: column.personal} if column.personal else {},
            )
            for column in columns
        ]
    )
    deps = {
        column.name: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in column.sources]
        for column in columns
        if column.sources
    }
    lineage = {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)} if deps else {}
    return {"dagster/column_schema": schema, **lineage}


_PLAIN_TYPES = (
    (re.compile(r"(?i)decimal\d*\((\d+), ?(\d+)\)|numeric\((\d+),(\d+)\)"), None),
    (re.compile(r"Money|MONEY"), "decimal(18,2)"),
    (re.compile(r"Decimal6|DECIMAL6"), "decimal(20,6)"),
    (re.compile(r"timestamp\[.*|timestamp UTC|(?i:instant)|TIMESTAMPTZ"), "timestamp UTC"),
    (re.compile(r"date32\[day\]|CalendarDate|DATE|date( \| None)?"), "date"),
    (re.compile(r"(?i)int64|bigint|int( \| None)?"), "bigint"),
    (re.compile(r"(?i)bool(ean)?"), "boolean"),
    (re.compile(r"(?i)tuple|list.*"), "list"),
    (re.compile(r"[A-Z_]+(\(.*\))?"), ""),  # other types of SQL are known as they are
)


def plain_type(name: str) -> str:
    """Return a column's type in SQL's terms. Names of the XSD's text types are strings."""
    if name == "TEXT":
        return "string"
    for pattern, plain in _PLAIN_TYPES:
        if match := pattern.fullmatch(name):
            if plain is None:
                precision, scale = (part for part in match.groups() if part)
                return f"decimal({precision},{scale})"
            return plain or name
    return "string"


def _described(column: AssetColumn) -> str:
    unit = f" [{column.unit}]" if column.unit else ""
    origin = f" ← bigsite: {', '.join(column.origin)}" if column.origin else ""
    return f"{column.description}{unit}{origin}"


def lineage_table(columns: Sequence[AssetColumn]) -> dg.MarkdownMetadataValue:
    """Return the lineage of an asset's columns as a table: sources one step back, and in bigsite."""
    rows = [
        (
            column.name,
            ", ".join(f"{key.to_user_string()}.{name}" for key, name in column.sources),
            ", ".join(column.origin),
        )
        for column in columns
        if column.sources
    ]
    return markdown_table(["column", "source", "in bigsite"], rows)


def type_name(dtype: pl.DataType) -> str:
    """Return a column's type in SQL terms."""
    match dtype:
        case pl.Decimal():
            return f"decimal({dtype.precision},{dtype.scale})"
        case pl.Datetime():
            return "timestamp UTC"
        case pl.List():
            return f"list of {type_name(pl.Int64())}"
    return {pl.String(): "string", pl.Date(): "date", pl.Int64(): "bigint"}[dtype]


def domain_columns(domain: str, name: str) -> list[AssetColumn]:
    """Return a domain's columns for the audience ``name``; other frames' columns have the frame's name as prefix."""
    return [
        AssetColumn(
            shown_name(domain, frame, column.name),
            type_name(column.dtype),
            column.description,
            column.nullable,
            column.unit,
            PERSONAL_DATA if column.personal else None,
            tuple(
                (domain_key(name, CONSENTED) if table == CONSENTED else landing_key(table), source)
                for table, source in sources_of(column)
            ),
            bigsite_columns(column),
        )
        for frame in shown_frames(domain)
        for column in frame.columns
    ]


def document_columns(document: DocumentFormat, name: str) -> list[AssetColumn]:
    """Return the fields of a format's documents, with the domains of the audience ``name`` as sources."""
    shown: list[AssetColumn] = []
    for field in document.columns:
        filled = filling(field)
        sources = tuple(
            (domain_key(name, domain_of(frame.name)), shown_name(domain_of(frame.name), frame, column.name))
            for frame, column in filled
        )
        meaning = "; ".join(column.description for _, column in filled)
        unit = filled[-1][1].unit
        personal = PERSONAL_DATA if is_personal(field) else None
        origin = field_sources(field)
        shown.append(AssetColumn(field.name, field.kind, meaning, field.optional, unit, personal, sources, origin))
    return shown


def same_columns(columns: Sequence[AssetColumn], of: dg.AssetKey) -> list[AssetColumn]:
    """Return the columns of an asset that passes on another asset's columns unchanged."""
    return [replace(column, sources=((of, column.name),)) for column in columns]


def record_columns(record: type[BaseModel]) -> list[AssetColumn]:
    """Return the columns of an asset that stores such records as JSON, from the record's fields."""
    return [
        AssetColumn(
            name,
            str(getattr(field.annotation, "__name__", field.annotation))
            .replace("datetime.", "")
            .replace("typing.", ""),
            field.description or name.replace("_", " "),
            not field.is_required() or type(None) in get_args(field.annotation),
        )
        for name, field in record.model_fields.items()
    ]
