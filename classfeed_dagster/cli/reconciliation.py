"""The commands that prove: reconcile a delivered date, and look at what doesn't agree."""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from classfeed_dagster.cli import deliveries as cli_look

out = Console()


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(reconcile)
    app.command()(breaks)


def reconcile(
    date: cli_look.Date,
    feed: cli_look.FeedName = "class_super",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for machines.")] = False,
) -> None:
    """Prove a delivered date: files against landing and bigsite, then against the data team; load the warehouse.

    The same steps as the Dagster job, in this process. Exit code 3 if the files disagree with the source.
    """
    from classfeed_dagster.feed_run.post_delivery import PostDelivery
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.tags import new_correlation_id

    runtime = Runtime()
    declared = cli_look.require_feed(feed)
    day = cli_look.require_due(runtime.settings, feed, date.date())
    audience = declared.audience(runtime.settings.first_business_date)
    work = PostDelivery(runtime, declared, audience, day, new_correlation_id(), runtime.clock({}))
    results = []
    try:
        with Console(stderr=True).status("") as status:
            status.update("asking bigsite again …")
            results.append(work.source())
            status.update("keeping what was found …")
            reports = [work.keep(results[0])[0].report]
            if not results[0].errors:
                status.update("loading the warehouse …")
                work.load()
                status.update("comparing with the data team …")
                results.append(work.data_team())
                reports.append(work.keep(results[1])[0].report)
    finally:
        server.release(runtime.settings.home)
        runtime.close()
    location = runtime.store.location
    if as_json:
        found = [
            {
                "side": one.side.value,
                "summary": one.summary(),
                **one.metrics(),
                "report": runtime.store.location(report),
            }
            for one, report in zip(results, reports, strict=True)
        ]
        typer.echo(json.dumps({"feed": feed, "business_date": day.isoformat(), "sides": found}, indent=1))
    else:
        for one, report in zip(results, reports, strict=True):
            colour = "green" if one.clean else "red" if one.errors else "yellow"
            out.print(f"[{colour}]{one.side.value}[/]  {escape(one.summary())}", highlight=False)
            for worst in one.worst[:10]:
                out.print(
                    f"  {worst.kind.value}: {worst.portfolio_number or ''} {worst.record} {worst.subject} "
                    f"{worst.field or ''}  {worst.likeliest.cause.value}",
                    highlight=False,
                    markup=False,
                )
            out.print(f"  report: {location(report)}", highlight=False, soft_wrap=True)
    raise typer.Exit(3 if results[0].errors else 0)


def breaks(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that stand.")] = False,
    feed: Annotated[str | None, typer.Option(help="One feed; default: all.")] = None,
    date: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="One business date.")] = None,
) -> None:
    """What reconciliation found, kept over time: first seen, last seen, resolved."""
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.warehouse.breaks import kept_breaks
    from classfeed_dagster.warehouse.connection import open_warehouse

    runtime = Runtime()
    try:
        with out.status("asking the warehouse …"), open_warehouse(runtime.settings) as connection:
            kept = kept_breaks(connection, feed=feed, day=date.date() if date else None, only_open=open_only)
    finally:
        server.release(runtime.settings.home)
    table = Table(title="open breaks" if open_only else "breaks", title_justify="left")
    for column in ("date", "side", "portfolio", "what", "field", "first seen", "resolved", "likely because"):
        table.add_column(column)
    for one in kept:
        table.add_row(
            one.business_date.isoformat(),
            str(one.side),
            one.portfolio_number or "",
            f"{one.kind}: {one.record} {one.subject}",
            one.field or "",
            f"{one.first_seen:%Y-%m-%d %H:%M}",
            f"{one.resolved_at:%Y-%m-%d %H:%M}" if one.resolved_at else "open",
            one.explanation,
        )
    if kept:
        out.print(table)
    else:
        out.print("no open breaks" if open_only else "no breaks", highlight=False)
