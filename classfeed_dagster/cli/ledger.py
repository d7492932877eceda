"""Commands of the delivered ledger: ``classfeed ledger rebuild`` and ``classfeed audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import FeedName, date_range, require_feed, require_store
from classfeed_dagster.cli.evidence import show_evidence
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.delivery.ledger_rebuild import PositionAudit

out = output.console()
_SHOWN = 20

ledger = typer.Typer(help="The delivered ledger: what was sent, with bigsite's keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.add_typer(ledger, name="ledger")
    app.command()(audit)


@ledger.command()
def rebuild(feed: FeedName = DEFAULT_FEED) -> None:
    """Rebuild a feed's ledger from its documents and landings, for deliveries from before the ledger.

    Existing ledgers are rebuilt as well and must be equal. Safe to repeat. Exit code 3 if a document, a landing or a
    ledger file contradicts the others.
    """
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    declared = require_feed(feed)
    require_store(runtime)
    from classfeed_dagster.delivery.delivery_history import live_and_shadow
    from classfeed_dagster.delivery.ledger_rebuild import rebuild_ledger

    audience = declared.audience(runtime.settings.first_business_date)
    count = 0
    for result in rebuild_ledger(live_and_shadow(runtime.store, feed), feed, declared.format, audience):
        count += 1
        summary = "proven equal" if result.proven else "rebuilt"
        line = f"  {result.business_date} r{result.revision}: {counted(result.records, 'record')}, {summary}"
        out.print(line)
    out.print(f"[green]done[/]  {feed}: {counted(count, 'delivery')}")


def audit(
    dates: Annotated[str | None, typer.Argument(help="Business dates: D1..D2, or one. Shows their evidence.")] = None,
    feed: FeedName = DEFAULT_FEED,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many portfolios, and the last five dates; default: all.")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Add up every record that a feed sent and compare each date's stored positions with the sums.

    Exit code 3 if a position differs. With dates, show their evidence instead, as ``evidence`` does.
    """
    if dates is not None:
        show_evidence(*date_range(dates), feed, as_json=as_json)
    from classfeed_dagster.runtime import Runtime

    runtime = Runtime()
    audience = require_feed(feed).audience(runtime.settings.first_business_date)
    require_store(runtime)
    from classfeed_dagster.delivery.delivery_history import live_and_shadow
    from classfeed_dagster.delivery.ledger_rebuild import audit_positions

    audits = list(audit_positions(live_and_shadow(runtime.store, feed), feed, audience, sample=sample))
    positions, wrong = sum(audited.positions for audited in audits), sum(len(audited.wrong) for audited in audits)
    if as_json:
        output.print_json({"feed": feed, "dates": [_document(audited) for audited in audits]})
    else:
        for audited in audits:
            for number, kind, key, stored, sums in audited.wrong[:_SHOWN]:
                line = f"{audited.business_date}: {number} {kind} {key}: {stored} stored, records add up to {sums}"
                out.print(f"  [red]{line}[/]")
        verdict = "[green]agrees[/]" if not wrong else "[bold red]DIFFERS[/]"
        out.print(
            f"{verdict}  {feed}: {counted(positions, 'position')} of {counted(len(audits), 'date')}, {wrong} wrong"
        )
    raise typer.Exit(ExitCode.STOPPED if wrong else ExitCode.OK)


def _document(audited: PositionAudit) -> dict[str, Any]:
    names = ("portfolio", "kind", "key", "stored", "records")
    wrong = [dict(zip(names, position, strict=True)) for position in audited.wrong]
    return {"business_date": audited.business_date, "positions": audited.positions, "wrong": wrong}
