"""Columns of an asset as Dagster shows them: type, meaning, unit, personal data and lineage."""

from __future__ import annotations

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

PERSONAL = "personal_data"  # the tag of a column that holds personal data
PERSONAL_DATA = "personal"  # its usual value; restricted: never leaves the broker


@dataclass(frozen=True, slots=True)
class AssetColumn:
    """A column of an asset as people see it, and the columns of other assets that its values are made of."""

    name: str
    type: str
    description: str
    nullable: bool = True
    unit: str | None = None
    personal: str | None = None  # why it may never reach a log, an alert or metadata: personal, or restricted
    made_of: tuple[tuple[dg.AssetKey, str], ...] = ()
    origin: tuple[str, ...] = ()  # bigsite's columns, all the way back


def table_metadata(columns: Sequence[AssetColumn]) -> dict[str, Any]:
    """An asset's columns and where each comes from, as Dagster keeps them: for its definition and its materializations.

    The open-source UI keeps and serves the lineage of columns but draws none: so a column's description ends with
    where it comes from in bigsite.
    """
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=_described(column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags={PERSONAL: column.personal} if column.personal else {},
            )
            for column in columns
        ]
    )
    deps = {
        column.name: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in column.made_of]
        for column in columns
        if column.made_of
    }
    lineage = {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)} if deps else {}
    return {"dagster/column_schema": schema, **lineage}


def _described(column: AssetColumn) -> str:
    unit = f" [{column.unit}]" if column.unit else ""
    origin = f" ← bigsite: {', '.join(column.origin)}" if column.origin else ""
    return f"{column.description}{unit}{origin}"


def lineage_table(columns: Sequence[AssetColumn]) -> dg.MarkdownMetadataValue:
    """The lineage of an asset's columns for people: what each is made of one step back, and in bigsite."""
    rows = [
        (
            column.name,
            ", ".join(f"{key.to_user_string()}.{name}" for key, name in column.made_of),
            ", ".join(column.origin),
        )
        for column in columns
        if column.made_of
    ]
    return markdown_table(["column", "made of", "in bigsite"], rows)


def type_name(dtype: pl.DataType) -> str:
    """A column's type in the words of SQL."""
    match dtype:
        case pl.Decimal():
            return f"decimal({dtype.precision},{dtype.scale})"
        case pl.Datetime():
            return "timestamp UTC"
        case pl.List():
            return f"list of {type_name(pl.Int64())}"
    return {pl.String(): "string", pl.Date(): "date", pl.Int64(): "bigint"}[dtype]


def domain_columns(domain: str, name: str) -> list[AssetColumn]:
    """The columns of a domain of the audience called ``name``, those of further frames under the frame's name."""
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
    """The fields of a format's documents, made of the domains of the audience called ``name``."""
    shown: list[AssetColumn] = []
    for field in document.columns:
        filled = filling(field)
        made_of = tuple(
            (domain_key(name, domain_of(frame.name)), shown_name(domain_of(frame.name), frame, column.name))
            for frame, column in filled
        )
        meaning = "; ".join(column.description for _, column in filled)
        unit = filled[-1][1].unit
        personal = PERSONAL_DATA if is_personal(field) else None
        origin = field_sources(field)
        shown.append(AssetColumn(field.name, field.kind, meaning, field.optional, unit, personal, made_of, origin))
    return shown


def same_columns(columns: Sequence[AssetColumn], of: dg.AssetKey) -> list[AssetColumn]:
    """The columns of an asset that hands on those of another as they are."""
    return [replace(column, made_of=((of, column.name),)) for column in columns]


def record_columns(record: type[BaseModel]) -> list[AssetColumn]:
    """The columns of an asset that keeps such records as JSON; from the record's own fields."""
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
