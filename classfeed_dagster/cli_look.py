"""The commands that look: status, verify, trace; and release, which a person signs. Shared helpers of the others."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.operations.runs import RunReport
    from classfeed_dagster.settings import Settings

out = Console()

Date = Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Business date, YYYY-MM-DD.")]
FeedName = Annotated[str, typer.Option(help="Which feed.")]


class UnknownFeedError(ValueError):
    """No file in ``feeds/`` declares a feed of this name."""


def require_feed(name: str) -> Feed:
    """The declared feed called ``name``; UnknownFeedError lists those that exist."""
    from classfeed_dagster.feeds.feed import declared_feeds

    feeds = {feed.name: feed for feed in declared_feeds()}
    if name not in feeds:
        raise UnknownFeedError(f"there is no feed {name!r}; the feeds are {', '.join(sorted(feeds))}")
    return feeds[name]


def require_due(settings: Settings, feed: str, day: dt.date) -> dt.date:
    """``day`` if the feed has a document for it; ValueError says why not."""
    audience = require_feed(feed).audience(settings.first_business_date)
    if day < audience.first_business_date:
        raise ValueError(
            f"{day.isoformat()} is before {feed}'s first business date, {audience.first_business_date.isoformat()} "
            "(CLASSFEED_FIRST_BUSINESS_DATE)"
        )
    if not audience.is_due(day):
        raise ValueError(f"{day.isoformat()} is not a date of {feed}, which is {audience.cadence}")
    return day


def print_report(console: Console, report: RunReport) -> None:
    """What a run came to, in a few lines."""
    colour = "green" if report.outcome.exit_code == 0 else "red"
    console.print(
        f"[bold {colour}]{report.outcome}[/]  {report.feed} {report.business_date}  {report.message}", highlight=False
    )
    facts = report.facts
    if "revision" in facts:
        console.print(
            f"  revision {facts['revision']}, {facts['portfolios']} portfolios on {facts['pages']} page(s), "
            f"{facts['held_back']} held back",
            highlight=False,
        )
        console.print(f"  {facts['dagster/uri']}", highlight=False, soft_wrap=True)
    if report.checks:
        failed = f"; failed: {', '.join(report.failed_checks)}" if report.failed_checks else ""
        warned = f"; warnings: {', '.join(report.warnings)}" if report.warnings else ""
        console.print(f"  {report.checks} checks{failed}{warned}", highlight=False)
    console.print(f"  run {report.run_id}, correlation id {report.correlation_id}", highlight=False, style="dim")


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(status)
    app.command()(verify)
    app.command()(trace)
    app.command()(release)


def status(
    date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="One business date, with who is held back.")
    ] = None,
    feed: Annotated[str | None, typer.Option(help="One feed; default: all.")] = None,
    days: Annotated[int, typer.Option(min=1, max=2000, help="How many business dates, without --date.")] = 10,
) -> None:
    """What was delivered, held back and is missing; read from the manifests alone, so it is true whatever Dagster says."""
    from classfeed_dagster.operations.look import date_statuses, latest_dates
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    names = [require_feed(feed).name] if feed else [one.name for one in _feeds()]
    for name in names:
        audience = require_feed(name).audience(runtime.settings.first_business_date)
        wanted = (
            [require_due(runtime.settings, name, date.date())] if date else latest_dates(runtime.store, name, audience, days)
        )
        rows = date_statuses(runtime.store, name, wanted)
        table = Table(title=f"{name} in {runtime.settings.store_location}", title_justify="left")
        for column in ("date", "state", "revision", "portfolios", "held back", "bytes", "correlation id"):
            table.add_column(column, justify="right" if column in ("portfolios", "held back", "bytes") else "left")
        for row in rows:
            table.add_row(
                row.business_date.isoformat(),
                row.state,
                "" if row.revision is None else str(row.revision),
                str(row.portfolios),
                str(len(row.held_back)),
                f"{row.bytes:,}",
                row.correlation_id or "",
            )
        if rows:
            out.print(table)
        else:
            out.print(f"{name}: nothing delivered yet in {runtime.settings.store_location}", highlight=False)
        if date and rows and rows[0].held_back:
            held = Table(title="held back", title_justify="left")
            held.add_column("portfolio")
            held.add_column("why")
            for number, reason in rows[0].held_back:
                held.add_row(number, reason)
            out.print(held)


def _feeds() -> tuple[Feed, ...]:
    from classfeed_dagster.feeds.feed import declared_feeds

    return declared_feeds()
