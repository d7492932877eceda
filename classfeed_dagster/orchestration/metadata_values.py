"""Metadata values for people: tables, figures, pictures, previews, links to code."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg
import polars as pl

from classfeed_dagster.charts import data_uri

MASK = "•••"
PREVIEWED = 8


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
