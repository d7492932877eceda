"""The commands that look: status, verify, parity; and release, which a person signs. Also shared helpers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from classfeed_dagster.errors import UsageError

if TYPE_CHECKING:
    from classfeed_dagster.delivery.delivery_history import DateStatus
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.orchestration.run_date import RunReport
    from classfeed_dagster.parity.run import Compared
    from classfeed_dagster.settings import Settings

out = Console()
_COUNTED = ("portfolios", "held back", "pages", "bytes")

Date = Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Business date, YYYY-MM-DD.")]
FeedName = Annotated[str, typer.Option(help="Which feed.")]


class UnknownFeedError(UsageError):
    """No file in ``feeds/`` declares a feed of this name."""


def require_feed(name: str) -> Feed:
    """The declared feed called ``name``; UnknownFeedError lists those that exist."""
    from classfeed_dagster.feeds import FEEDS

    feeds = {feed.name: feed for feed in FEEDS}
    if name not in feeds:
        raise UnknownFeedError(f"there is no feed {name!r}; the feeds are {', '.join(sorted(feeds))}")
    return feeds[name]


def require_due(settings: Settings, feed: str, day: dt.date) -> dt.date:
    """``day`` if the feed has a document for it; ValueError says why not."""
    audience = require_feed(feed).audience(settings.first_business_date)
    if day < audience.first_business_date:
        raise UsageError(
            f"{day.isoformat()} is before {feed}'s first business date, {audience.first_business_date.isoformat()} "
            "(CLASSFEED_FIRST_BUSINESS_DATE)"
        )
    if not audience.is_due(day):
        raise UsageError(f"{day.isoformat()} is not a date of {feed}, which is {audience.cadence}")
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
    app.command("approve-removals")(approve_removals)
    app.command("release", hidden=True)(approve_removals)  # its former name
    app.command()(parity)


def status(
    date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="One business date, with who is held back.")
    ] = None,
    feed: Annotated[str | None, typer.Option(help="One feed; default: all.")] = None,
    days: Annotated[int, typer.Option(min=1, max=2000, help="How many business dates, without --date.")] = 10,
) -> None:
    """What was delivered, held back and is missing. Read from the manifests, so it is true whatever Dagster says."""
    from classfeed_dagster.delivery.delivery_history import date_status, delivered_dates
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    for name in [require_feed(feed).name] if feed else [one.name for one in _feeds()]:
        audience = require_feed(name).audience(runtime.settings.first_business_date)
        if date:
            dates = [require_due(runtime.settings, name, date.date())]
        else:
            newest = max(delivered_dates(runtime.store, name), default=None)
            dates = [day for day in audience.dates() if newest and day <= newest][-days:]
        if not dates:
            out.print(f"{name}: nothing delivered yet in {runtime.settings.store_location}", highlight=False)
            continue
        found = [date_status(runtime.store, name, day) for day in dates]
        _print_dates(name, found)
        if date:
            _print_held_back(found[0])


def _print_dates(feed: str, found: Sequence[DateStatus]) -> None:
    table = Table(title=feed, title_justify="left")
    for column in ("date", "state", "revision", "portfolios", "held back", "pages", "bytes", "correlation id"):
        table.add_column(column, justify="right" if column in _COUNTED else "left")
    for one in found:
        latest = one.deliveries[-1] if one.deliveries else None
        state = "missing" if latest is None else "delivered" if one.complete else "partly delivered"
        if one.shadow:
            everything = len(one.shadow) == len(one.deliveries)
            state += " (shadow)" if everything else f" (shadow: revision {', '.join(map(str, one.shadow))})"
        pages = [page for manifest in one.deliveries for page in manifest.pages]
        table.add_row(
            one.business_date.isoformat(),
            state,
            "" if latest is None else str(latest.revision),
            str(one.delivered),
            str(len({held.number for held in one.held_back} | {held.number for held in one.quarantined})),
            str(len(pages)),
            f"{sum(page.bytes for page in pages):,}",
            "" if latest is None else latest.correlation_id,
        )
    out.print(table)


def _print_held_back(found: DateStatus) -> None:
    reasons = {held.number: held.reason for held in found.held_back}
    reasons |= {held.number: held.held_back.reason for held in found.quarantined}
    if not reasons:
        return
    table = Table(title=f"{found.feed} {found.business_date}: held back", title_justify="left")
    table.add_column("portfolio")
    table.add_column("why")
    for number in sorted(reasons):
        table.add_row(number, reasons[number])
    out.print(table)


def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Documents, manifests or folders; none: the whole chain of the configured store."),
    ] = None,
    feed: Annotated[str | None, typer.Option(help="One feed's chain; default: all.")] = None,
) -> None:
    """Check what was delivered on its own: schema, control totals, hashes, and the chain of manifests.

    With paths, the files are enough: no database, no store, no Dagster. Without, every delivery of the configured
    store is walked from the first to the last. Exit code 3 if something is wrong.
    """
    from classfeed_dagster.delivery.delivery_history import live_and_shadow, shadow_deliveries
    from classfeed_dagster.delivery.verify import verify_feed
    from classfeed_dagster.delivery.verify_files import verify_paths
    from classfeed_dagster.runtime import Runtime

    formats = {one.name: one.format for one in _feeds()}
    shadow: dict[str, int] = {}
    if paths:
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise UsageError(f"{missing[0]} does not exist")
        with out.status("reading …"):
            results = {"files": verify_paths(paths, formats)}
    else:
        runtime = Runtime()
        names = [require_feed(feed).name] if feed else sorted(formats)
        results = {}
        for name in names:
            with out.status(f"walking the chain of {name} …"):
                results[name] = verify_feed(live_and_shadow(runtime.store, name), name, formats[name])
                shadow[name] = shadow_deliveries(runtime.store, name)
    for name, found in results.items():
        for problem in found.problems:
            out.print(f"  [{'yellow' if problem.harmless else 'red'}]{escape(str(problem))}[/]", highlight=False)
        colour = "green" if found.sound else "bold red"
        verdict = "sound" if found.sound else "NOT SOUND"
        hidden = f", {shadow[name]} of the manifests in the shadow" if shadow.get(name) else ""
        out.print(
            f"[{colour}]{verdict}[/]  {name}: {found.manifests} manifest(s), {found.pages} page(s) read and checked"
            f"{hidden}",
            highlight=False,
        )
    raise typer.Exit(0 if all(found.sound for found in results.values()) else 3)


def approve_removals(
    date: Date,
    reason: Annotated[str, typer.Option(help="Reason why the removals are right. It is recorded.")],
    feed: FeedName = "class_super",
    person: Annotated[str | None, typer.Option("--by", help="Name of the approver. Default: the login name.")] = None,
) -> None:
    """Approve an unusually large number of consent removals for one date.

    The consent_roll check stops a date on which too many portfolios were removed at once. Confirm that these customers
    really left, approve the removals, and run the date again. The approval covers exactly these removals.
    """
    import getpass

    from classfeed_dagster.delivery import approve_removals as approvals
    from classfeed_dagster.feed_run.feed_run import FeedRun
    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    declared = require_feed(feed)
    day = require_due(runtime.settings, feed, date.date())
    audience = declared.audience(runtime.settings.first_business_date)
    roll = FeedRun(runtime, declared, audience, day, "release").consent_roll()
    approval = approvals.approve_removals(
        runtime.store,
        audience,
        day,
        roll.removed_numbers,
        approved_by=person or getpass.getuser(),
        reason=reason,
        at=utc_now(),
    )
    out.print(
        f"approved: {approval.removed} removals of {day} ({roll.removed_share:.1%}), by {approval.approved_by}. "
        f"Run it again: classfeed run --date {day} --feed {feed}",
        highlight=False,
    )


def parity(date: Date, feed: FeedName = "class_trade") -> None:
    """Compare a business date of a feed with what the old app wrote for it, and show the running score.

    The old app's files lie under `legacy/FEED/DATE/` in the object store. Exit code 3 if a difference is not
    explained, 4 if one of the two sides is not there yet.
    """
    from classfeed_dagster.parity.run import compare_date
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    declared = require_feed(feed)
    day = require_due(runtime.settings, feed, date.date())
    audience = declared.audience(runtime.settings.first_business_date)
    with out.status("comparing …"):
        found = compare_date(runtime.store, declared, audience, day)
    _print_parity(found, runtime.settings.parity_clean_dates)
    out.print(f"  {runtime.store.location(found.key)}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found.report.clean else 3)


def _print_parity(found: Compared, required: int) -> None:
    report, score = found.report, found.score
    verdict = "[green]clean[/]" if report.clean else f"[bold red]{report.unexplained} unexplained[/]"
    out.print(
        f"{verdict}  {report.feed} {report.business_date}: {report.old_lines} old lines, {report.new_lines} new, "
        f"{report.equal_lines} equal",
        highlight=False,
    )
    for rule, count in report.explained.items():
        out.print(f"  explained by {rule}: {count}", highlight=False)
    table = Table("line", "portfolio", "key", "kind", "field", "old", "new")
    for one in [one for one in report.differences if one.explanation is None][:20]:
        cells = (one.line, one.portfolio_number, one.key, one.kind, one.field, one.old, one.new)
        table.add_row(*(escape(cell or "") for cell in cells))
    if table.row_count:
        out.print(table)
    broken = f", broken by {score.broken_by}" if score.broken_by else ""
    out.print(f"  {score.clean_run} of {required} clean dates in a row{broken}", highlight=False)


def _feeds() -> tuple[Feed, ...]:
    from classfeed_dagster.feeds import FEEDS

    return FEEDS
