"""The commands for bigsite's schema: what changed between two days, and whether it keeps its contract now."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

out = Console()
schema_app = typer.Typer(
    help="bigsite's schema: what changed between two days, and whether it keeps its contract now.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Add ``classfeed schema`` to the application."""
    schema_app.command()(diff)
    schema_app.command()(check)
    app.add_typer(schema_app, name="schema")


def diff(
    since: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The earlier day; default: the last but one that was kept."),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The later day; default: the last that was kept.")
    ] = None,
) -> None:
    """What changed in bigsite's schema between two days: tables, columns, types, keys, indexes, vocabularies.

    A day for which none was kept means the last one kept before it. The schema asset keeps one every day.
    """
    from classfeed_dagster.bigsite.schema_history import NoSchemaKeptError, days_kept, schema_diff
    from classfeed_dagster.runtime import Runtime

    store = Runtime().store
    kept = days_kept(store)
    if not kept:
        raise NoSchemaKeptError("no schema of bigsite is kept yet: materialize the asset bigsite/schema first")
    last = until.date() if until else kept[-1]
    first = since.date() if since else max((day for day in kept if day < last), default=kept[0])
    found = schema_diff(store, first, last)
    title = f"bigsite's schema, {found.before} to {found.after}"
    if not found.changes:
        out.print(f"{title}: no change", highlight=False)
        return
    table = Table(title=title, title_justify="left")
    for column in ("where", "what", "was", "is"):
        table.add_column(column, overflow="fold")
    for change in found.changes:
        table.add_row(change.subject, change.what, change.was, change.now)
    out.print(table)


def check() -> None:
    """Compare bigsite's schema as it is now with its contract. Reads catalogues, and coded columns; writes nothing.

    Exit code 3 if something is blocking: then nothing would be extracted.
    """
    from rich.markdown import Markdown

    from classfeed_dagster.bigsite.schema_check import blocking_drift, check_schema
    from classfeed_dagster.documents.lineage import column_exports
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    try:
        with out.status("looking …"):
            verdict = check_schema(
                runtime.engine, column_exports(), since=dt.datetime.now(dt.UTC) - dt.timedelta(days=7)
            )
    finally:
        runtime.close()
    out.print(Markdown(verdict.to_markdown()))
    raise typer.Exit(3 if blocking_drift(verdict) else 0)
