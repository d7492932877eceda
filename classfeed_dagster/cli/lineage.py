"""Command for the lineage graph: for people, or as OpenLineage events for a catalogue."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.errors import UsageError
from classfeed_dagster.settings import get_settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(lineage)


def lineage(
    column: Annotated[
        str, typer.Argument(help="Text in the column's name, such as investment_holdings.units; default: every column.")
    ] = "",
    openlineage: Annotated[
        bool, typer.Option("--openlineage", help="Print OpenLineage JobEvents, one a line.")
    ] = False,
    namespace: Annotated[str, typer.Option(help="Namespace of the jobs in the catalogue.")] = "classfeed",
    page: Annotated[
        Path | None, typer.Option(help="HTML file for the data dictionary, a searchable page.", dir_okay=False)
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show the source of each column, as the assets declare it and the Dagster UI shows it: `asset.column <- ...`.

    Needs neither bigsite nor the object store. With `--openlineage`, every asset is one JobEvent with its schema, tags
    and column lineage; datasets have the standard's names (postgres://, s3://, snowflake://):
    `classfeed lineage --openlineage > lineage.ndjson`, then hand the lines to the catalogue. With `--page`, the data
    dictionary of every column is written as a searchable page.
    """
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.open_lineage import column_lines, open_lineage_events, to_json_lines

    definitions = build_definitions()
    if openlineage:
        for line in to_json_lines(open_lineage_events(definitions, namespace, dt.datetime.now(dt.UTC), get_settings())):
            typer.echo(line)
        return
    if page is not None:
        from classfeed_dagster.orchestration.data_dictionary import dictionary_page

        page.write_text(dictionary_page(definitions), encoding="utf-8")
        typer.echo(f"data dictionary: {page}")
        return
    lines = [line for line in column_lines(definitions) if column in line.partition(" <- ")[0]]
    if not lines:
        import difflib

        names = [line.partition(" <- ")[0] for line in column_lines(definitions)]
        near = difflib.get_close_matches(column, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ": `classfeed lineage` lists every column"
        raise UsageError(f"No column's name holds {column!r}{hint}")
    if as_json:
        pairs = [line.partition(" <- ") for line in lines]
        output.print_json({"columns": [{"column": name, "sources": sources.split(", ")} for name, _, sources in pairs]})
        return
    for line in lines:
        typer.echo(line)
