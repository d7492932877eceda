"""What Dagster shows of an asset: column schemas, column lineage, sums, links. Made from the declarations alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from classfeed_dagster.domains.columns import Column, Frame

TEAM = "team:data-feeds"
SOURCE_TEAM = "team:bigsite"

GROUP_SOURCE = "1_bigsite"
GROUP_LANDING = "2_landing"
GROUP_DOMAINS = "3_domains"
RUNBOOK = "docs/runbook.md"


def table_schema(columns: Iterable[Column]) -> dg.TableSchema:
    """A frame's columns as Dagster shows them: type, unit, meaning, and whether it is personal data."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.dtype),
                description=f"{column.description} [{column.unit}]" if column.unit else column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags={"personal_data": "true"} if column.personal else {},
            )
            for column in columns
        ]
    )


def schema_metadata(frames: Sequence[Frame]) -> dict[str, Any]:
    """Definition metadata for an asset that holds these frames: the first is the asset's table, others are named."""
    metadata: dict[str, Any] = {"dagster/column_schema": table_schema(frames[0].columns)}
    for frame in frames[1:]:
        metadata[f"{frame.name}_columns"] = table_schema(frame.columns)
    return metadata


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A small Markdown table; cells are escaped so that no value can break out of its cell."""

    def cell(value: object) -> str:
        return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def numbers(values: Mapping[str, int | Decimal | str]) -> dict[str, Any]:
    """Counts and sums as metadata that the UI plots over partitions.

    The UI plots floats; the exact figure of a sum stands beside the plotted one as text.
    """
    metadata: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, int):
            metadata[name] = value
        else:
            metadata[name] = dg.MetadataValue.text(str(value))
            metadata[f"{name}_plot"] = dg.MetadataValue.float(float(value))  # for the plot only
    return metadata


def business_date(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> dt.date:
    """The partition's business date: from the key, never from the partition's time window."""
    return dt.date.fromisoformat(context.partition_key)
