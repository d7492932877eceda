"""The command that hands out the lineage graph: for people, or as OpenLineage events for a catalogue."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(lineage)


def lineage(
    column: Annotated[
        str, typer.Argument(help="Only columns whose name holds this, as in investment_holdings.units; none: all.")
    ] = "",
    openlineage: Annotated[
        bool, typer.Option("--openlineage", help="OpenLineage JobEvents instead, one a line.")
    ] = False,
    namespace: Annotated[str, typer.Option(help="The catalogue's namespace for the assets.")] = "classfeed",
) -> None:
    """Where each column comes from, as the assets declare it and the Dagster UI shows it: `asset.column <- ...`.

    Needs neither bigsite nor the object store. With `--openlineage`, every asset is one JobEvent with its schema and
    column lineage: `classfeed lineage --openlineage > lineage.ndjson`, then hand the lines to the catalogue.
    """
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.open_lineage import column_lines, open_lineage_events, to_json_lines

    definitions = build_definitions()
    if openlineage:
        for line in to_json_lines(open_lineage_events(definitions, namespace, dt.datetime.now(dt.UTC))):
            typer.echo(line)
        return
    for line in column_lines(definitions):
        if column in line.partition(" <- ")[0]:
            typer.echo(line)
