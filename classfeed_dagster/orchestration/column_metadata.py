"""The seam to Dagster that every room's assets share: metadata made from declarations, partition, correlation, logs."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, get_args

import dagster as dg
import polars as pl
import structlog
from pydantic import BaseModel

from classfeed_dagster.charts import data_uri
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.documents.lineage import field_sources, filling, is_personal
from classfeed_dagster.domains.build import CONSENTED
from classfeed_dagster.domains.lineage import bigsite_columns, domain_of, shown_frames, shown_name, sources_of
from classfeed_dagster.tags import CORRELATION_TAG

StepContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext

TEAM = "team:data-feeds"
SOURCE_TEAM = "team:bigsite"

GROUP_SOURCE = "1_bigsite"
GROUP_LANDING = "2_landing"
GROUP_DOMAINS = "3_domains"
RUNBOOK = "docs/runbook.md"
LANDING = "landing"
PERSONAL = "personal_data"  # the tag of a column that holds personal data
PERSONAL_DATA = "personal"  # its usual value; restricted: never leaves the broker
MASK = "•••"
PREVIEWED = 8


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


@dataclass(frozen=True, slots=True)
class Shown:
    """A column of an asset as people see it, and the columns of other assets that its values are made of."""

    name: str
    type: str
    description: str
    nullable: bool = True
    unit: str | None = None
    personal: str | None = None  # why it may never reach a log, an alert or metadata: personal, or restricted
    made_of: tuple[tuple[dg.AssetKey, str], ...] = ()
    origin: tuple[str, ...] = ()  # bigsite's columns, all the way back


def table_metadata(columns: Sequence[Shown]) -> dict[str, Any]:
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


def _described(column: Shown) -> str:
    unit = f" [{column.unit}]" if column.unit else ""
    origin = f" ← bigsite: {', '.join(column.origin)}" if column.origin else ""
    return f"{column.description}{unit}{origin}"


def lineage_table(columns: Sequence[Shown]) -> dg.MarkdownMetadataValue:
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


def domain_columns(domain: str, name: str) -> list[Shown]:
    """The columns of a domain of the audience called ``name``, those of further frames under the frame's name."""
    return [
        Shown(
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


def document_columns(document: DocumentFormat, name: str) -> list[Shown]:
    """The fields of a format's documents, made of the domains of the audience called ``name``."""
    shown: list[Shown] = []
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
        shown.append(Shown(field.name, field.kind, meaning, field.optional, unit, personal, made_of, origin))
    return shown


def same_columns(columns: Sequence[Shown], of: dg.AssetKey) -> list[Shown]:
    """The columns of an asset that hands on those of another as they are."""
    return [replace(column, made_of=((of, column.name),)) for column in columns]


def preview(rows: pl.DataFrame, personal: Collection[str]) -> dg.MarkdownMetadataValue:
    """The first rows as a table; what is personal is masked, so that only its being there shows."""
    shown = [
        ["" if value is None else MASK if name in personal else value for name, value in row.items()]
        for row in rows.head(PREVIEWED).iter_rows(named=True)
    ]
    return markdown_table(rows.columns, shown)


def picture(svg: str, alt: str) -> dg.MarkdownMetadataValue:
    """A small picture within the metadata."""
    return dg.MetadataValue.md(f"![{alt}]({data_uri(svg)})")


def code_of(made_by: Callable[..., object]) -> str:
    """Where in the code base something is done: ``classfeed_dagster/domains/build.py#build_domain``."""
    return f"{made_by.__module__.replace('.', '/')}.py#{made_by.__qualname__}"


@functools.cache
def _where(made_by: Callable[..., object]) -> tuple[str, int]:
    file = inspect.getsourcefile(made_by)
    if file is None:
        raise ValueError(f"{made_by!r} has no source")
    return file, inspect.getsourcelines(made_by)[1]


def code_links(made_by: Callable[..., object]) -> dict[str, Any]:
    """The same as an asset's metadata: for people, and as the reference that the UI opens in an editor or links."""
    file, line = _where(made_by)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(file_path=file, line_number=line, label=made_by.__qualname__)
        references = dg.CodeReferencesMetadataValue(code_references=[reference])
    return {"code": code_of(made_by), "dagster/code_references": references}


def record_columns(record: type[BaseModel]) -> list[Shown]:
    """The columns of an asset that keeps such records as JSON; from the record's own fields."""
    return [
        Shown(
            name,
            str(getattr(field.annotation, "__name__", field.annotation))
            .replace("datetime.", "")
            .replace("typing.", ""),
            field.description or name.replace("_", " "),
            not field.is_required() or type(None) in get_args(field.annotation),
        )
        for name, field in record.model_fields.items()
    ]


_Step = Callable[..., Iterator[dg.MaterializeResult[None]]]


def since(started: float) -> float:
    """Seconds since ``started`` (of ``time.monotonic``), as metadata that the UI plots."""
    return round(time.monotonic() - started, 3)


def timed(made: _Step, also: Mapping[str, Any] | None = None) -> _Step:
    """A step whose materializations say how many seconds it took, which the UI plots; and ``also``, if it does not."""

    @functools.wraps(made)
    def run(*given: Any, **named: Any) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        for result in made(*given, **named):
            yield result._replace(metadata={**(also or {}), **(result.metadata or {}), "seconds": since(started)})

    return run


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A small Markdown table; cells are escaped so that no value can break out of its cell."""

    def cell(value: object) -> str:
        return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def numbers(values: Mapping[str, int | Decimal | str]) -> dict[str, Any]:
    """Counts and sums as metadata that the UI plots over partitions.

    The UI plots floats only, and nothing else reads them: the exact figure of a sum stands beside it as text.
    """
    metadata: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, int):
            metadata[name] = value
        else:
            metadata[name] = dg.MetadataValue.text(str(value))
            # A plot, and nothing else: no figure is ever taken from it.
            metadata[f"{name}_plot"] = dg.MetadataValue.float(float(value))
    return metadata


def business_date(context: StepContext) -> dt.date:
    """The partition's business date: from the key, never from the partition's time window."""
    return dt.date.fromisoformat(context.partition_key)


def correlation_id(context: StepContext) -> str:
    """The attempt's name: the run's tag. A run started without one (a click in the UI) gets its run id as the tag."""
    run = context.run
    found = run.tags.get(CORRELATION_TAG)
    if found is None:
        found = run.run_id.replace("-", "")
        context.instance.add_run_tags(run.run_id, {CORRELATION_TAG: found})
    return found


def idle_observation(context: dg.AssetExecutionContext | dg.OpExecutionContext, asset: dg.AssetKey, why: str) -> None:
    """Say on ``asset`` that there is nothing to make on this date, and why: a sentence for people."""
    context.log_event(
        dg.AssetObservation(asset, partition=context.partition_key, metadata={"outcome": "NOTHING_TO_DO", "why": why})
    )


@contextmanager
def step(context: StepContext, name: str) -> Iterator[dt.date]:
    """What every step begins with: yields the business date; log lines within carry date, step and correlation id."""
    day = business_date(context)
    with structlog.contextvars.bound_contextvars(
        correlation_id=correlation_id(context),
        run_id=context.run.run_id,
        business_date=day.isoformat(),
        step=name,
    ):
        yield day
