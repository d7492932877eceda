"""Commands for bigsite's schema: differences between days or environments, contract check, adoption."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from classfeed_dagster.source_contract.drift import SchemaDifference
    from classfeed_dagster.source_contract.schema_history import SchemaChange

out = output.console()
_WIDTH = 120
schema_app = typer.Typer(
    help="bigsite's schema: differences between days or environments, and its contract.",
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
        typer.Option(formats=["%Y-%m-%d"], help="Earlier day; default: the second-last stored one."),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Later day; default: the last stored one.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--with", help="Another environment: a database's URL, an object store, or a stored schema's file."
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show differences of bigsite's schema between two days, or from another environment's (`--with`).

    A day without a stored schema has the last one before it. With another environment: exit code 3 if they differ.
    """
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.source_contract.schema_history import (
        NoSchemaKeptError,
        changes_between,
        days_kept,
        schema_diff,
        schema_on,
        schema_there,
    )

    runtime = Runtime()
    store = runtime.store
    history = days_kept(store)
    if not history:
        raise NoSchemaKeptError("No schema of bigsite is stored yet: materialize the asset bigsite/schema first")
    last = until.date() if until else history[-1]
    if other is not None:
        if since is not None:
            raise UsageError("--since selects from this environment's own history: use it without --with")
        source, theirs = schema_there(other, s3_endpoint_url=runtime.settings.s3_endpoint_url)
        day, ours = schema_on(store, last)
        changes = changes_between(theirs, ours)
        _print(
            f"bigsite's schema, {source} and here of {day}",
            changes,
            ("where", "what", "there", "here"),
            as_json=as_json,
        )
        raise typer.Exit(ExitCode.STOPPED if changes else ExitCode.OK)
    first = since.date() if since else max((day for day in history if day < last), default=history[0])
    comparison = schema_diff(store, first, last)
    _print(
        f"bigsite's schema, {comparison.before} to {comparison.after}",
        comparison.changes,
        ("where", "what", "was", "is"),
        as_json=as_json,
    )


def _print(title: str, changes: Sequence[SchemaChange], columns: Sequence[str], *, as_json: bool) -> None:
    rows = [[change.subject, change.what, change.was, change.now] for change in changes]
    if as_json:
        output.print_json({"title": title, "changes": [dict(zip(columns, row, strict=True)) for row in rows]})
    elif rows:
        output.print_table(out, title, columns, rows, keys=("where",))
    else:
        out.print(f"{title}: no change")


def _difference(difference: SchemaDifference) -> dict[str, str]:
    return {
        "severity": difference.severity.name,
        "kind": difference.kind.name,
        "subject": difference.subject,
        "was": difference.was,
        "now": difference.now,
        "text": difference.message,
    }


def check(as_json: output.JsonOption = False) -> None:
    """Compare bigsite's current schema with its contract. Reads catalogues and coded columns; writes nothing.

    Exit code 3 if a difference is blocking.
    """
    from rich.markdown import Markdown

    from classfeed_dagster.feeds.column_exports import column_exports
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.source_contract.schema_check import check_schema

    runtime = Runtime()
    try:
        with output.console(stderr=True).status("reading the catalogue …"):
            runtime.require_bigsite()
            verdict = check_schema(
                runtime.engine, column_exports(), since=dt.datetime.now(dt.UTC) - dt.timedelta(days=7)
            )
    finally:
        runtime.close()
    blocking = verdict.blocking
    if as_json:
        output.print_json(
            {"contract": verdict.contract_version, "differences": [_difference(each) for each in verdict.differences]}
        )
    else:
        width = None if out.is_terminal else _WIDTH  # Markdown fills each line up with blanks
        out.print(Markdown(verdict.to_markdown()), width=width)
    raise typer.Exit(ExitCode.STOPPED if blocking else ExitCode.OK)


def adopt(
    by: Annotated[str, typer.Option(help="Person who adopts it.")],
    reviewed_by: Annotated[
        str | None, typer.Option(help="Second person, required where a severity is lowered.")
    ] = None,
) -> None:
    """Lock bigsite's contract in the working copy, after its version states the kind of change.

    The kinds are in docs/schema-drift.md.
    """
    from classfeed_dagster.feeds.column_exports import column_exports
    from classfeed_dagster.source_contract.contract_lock import adopt as lock_contract
    from classfeed_dagster.source_contract.contract_lock import open_points

    if not open_points(column_exports()):
        out.print("the contract is adopted unchanged")
        return
    locked = lock_contract(column_exports(), by, reviewed_by)
    out.print(f"adopted: contract {locked.version}")
