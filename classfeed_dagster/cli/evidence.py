"""Command for an auditor: evidence."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import FeedName, require_feed, require_store
from classfeed_dagster.errors import ExitCode, UsageError
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.support.evidence import DateEvidence

out = output.console()
_HASH_SHOWN = 16


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(evidence)


def evidence(
    since: Annotated[dt.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First business date.")],
    until: Annotated[dt.datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last business date.")],
    feed: FeedName = "class_super",
    as_json: output.JsonOption = False,
) -> None:
    """Show an auditor what was delivered in a range of dates, under which checks, and who intervened.

    Each date's chain, verdicts, consents, reconciliation, receipts, acknowledgements, approvals, re-runs and refreshes.
    Exit code 3 if a date has a gap. ``classfeed audit D1..D2`` is the same.
    """
    show_evidence(since.date(), until.date(), feed, as_json=as_json)


def show_evidence(since: dt.date, until: dt.date, feed: str, *, as_json: bool = False) -> None:
    """Print the evidence of a range of business dates; exit with code 3 if a date has a gap."""
    from classfeed_dagster.runtime import Runtime, utc_now
    from classfeed_dagster.trading_days import cutoff

    runtime = Runtime()
    declared = require_feed(feed)
    require_store(runtime)
    audience = declared.audience(runtime.settings.first_business_date)
    now = utc_now(runtime.settings.now)
    days = [day for day in audience.dates() if since <= day <= until and cutoff(day) <= now]
    if not days:
        raise UsageError(
            f"{feed} has no business date from {since.isoformat()} to {until.isoformat()} that is over; its first is "
            f"{audience.first_business_date.isoformat()}"
        )
    from classfeed_dagster.support.evidence import date_evidence

    proofs = [date_evidence(runtime, declared, day) for day in days]
    if as_json:
        output.print_json({"feed": feed, "dates": [asdict(entry) for entry in proofs]})
    else:
        _print(feed, proofs)
    raise typer.Exit(ExitCode.STOPPED if any(entry.gaps for entry in proofs) else 0)


def _print(feed: str, dates: list[DateEvidence]) -> None:
    columns = ["date", "revision", "manifest", "portfolios", "consents", "verdicts", "reconciled", "acknowledged"]
    rows = [
        [
            entry.business_date.isoformat(),
            str(delivery.revision),
            delivery.manifest_sha256[:_HASH_SHOWN],
            str(delivery.portfolios),
            str(delivery.consents),
            f"{delivery.passed} of {delivery.verdicts}",
            entry.reconciled if delivery is entry.deliveries[-1] else "",
            entry.acknowledged if delivery is entry.deliveries[-1] else "",
        ]
        for entry in dates
        for delivery in entry.deliveries
    ]
    right = ["revision", "portfolios", "consents", "verdicts"]
    keys, optional = ["date", "revision", "manifest"], ["consents", "portfolios"]
    output.print_table(out, feed, columns, rows, keys=keys, right=right, optional=optional)
    people = [
        [entry.business_date.isoformat(), f"{act.at:%Y-%m-%d %H:%M}", act.person, act.action, act.reason]
        for entry in dates
        for act in entry.interventions
    ]
    if people:
        columns = ["date", "at (UTC)", "person", "action", "reason"]
        output.print_table(out, "interventions", columns, people, keys=["date", "person"])
    for entry in dates:
        for gap in entry.gaps:
            out.print(f"[red]{entry.business_date}: {escape(gap)}[/]")
    gaps = sum(bool(entry.gaps) for entry in dates)
    verdict = "[green]proven[/]" if not gaps else f"[bold red]{counted(gaps, 'date')} with gaps[/]"
    out.print(f"{verdict}  {feed}: {counted(len(dates), 'date')}")
