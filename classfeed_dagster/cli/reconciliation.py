"""Commands of reconciliation: reconcile a delivered date, and list its breaks."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import Date, FeedName, require_due, require_feed, require_past, require_store
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.tags import DEFAULT_FEED

if TYPE_CHECKING:
    from classfeed_dagster.warehouse.breaks import StoredBreak

out = output.console()


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(reconcile)
    app.command()(breaks)


def reconcile(
    date: Date,
    feed: FeedName = DEFAULT_FEED,
    as_json: output.JsonOption = False,
) -> None:
    """Reconcile a delivered date: files against landing and bigsite, then the data team; load the warehouse.

    The Dagster job's steps, in this process. Exit code 3 if the files disagree with the source.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    declared = require_feed(feed)
    day = require_due(runtime.settings, feed, date.date())
    audience = declared.audience(runtime.settings.first_business_date)
    require_store(runtime)
    runtime.require_bigsite()
    from classfeed_dagster.feed_run.post_delivery import PostDelivery
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.tags import new_correlation_id

    work = PostDelivery(runtime, declared, audience, day, new_correlation_id(), runtime.clock({}))
    results = []
    try:
        with output.console(stderr=True).status("") as status:
            status.update("reading bigsite again …")
            results.append(work.source())
            status.update("storing the result …")
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
        sides = [
            {"side": result.side.value, "summary": result.summary(), **result.metrics(), "report": location(report)}
            for result, report in zip(results, reports, strict=True)
        ]
        output.print_json({"feed": feed, "business_date": day.isoformat(), "sides": sides})
    else:
        for result, report in zip(results, reports, strict=True):
            colour = "green" if result.clean else "red" if result.errors else "yellow"
            out.print(f"[{colour}]{result.side.value}[/]  {escape(result.summary())}")
            for worst in result.worst[:10]:
                out.print(
                    f"  {worst.kind.value}: {worst.portfolio_number or ''} {worst.record} {worst.subject} "
                    f"{worst.field or ''}  {worst.likeliest.cause.value}",
                    markup=False,
                )
            out.print(f"  report: {escape(location(report))}")
    raise typer.Exit(ExitCode.STOPPED if results[0].errors else ExitCode.OK)


def breaks(
    open_only: Annotated[bool, typer.Option("--open", help="Unresolved breaks only.")] = False,
    feed: Annotated[str | None, typer.Option(help="Name of one feed; default: all.")] = None,
    date: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="One business date.")] = None,
    as_json: output.JsonOption = False,
) -> None:
    """List the breaks that reconciliations found: first seen, last seen, resolved."""
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    if feed is not None:
        require_feed(feed)
    from classfeed_dagster.local import snowflake_server as server
    from classfeed_dagster.warehouse.breaks import stored_breaks
    from classfeed_dagster.warehouse.connection import read_warehouse

    day = require_past(runtime.settings, date.date()) if date else None
    try:
        with (
            output.console(stderr=True).status("reading the warehouse …"),
            read_warehouse(runtime.settings) as connection,
        ):
            stored = [] if connection is None else stored_breaks(connection, feed=feed, day=day, only_open=open_only)
    finally:
        server.release(runtime.settings.home)
    columns = ["date", "side", "portfolio", "subject", "field", "first seen", "resolved", "likely cause"]
    rows = [
        [
            record.business_date.isoformat(),
            str(record.side),
            record.portfolio_number or "",
            f"{record.kind}: {record.record} {record.subject}",
            record.field or "",
            f"{record.first_seen:%Y-%m-%d %H:%M}",
            resolution_of(record),
            record.explanation,
        ]
        for record in stored
    ]
    if as_json:
        names = [name.replace(" ", "_") for name in columns]
        output.print_json({"breaks": [dict(zip(names, row, strict=True)) for row in rows]})
    elif rows:
        title = "open breaks" if open_only else "breaks"
        header = [f"{name} (UTC)" if name in ("first seen", "resolved") else name for name in columns]
        output.print_table(
            out, title, header, rows, keys=("date", "side", "portfolio"), optional=("first seen (UTC)", "field")
        )
    else:
        reason = ": nothing was reconciled yet" if connection is None else ""
        out.print(f"{'no open breaks' if open_only else 'no breaks'}{reason}")


def resolution_of(record: StoredBreak) -> str:
    """Return the state of a break for people: open, no action needed, or the time of its resolution."""
    # A difference that was known when it was found needs no action and is never open.
    if record.resolved_at is None:
        return "open"
    return "no action needed" if record.resolved_at == record.first_seen else f"{record.resolved_at:%Y-%m-%d %H:%M}"
