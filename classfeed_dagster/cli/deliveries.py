"""Commands that read deliveries: status, verify, parity; and approve-removals, which a person decides."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import (
    Date,
    FeedName,
    require_due,
    require_feed,
    require_impersonal,
    require_past,
    require_store,
)
from classfeed_dagster.errors import ExitCode, UsageError
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.acknowledgements.inbox import FileAnswers
    from classfeed_dagster.delivery.delivery_history import DateStatus
    from classfeed_dagster.delivery.problems import Verification
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.orchestration.run_date import RunReport
    from classfeed_dagster.parity.run import ParityResult
    from classfeed_dagster.runtime import Runtime

out = output.console()


def print_report(console: Console, report: RunReport) -> None:
    """Print the outcome of a run in a few lines."""
    colour = "green" if report.outcome.exit_code == 0 else "red"
    console.print(f"[bold {colour}]{report.outcome}[/]  {report.feed} {report.business_date}  {escape(report.message)}")
    facts = report.facts
    if "revision" in facts:
        label = "revision" if facts.get("outcome") == "DELIVERED" else "latest delivery: revision"
        # The metadata leaves out counts that are zero.
        portfolios, pages, held_back = (facts.get(name, 0) for name in ("portfolios", "pages", "held_back"))
        console.print(
            f"  {label} {facts['revision']}, {counted(portfolios, 'portfolio')} on {counted(pages, 'page')}, "
            f"{held_back} held back"
        )
        console.print(f"  {escape(str(facts['dagster/uri']))}")
    if report.checks:
        failed = f"; failed: {', '.join(report.failed_checks)}" if report.failed_checks else ""
        warned = f"; warnings: {', '.join(report.warnings)}" if report.warnings else ""
        console.print(f"  {report.checks} checks{failed}{warned}")
    console.print(f"  run {report.run_id}, correlation id {report.correlation_id}", style="dim")


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(status)
    app.command()(verify)
    app.command("approve-removals")(approve_removals)
    app.command("release", hidden=True)(approve_removals)  # its former name
    app.command()(parity)


def status(
    date: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="One business date, with the portfolios held back."),
    ] = None,
    feed: Annotated[str | None, typer.Option(help="Name of one feed; default: all.")] = None,
    days: Annotated[int, typer.Option(min=1, max=2000, help="Number of business dates, without --date.")] = 10,
    as_json: output.JsonOption = False,
) -> None:
    """Show deliveries, held-back portfolios and missing dates, from the manifests instead of Dagster's records."""
    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    now = utc_now(runtime.settings.now)
    if date:
        require_past(runtime.settings, date.date())
    names = [declared.name for declared in _feeds()] if feed is None else [require_feed(feed).name]
    require_store(runtime)
    from classfeed_dagster.delivery.delivery_history import date_status, delivered_dates
    from classfeed_dagster.feed_run.acknowledged import read_answers
    from classfeed_dagster.trading_days import cutoff
    from classfeed_dagster.transmission.send import outstanding

    document: list[dict[str, Any]] = []
    for name in names:
        audience = require_feed(name).audience(runtime.settings.first_business_date)
        if date:
            dates = [require_due(runtime.settings, name, date.date())]
        else:
            newest = max(delivered_dates(runtime.store, name), default=None)
            dates = [day for day in audience.dates() if newest and day <= newest][-days:]
        # Without --date the newest delivery ends the table: dates that are over by now and missing are stated below it.
        overdue = [day for day in audience.dates() if dates and not date and dates[-1] < day and cutoff(day) <= now]
        statuses = [date_status(runtime.store, name, day) for day in dates]
        declared_feed = require_feed(name)
        not_sent = {day: outstanding(runtime.store, name, day) for day in dates if declared_feed.sends_on(day)}
        answered = {day: read_answers(runtime, declared_feed, day) for day in dates}
        if as_json:
            document.append(
                {
                    "feed": name,
                    "dates": [
                        {
                            **_status_document(status, not_sent),
                            "acknowledgements": _answers(answered[status.business_date]),
                        }
                        for status in statuses
                    ],
                    "undelivered_since": overdue[0].isoformat() if overdue else None,
                }
            )
        elif not statuses:
            out.print(f"{name}: nothing delivered yet in {escape(runtime.settings.store_location)}")
        else:
            _print_dates(name, statuses, not_sent, overdue)
            for day, files in answered.items():
                for file in files if date else ():
                    state = "contradictory" if file.contradictory else file.state or "not acknowledged"
                    out.print(f"  {day} {file.page.message_id}: {state}")
            if date:
                _print_held_back(statuses[0])
    if as_json:
        output.print_json({"feeds": document})
    elif not date:
        _print_expiring(runtime)


def _print_expiring(runtime: Runtime) -> None:
    from classfeed_dagster.feed_run.expiry_notices import latest_notices, notices_key

    record = latest_notices(runtime.store)
    if record is not None and record.notices:
        out.print(
            f"{counted(len(record.notices), 'consent')} about to expire, listed on {record.date.isoformat()}: "
            f"{runtime.store.location(notices_key(record.date))}"
        )


def _state(status: DateStatus, not_sent: Mapping[dt.date, int]) -> str:
    if not status.deliveries:
        return "missing"
    state = "delivered" if status.complete else "partly delivered"
    if status.shadow:
        every = len(status.shadow) == len(status.deliveries)
        state += " (shadow)" if every else f" (shadow: revision {', '.join(map(str, status.shadow))})"
    if not_sent.get(status.business_date):
        state += ", not sent"
    return state


def _held_back(status: DateStatus) -> dict[str, str]:
    """Return portfolio and reason of the portfolios that the deliveries held back, by the manifests."""
    return {entry.number: entry.reason for entry in status.held_back}


def _excluded_now(status: DateStatus) -> dict[str, str]:
    """Return portfolio and reason of the undelivered portfolios that the latest attempt would hold back."""
    return {entry.number: entry.held_back.reason for entry in status.quarantined}


def _status_document(status: DateStatus, not_sent: Mapping[dt.date, int]) -> dict[str, Any]:
    latest = status.deliveries[-1] if status.deliveries else None
    pages = [page for manifest in status.deliveries for page in manifest.pages]
    return {
        "business_date": status.business_date.isoformat(),
        "state": _state(status, not_sent),
        "revision": None if latest is None else latest.revision,
        "portfolios": status.delivered,
        "pages": len(pages),
        "bytes": sum(page.bytes for page in pages),
        "correlation_id": None if latest is None else latest.correlation_id,
        "held_back_at_delivery": _reasons(_held_back(status)),
        "would_be_held_back_now": _reasons(_excluded_now(status)),
        "delivered_but_excluded_now": status.delivered_but_excluded,
        "files_not_sent": not_sent.get(status.business_date, 0),
    }


def _answers(files: Sequence[FileAnswers]) -> list[dict[str, object]]:
    return [
        {
            "message_id": file.page.message_id,
            "state": file.state,
            "contradictory": file.contradictory,
            "records": [
                {
                    "portfolio": record.portfolio_number,
                    "transaction_id": record.transaction_id,
                    "state": record.state,
                    "code": record.code,
                }
                for answer in file.answers
                for record in answer.records
            ],
        }
        for file in files
    ]


def _reasons(reasons: dict[str, str]) -> list[dict[str, str]]:
    return [{"portfolio": number, "reason": reasons[number]} for number in sorted(reasons)]


def _print_dates(
    feed: str, statuses: Sequence[DateStatus], not_sent: Mapping[dt.date, int], overdue: Sequence[dt.date]
) -> None:
    columns = [
        "date",
        "state",
        "revision",
        "portfolios",
        "held back",
        "held back now",
        "pages",
        "bytes",
        "correlation id",
    ]
    rows = []
    for status in statuses:
        latest = status.deliveries[-1] if status.deliveries else None
        pages = [page for manifest in status.deliveries for page in manifest.pages]
        rows.append(
            [
                status.business_date.isoformat(),
                _state(status, not_sent),
                "" if latest is None else str(latest.revision),
                str(status.delivered),
                str(len(_held_back(status))),
                str(len(_excluded_now(status))),
                str(len(pages)),
                f"{sum(page.bytes for page in pages):,}",
                "" if latest is None else latest.correlation_id,
            ]
        )
    numbers = ("revision", "portfolios", "held back", "held back now", "pages", "bytes")
    optional = ("correlation id", "pages", "bytes")
    output.print_table(out, feed, columns, rows, keys=("date", "state", *numbers), right=numbers, optional=optional)
    if overdue:
        span = f"{overdue[0]} to {overdue[-1]}" if len(overdue) > 1 else f"{overdue[0]}"
        out.print(f"[red]not delivered[/]  {counted(len(overdue), 'later date')}, over by now: {span}")


def _print_held_back(status: DateStatus) -> None:
    name = f"{status.feed} {status.business_date}"
    for title, reasons in (
        ("held back at delivery", _held_back(status)),
        ("would be held back now", _excluded_now(status)),
    ):
        if reasons:
            rows = [[number, reasons[number]] for number in sorted(reasons)]
            output.print_table(out, f"{name}: {title}", ["portfolio", "reason"], rows, keys=["portfolio"])
    if status.delivered_but_excluded:
        out.print(
            f"{counted(status.delivered_but_excluded, 'delivered portfolio')} would be left out of a new attempt, for "
            "example because consent has ended since"
        )


def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Documents, manifests or folders; none: the whole chain of the configured store."),
    ] = None,
    feed: Annotated[str | None, typer.Option(help="Name of one feed's chain; default: all.")] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Check deliveries on their own: schema, control totals, hashes, and the chain of manifests.

    With paths, the files are enough. Without, every delivery of the configured store is checked. Exit code 3 if
    something is wrong.
    """
    from classfeed_dagster.runtime import Runtime

    missing = [path for path in paths or () if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist")
    runtime = Runtime()
    if feed is not None:
        require_feed(feed)
    if not paths:
        require_store(runtime)
    from classfeed_dagster.delivery.delivery_history import live_and_shadow, shadow_deliveries
    from classfeed_dagster.delivery.verify import verify_feed
    from classfeed_dagster.delivery.verify_files import verify_paths

    formats = {declared.name: declared.format for declared in _feeds()}
    shadow: dict[str, int] = {}
    status = output.console(stderr=True).status("")
    with status:
        if paths:
            status.update("reading …")
            results = {"files": verify_paths(paths, formats)}
        else:
            results = {}
            for name in [feed] if feed else sorted(formats):
                status.update(f"walking the chain of {name} …")
                results[name] = verify_feed(live_and_shadow(runtime.store, name), name, formats[name])
                shadow[name] = shadow_deliveries(runtime.store, name)
    if as_json:
        output.print_json({"results": [_verification_document(name, result) for name, result in results.items()]})
    else:
        for name, result in results.items():
            _print_verification(name, result, shadow.get(name, 0))
    raise typer.Exit(ExitCode.OK if all(result.sound for result in results.values()) else ExitCode.STOPPED)


def _verification_document(name: str, result: Verification) -> dict[str, Any]:
    problems = [
        {"kind": problem.kind.value, "harmless": problem.harmless, "text": str(problem)} for problem in result.problems
    ]
    return {
        "name": name,
        "sound": result.sound,
        "manifests": result.manifests,
        "pages": result.pages,
        "problems": problems,
    }


def _print_verification(name: str, result: Verification, shadow: int) -> None:
    for problem in result.problems:
        colour = "yellow" if problem.harmless else "red"
        out.print(f"  [{colour}]{escape(str(problem))}[/]")
    verdict = "[green]sound[/]" if result.sound else "[bold red]NOT SOUND[/]"
    hidden = f", {shadow} of the manifests in the shadow" if shadow else ""
    out.print(
        f"{verdict}  {name}: {counted(result.manifests, 'manifest')}, {counted(result.pages, 'page')} read and "
        f"checked{hidden}"
    )


def approve_removals(
    date: Date,
    reason: Annotated[str, typer.Option(help="Why the removals are right; recorded. No names or account numbers.")],
    feed: FeedName = DEFAULT_FEED,
    person: Annotated[
        str | None, typer.Option("--by", help="Person who checked them; default: the login name.")
    ] = None,
) -> None:
    """Approve an unusually large number of consent removals for one date: exactly these removals, and no others.

    For a date that the check consent_roll stopped. First check that these customers really left; afterwards run the
    date again.
    """
    import getpass

    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    declared = require_feed(feed)
    day = require_due(runtime.settings, feed, date.date())
    require_impersonal(reason)
    require_store(runtime)
    from classfeed_dagster.delivery.approve_removals import ConsentedFigures
    from classfeed_dagster.delivery.approve_removals import approve_removals as approve
    from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS

    audience = declared.audience(runtime.settings.first_business_date)
    limit = runtime.settings.max_removed_share
    figures = runtime.load_reference(audience.reference(CONSENTED_PORTFOLIOS.name), day, ConsentedFigures)
    nothing = UsageError(
        f"Nothing to approve for {feed} {day}: {counted(figures.removed, 'portfolio')} removed, within the limit of "
        f"{limit:.1%}"
    )
    if not figures.may_exceed(limit):
        raise nothing
    from classfeed_dagster.feed_run.feed_date import FeedDate

    roll = FeedDate(runtime, declared, audience, day, "approve-removals").consent_roll()
    if not roll.exceeds(limit):
        raise nothing
    approval = approve(
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
        f"Run it again: classfeed run --date {day} --feed {feed}"
    )


def parity(date: Date, feed: FeedName = "class_trade", as_json: output.JsonOption = False) -> None:
    """Compare a business date of a feed with the old app's files for it, and show the running score.

    The old app's files are under `legacy/FEED/DATE/` in the object store. Exit code 3 for an unexplained difference, 4
    if a side is missing.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    declared = require_feed(feed)
    day = require_due(runtime.settings, feed, date.date())
    require_store(runtime)
    from classfeed_dagster.parity.run import compare_date

    audience = declared.audience(runtime.settings.first_business_date)
    with output.console(stderr=True).status("comparing …"):
        compared = compare_date(runtime.store, declared, audience, day)
    if as_json:
        output.print_json(compared.report.model_dump(mode="json") | {"report": runtime.store.location(compared.key)})
    else:
        _print_parity(compared, runtime.settings.parity_clean_dates)
        out.print(f"  {escape(runtime.store.location(compared.key))}")
    raise typer.Exit(ExitCode.OK if compared.report.clean else ExitCode.STOPPED)


def _print_parity(compared: ParityResult, required: int) -> None:
    report, score = compared.report, compared.score
    verdict = "[green]clean[/]" if report.clean else f"[bold red]{report.unexplained} unexplained[/]"
    out.print(
        f"{verdict}  {report.feed} {report.business_date}: {report.old_lines} old lines, {report.new_lines} new, "
        f"{report.equal_lines} equal"
    )
    for rule, count in report.explained.items():
        out.print(f"  explained by {rule}: {count}")
    columns = ["line", "portfolio", "key", "kind", "field", "old", "new"]
    unexplained = [difference for difference in report.differences if difference.explanation is None][:20]
    rows = [
        [str(getattr(difference, name) or "") for name in ("line", "portfolio_number", *columns[2:])]
        for difference in unexplained
    ]
    if rows:
        output.print_table(out, "", columns, rows, keys=("line", "portfolio", "key"))
    broken_by = f", broken by {score.broken_by}" if score.broken_by else ""
    out.print(f"  {score.clean_run} of {required} clean dates in a row{broken_by}")


def _feeds() -> tuple[Feed, ...]:
    from classfeed_dagster.feeds import FEEDS

    return FEEDS
