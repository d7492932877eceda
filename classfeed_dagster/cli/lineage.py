"""Command for the lineage graph: for people, or as OpenLineage events for a catalogue."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated

import typer

import classfeed_dagster
from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import output_file
from classfeed_dagster.errors import UsageError
from classfeed_dagster.settings import get_settings

PACKAGE = Path(classfeed_dagster.__file__).parent
_NAMES = {True: re.compile(r"[\"'./](\w+)[\"'./]"), False: re.compile(r"\w+")}  # in Python, elsewhere
_WRITTEN_IN = frozenset({".py", ".sql", ".yaml", ".xsd"})


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
        Path | None,
        typer.Option(
            help="HTML file for the data dictionary, a searchable page.", dir_okay=False, callback=output_file
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show the source of each column, as the assets declare it and the Dagster UI shows it: `asset.column <- sources`.

    Needs neither bigsite nor the object store. `--openlineage` prints one JobEvent per asset with its schema, tags and
    column lineage, for a catalogue. `--page FILE` writes the data dictionary.
    """
    if sum((openlineage, as_json, page is not None)) > 1:
        raise UsageError("--openlineage, --page and --json exclude each other: choose one")
    require_written(column)
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.lineage_exports import column_lines, open_lineage_events, to_json_lines

    definitions = build_definitions()
    if openlineage:
        for line in to_json_lines(open_lineage_events(definitions, namespace, dt.datetime.now(dt.UTC), get_settings())):
            typer.echo(line)
        return
    if page is not None:
        from classfeed_dagster.orchestration.lineage_exports import dictionary_page

        page.write_text(dictionary_page(definitions), encoding="utf-8")
        typer.echo(f"data dictionary: {page}")
        return
    lines = [line for line in column_lines(definitions) if column in line.partition(" <- ")[0]]
    if not lines:
        raise _unknown(column)
    if as_json:
        pairs = [line.partition(" <- ") for line in lines]
        output.print_json({"columns": [{"column": name, "sources": sources.split(", ")} for name, _, sources in pairs]})
        return
    for line in lines:
        typer.echo(line)


def require_written(text: str) -> None:
    """Raise UsageError if this package's source lacks a word of ``text``, so that no column has it.

    Every column's name is written there: in Python as a text of its own. Reading the source is ten times faster than
    building the definitions.
    """
    files = (path for path in PACKAGE.rglob("*") if path.suffix in _WRITTEN_IN)
    written = (
        {name for path in files for name in _NAMES[path.suffix == ".py"].findall(path.read_text())} if text else ()
    )
    if any(not any(word in name.lower() for name in written) for word in re.findall(r"\w+", text.lower())):
        raise _unknown(text)


def _unknown(text: str) -> UsageError:
    import difflib

    from classfeed_dagster.domains.columns import DOMAINS

    names = {column.name for frames in DOMAINS.values() for frame in frames for column in frame.columns}
    near = difflib.get_close_matches(re.sub(r"\W", " ", text).split(" ")[-1].lower(), sorted(names), n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ": `classfeed lineage` lists every column"
    return UsageError(f"No column's name holds {text!r}{hint}")
