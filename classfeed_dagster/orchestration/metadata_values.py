"""Metadata values: tables, figures, images, previews, code links."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from classfeed_dagster.bigsite.landing import StoredTable, first_rows
from classfeed_dagster.charts import data_uri
from classfeed_dagster.orchestration.local_pages import forge_page, store_page
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment
from classfeed_dagster.store import address
from classfeed_dagster.wording import markdown_cell

MASK = "•••"
_MAY_BE_ZERO = frozenset({"revision", "dagster/row_count"})


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """Return a small Markdown table. Cells are escaped so that no value can break out of its cell."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def plotted(value: Decimal | str) -> dg.FloatMetadataValue:
    """Return a number for the UI's plots, which accept floats only. No code reads it; the exact value is in a table."""
    return dg.MetadataValue.float(float(value))


def numbers(values: Mapping[str, int | Decimal | str]) -> dict[str, Any]:
    """Return counts and sums as metadata, without zeros: each as a number to plot, and exact sums in one table."""
    present = {name: value for name, value in values.items() if Decimal(value)}
    sums = {name: value for name, value in present.items() if not isinstance(value, int)}
    metadata: dict[str, Any] = {
        name: value if isinstance(value, int) else plotted(value) for name, value in present.items()
    }
    if sums:
        rows = [(name.replace("_", " "), f"{Decimal(value):,}") for name, value in sums.items()]
        metadata["exact_sums"] = markdown_table(["sum", "exact"], rows)
    return metadata


def without_zeros(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without counts that are zero. A revision may be zero, and so may the rows of a table."""
    return {name: value for name, value in metadata.items() if value != 0 or name in _MAY_BE_ZERO}


def check_result(
    check: tuple[dg.AssetKey, str],
    day: dt.date,
    passed: bool,
    summary: str,
    metadata: Mapping[str, Any],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
) -> dg.AssetCheckResult:
    """Return the result of a check (asset and name) for a business date, which description and metadata state."""
    asset, name = check
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=passed,
        severity=severity,
        description=f"{day.isoformat()}: {summary}",
        metadata=without_zeros({"business_date": day.isoformat(), **metadata}),
    )


def object_link(location: str) -> dg.MetadataValue[Any]:
    """Return a link to an object: in S3 to AWS's console, in the local store to its page next to the UI."""
    if not location.startswith("s3://"):
        page = store_page(location)
        return dg.MetadataValue.path(location) if page is None else dg.MetadataValue.url(page)
    return dg.MetadataValue.url(address(location))


def previews(runtime: Runtime, name: str, table: StoredTable, personal: Collection[str]) -> dict[str, Any]:
    """Return the entry ``name`` with the first rows of a stored file. Values of the columns ``personal`` are masked.

    Empty for a large file, and in production: a customer's number and amounts would stay in Dagster's database.
    """
    rows = None if runtime.settings.env is Environment.PROD else first_rows(runtime.store, table)
    if rows is None:
        return {}
    shown = [
        ["" if value is None else MASK if column in personal else value for column, value in row.items()]
        for row in rows.iter_rows(named=True)
    ]
    return {name: markdown_table(rows.columns, shown)}


def picture(svg: str, alt: str) -> dg.MarkdownMetadataValue:
    """Return a small image as metadata."""
    return dg.MetadataValue.md(f"![{alt}]({data_uri(svg)})")


def code_of(function: Callable[..., object]) -> str:
    """Return a function's place in the code base: ``classfeed_dagster/domains/build.py#build_domain``."""
    return f"{function.__module__.replace('.', '/')}.py#{function.__qualname__}"


@functools.cache
def _location(function: Callable[..., object]) -> tuple[str, int]:
    file = inspect.getsourcefile(function)
    if file is None:
        raise ValueError(f"{function!r} has no source")
    return file, inspect.getsourcelines(function)[1]


def code_links(function: Callable[..., object]) -> dict[str, Any]:
    """Return a function's place as metadata: as text, and as the reference that the UI links."""
    file, line = _location(function)
    name, address = function.__qualname__, forge_page(f"{code_of(function).partition('#')[0]}#L{line}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = (
            dg.LocalFileCodeReference(file_path=file, line_number=line, label=name)
            if address is None
            else dg.UrlCodeReference(url=address, label=name)
        )
        references = dg.CodeReferencesMetadataValue(code_references=[reference])
    return {"code": code_of(function), "dagster/code_references": references}
