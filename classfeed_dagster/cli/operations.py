"""Commands of operation: watchdog, redrive of dead letters, a worker for steps, statements, the owner's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from classfeed_dagster.cli import output
from classfeed_dagster.cli.arguments import FeedName, output_file, require_feed, require_month, require_store
from classfeed_dagster.errors import ExitCode
from classfeed_dagster.tags import DEFAULT_FEED
from classfeed_dagster.wording import counted

out = output.console()


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(watchdog)
    app.command()(redrive)
    app.command()(worker)
    app.command()(statement)
    app.command()(owner)


def statement(
    feed: FeedName = DEFAULT_FEED,
    month: Annotated[
        str | None, typer.Option(help="Month of the deadlines, as YYYY-MM; default: the current one.")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Print a feed's monthly service-level statement for its recipient, as Markdown. Needs only the object store."""
    from classfeed_dagster.runtime import Runtime, utc_now

    runtime = Runtime()
    now = utc_now(runtime.settings.now)
    first, declared = require_month(month, now), require_feed(feed)
    require_store(runtime)
    from classfeed_dagster.service_levels import statement as statements

    audience = declared.audience(runtime.settings.first_business_date)
    of = statements.statement(runtime.store, declared, audience, first, now)
    if as_json:
        output.print_json(statements.statement_document(of))
        return
    for line in statements.statement_page(of):
        typer.echo(line)


def watchdog(
    notify: Annotated[
        bool,
        typer.Option(
            "--notify/--no-notify", "--tell/--no-tell", help="Notify Slack and PagerDuty; without tokens, the log."
        ),
    ] = True,
    sensors: Annotated[bool, typer.Option(help="Also check the sensors' heartbeats.")] = True,
    as_json: output.JsonOption = False,
) -> None:
    """Check that every due manifest exists. Needs only the object store. For cron or EventBridge.

    Exit code 3 if a live feed's business date is past its deadline without a manifest, or a sensor's heartbeat is old.
    """
    from classfeed_dagster.alerting import incidents, pagerduty, slack
    from classfeed_dagster.alerting.alerts import watchdog_incident
    from classfeed_dagster.feed_run.flags import is_live, start_flags
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.runtime import Runtime, utc_now
    from classfeed_dagster.service_levels import heartbeats, service_levels

    runtime = Runtime()
    settings, store = runtime.settings, runtime.store
    now = utc_now(settings.now)
    start_flags(settings, FEEDS)
    feeds = [(feed, feed.audience(settings.first_business_date)) for feed in FEEDS if is_live(feed, settings.env)]
    missing = service_levels.missing(store, feeds, now, settings.repair_dates)
    silent = heartbeats.stale(store, now) if sensors else []
    if as_json:
        dates = [
            {
                "feed": date.feed,
                "business_date": str(date.due.business_date),
                "due_by": date.due.deadline_at.isoformat(),
            }
            for date in missing
        ]
        output.print_json({"missing": dates, "silent_sensors": list(silent)})
    else:
        for date in missing:
            deadline = f"{date.due.deadline_at:%Y-%m-%d %H:%M} UTC"
            out.print(f"[red]missing[/]  {date.feed} {date.due.business_date}, due by {deadline}")
        for sensor in silent:
            out.print(f"[red]silent[/]   {sensor}")
    incident = watchdog_incident(missing, silent)
    if notify:
        notifiers = (slack.messenger(settings), pagerduty.pager(settings))
        incidents.sync_incidents(store, [] if incident is None else [incident], notifiers, now, only=incidents.WATCHDOG)
    if incident is not None:
        raise typer.Exit(ExitCode.STOPPED)
    if not as_json:
        out.print("[green]nothing is missing[/]")


def redrive() -> None:
    """Return consent events from the dead-letter queue to their queue, after the cause has been fixed.

    An event that is still unreadable returns to the dead-letter queue with its reason.
    """
    from classfeed_dagster.repair import consent_events
    from classfeed_dagster.settings import get_settings

    moved = consent_events.redrive(consent_events.Queues.of(get_settings()))
    out.print(f"{counted(moved, 'event')} returned to the queue")


def worker(
    name: Annotated[str, typer.Option(help="Name in the runs' logs; unique among the workers.")] = "classfeed",
    queue: Annotated[list[str] | None, typer.Option(help="Queue that it takes steps from; may be repeated.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of steps at a time, each in its own process.")] = 1,
) -> None:
    """Run a Celery worker, which executes steps of other machines' runs, until Ctrl-C. See docs/workers.md.

    It needs the broker, bigsite, the object store and Dagster's database.
    """
    from classfeed_dagster.orchestration.celery_executor import QUEUE, application
    from classfeed_dagster.settings import get_settings

    queues = ",".join(queue or [QUEUE])
    arguments = ["--hostname", f"{name}@%h", "--queues", queues, "--concurrency", str(concurrency)]
    application(get_settings()).worker_main(
        ["worker", *arguments, "--loglevel", "INFO", "--without-mingle", "--without-gossip"]
    )


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
