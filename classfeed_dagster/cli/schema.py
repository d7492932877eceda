"""The commands for bigsite's schema: what differs between days or environments, does it keep its contract, adopt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from classfeed_dagster.errors import UsageError

if TYPE_CHECKING:
    from classfeed_dagster.source_contract.schema_history import SchemaChange

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
    schema_app.command()(adopt)
    app.add_typer(schema_app, name="schema")


def diff(
    since: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The earlier day; default: the last but one that was kept."),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The later day; default: the last that was kept.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--with", help="Another environment: a database's URL, its object store, or a kept schema's file."
        ),
    ] = None,
) -> None:
    """What changed in bigsite's schema between two days, or differs from another environment's (`--with`).

    Tables, columns, types, keys, indexes, vocabularies. A day for which none was kept means the last one kept before
    it; the schema asset keeps one every day. With another environment: exit code 3 if they differ.
    """
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.source_contract.schema_history import (
        NoSchemaKeptError,
        changes_between,
        days_kept,
        schema_diff,
        schema_on,
    )
    from classfeed_dagster.source_contract.schema_sources import schema_there

    runtime = Runtime()
    store = runtime.store
    kept = days_kept(store)
    if not kept:
        raise NoSchemaKeptError("no schema of bigsite is kept yet: materialize the asset bigsite/schema first")
    last = until.date() if until else kept[-1]
    if other is not None:
        if since is not None:
            raise UsageError("--since is of this environment's own history: it doesn't go with --with")
        there, theirs = schema_there(other, s3_endpoint_url=runtime.settings.s3_endpoint_url)
        seen, ours = schema_on(store, last)
        changes = changes_between(theirs, ours)
        _print(f"bigsite's schema, {there} and here of {seen}", changes, ("where", "what", "there", "here"))
        raise typer.Exit(3 if changes else 0)
    first = since.date() if since else max((day for day in kept if day < last), default=kept[0])
    found = schema_diff(store, first, last)
    _print(f"bigsite's schema, {found.before} to {found.after}", found.changes, ("where", "what", "was", "is"))


def _print(title: str, changes: Sequence[SchemaChange], columns: Sequence[str]) -> None:
    if not changes:
        out.print(f"{title}: no change", highlight=False, soft_wrap=True)
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for change in changes:
        table.add_row(*map(escape, (change.subject, change.what, change.was, change.now)))
    out.print(table)


def check() -> None:
    """Compare bigsite's schema as it is now with its contract. Reads catalogues, and coded columns; writes nothing.

    Exit code 3 if something is blocking: then nothing would be extracted.
    """
    from rich.markdown import Markdown

    from classfeed_dagster.documents.lineage import column_exports
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.source_contract.schema_check import blocking_drift, check_schema

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


def adopt(
    by: Annotated[str, typer.Option(help="Who adopts it.")],
    reviewed_by: Annotated[
        str | None, typer.Option(help="The second person, where something becomes less severe than agreed.")
    ] = None,
) -> None:
    """Lock bigsite's contract as it stands in the working copy, once its version says what changed.

    Major: something that a feed reads changed. Minor: something was added or weakened. Patch: words.
    """
    from classfeed_dagster.documents.lineage import column_exports
    from classfeed_dagster.source_contract.contract_lock import adopt as lock_contract
    from classfeed_dagster.source_contract.contract_lock import open_points

    if not open_points(column_exports()):
        out.print("the contract is adopted as it stands", highlight=False)
        return
    locked = lock_contract(column_exports(), by, reviewed_by)
    out.print(f"adopted: contract {locked.version}", highlight=False)
