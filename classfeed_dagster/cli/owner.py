"""Command of the owner's numbers: owner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import output_file, require_month, require_store

out = output.console()


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(owner)


def owner(
    month: Annotated[str | None, typer.Option(help="Month, as YYYY-MM; default: the current one.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="HTML page to write in addition, with twelve months of history.", dir_okay=False, callback=output_file
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show the owner's numbers of a month against their targets. Needs only the object store.

    The numbers are those that the job `owner_report` and the pipelines have recorded.
    """
    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    now = utc_now(runtime.settings.now)
    name = f"{require_month(month, now):%Y-%m}"
    require_store(runtime)
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.service_levels.owner_months import history
    from classfeed_dagster.service_levels.owner_page import HEADER, figure_rows, owner_page

    months = history(runtime.store, [feed.name for feed in FEEDS], name, now)
    if page is not None:
        page.write_text(owner_page(months), encoding="utf-8")
    if as_json:
        output.print_json({"months": [recorded.model_dump(mode="json") for recorded in months if recorded.figures]})
    elif not months[-1].figures:
        out.print(f"no number of {name} is recorded: run the job owner_report")
    else:
        output.print_table(
            out, f"owner's numbers of {name}", HEADER, figure_rows(months), keys=("number",),
            right=("value", "95th percentile", "month before"), optional=("95th percentile", "month before"),
        )  # fmt: skip
    if page is not None and not as_json:
        out.print(f"page: {escape(str(page))}")
