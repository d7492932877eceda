"""Command about one customer: customer."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import output_file, require_feed, require_past, require_store

if TYPE_CHECKING:
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.support.customer import CustomerFeed

out = output.console()


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(customer)


def customer(
    number: Annotated[str, typer.Argument(help="Portfolio number.")],
    on: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Business date that the answer is about; default: the latest."),
    ] = None,
    feed: Annotated[str | None, typer.Option(help="Name of one feed; default: all.")] = None,
    dates: Annotated[int, typer.Option(min=1, help="Number of latest delivered dates that are listed.")] = 20,
    all_dates: Annotated[bool, typer.Option("--all", help="List every delivered date.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            help="HTML page to write in addition: the record of disclosures.", dir_okay=False, callback=output_file
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show one customer's consents, deliveries, holds and next delivery, and why a date has no data.

    From the delivered ledger and bigsite's consents, in words for the customer. The page is the record of disclosures
    for an access request.
    """
    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    day = require_past(runtime.settings, on.date()) if on else None
    chosen = [] if feed is None else [require_feed(feed)]
    require_store(runtime)
    try:
        _require_portfolio(runtime, number)  # before the feeds and the ledger's libraries are imported
        from classfeed_dagster.feed_run.flags import start_flags
        from classfeed_dagster.feeds import FEEDS
        from classfeed_dagster.support.customer import customer_history
        from classfeed_dagster.support.customer_page import disclosure_page

        start_flags(runtime.settings, FEEDS)
        now = utc_now(runtime.settings.now)
        history = customer_history(
            runtime, chosen or FEEDS, number, now=now, on=day, dates=None if all_dates else dates
        )
        if page is not None:
            page.write_text(disclosure_page(runtime.store, history, now), encoding="utf-8")
    finally:
        runtime.close()
    if as_json:
        output.print_json(asdict(history))
        return
    for entry in history.feeds:
        _print_feed(entry)
    if page is not None:
        out.print(f"page: {escape(str(page))}")


def _require_portfolio(runtime: Runtime, number: str) -> None:
    runtime.require_bigsite()
    from classfeed_dagster.bigsite.portfolio_number import require_portfolio

    with runtime.engine.connect() as connection:
        require_portfolio(connection, number)


def _print_feed(entry: CustomerFeed) -> None:
    from classfeed_dagster.support.customer import consent_rows, instant_text

    mode = "" if entry.mode == "live" else f" ({entry.mode})"
    out.print(f"[bold]{entry.feed}[/] to {entry.recipient}{mode}: {escape(entry.answer)}")
    if entry.next_at is not None:
        out.print(f"next run: {entry.next_at:%Y-%m-%d %H:%M} UTC")
    if entry.ends_at is not None:
        noticed = "" if entry.noticed_on is None else f", notice on {entry.noticed_on.isoformat()}"
        out.print(f"sharing ends: {entry.ends_at:%Y-%m-%d %H:%M} UTC{noticed}")
    if entry.first_in_full is not None:
        first = entry.first_in_full
        out.print(f"first in full: {first.business_date.isoformat()}, revision {first.revision}")
    if consents := consent_rows(entry):
        columns = ["consent", "granted (UTC)", "expires (UTC)", "revoked (UTC)", "history from"]
        output.print_table(out, "consents", columns, consents, keys=columns[:2])
    deliveries = [
        [
            disclosure.business_date.isoformat(),
            str(disclosure.revision),
            disclosure.change,
            disclosure.extract,
            ", ".join(map(str, disclosure.consent_ids)),
            "shadow" if disclosure.shadow else disclosure.arrival,
        ]
        for disclosure in entry.disclosures
    ]
    if deliveries:
        columns = ["date", "revision", "change", "extract", "consents", ""]
        output.print_table(out, "deliveries", columns, deliveries, keys=["date", "revision", "change"])
    holds = [
        [
            hold.business_date.isoformat(),
            "held back" if hold.released_at is None else f"until {instant_text(hold.released_at)}",
            hold.explanation,
        ]
        for hold in entry.held_back
    ]
    if holds:
        output.print_table(out, "held back", ["date", "state", "reason"], holds, keys=["date"])
    out.print()
