"""The seam to Dagster that every room's assets share: metadata made from declarations, partition, correlation, logs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import dagster as dg
import structlog

from classfeed_dagster.domains.columns import Column, Frame
from classfeed_dagster.runtime import CORRELATION_TAG

TEAM = "team:data-feeds"
SOURCE_TEAM = "team:bigsite"

GROUP_SOURCE = "1_bigsite"
GROUP_LANDING = "2_landing"
GROUP_DOMAINS = "3_domains"
RUNBOOK = "docs/runbook.md"
LANDING = "landing"


def source_key(table: str) -> dg.AssetKey:
    """The external asset of one of bigsite's tables."""
    return dg.AssetKey(["bigsite", table])


def landing_key(table: str) -> dg.AssetKey:
    """The asset of one landed table."""
    return dg.AssetKey([LANDING, table])


def domain_key(audience_name: str, domain: str) -> dg.AssetKey:
    """The asset of one domain of an audience."""
    return dg.AssetKey([audience_name, domain])


def runbook(name: str) -> str:
    """Where the runbook says what to do about a check."""
    return f"{RUNBOOK}#{name.replace('_', '-')}"


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


def correlation_id(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> str:
    """The attempt's name: the run's tag. A run started without one (a click in the UI) gets its run id as the tag."""
    run = context.run
    found = run.tags.get(CORRELATION_TAG)
    if found is None:
        found = run.run_id.replace("-", "")
        context.instance.add_run_tags(run.run_id, {CORRELATION_TAG: found})
    return found


def idle_observation(context: dg.AssetExecutionContext, asset: dg.AssetKey, why: str) -> None:
    """Say on ``asset`` that there is nothing to make on this date, and why: a sentence for people."""
    context.log_event(
        dg.AssetObservation(
            asset, partition=context.partition_key, metadata={"outcome": "NOTHING_TO_DO", "why": why}
        )
    )


@contextmanager
def step(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, name: str) -> Iterator[dt.date]:
    """What every step begins with: yields the business date; log lines within carry date, step and correlation id."""
    day = business_date(context)
    with structlog.contextvars.bound_contextvars(
        correlation_id=correlation_id(context),
        run_id=context.run.run_id,
        business_date=day.isoformat(),
        step=name,
    ):
        yield day
