"""The commands of operation: the watchdog outside Dagster, putting dead letters back, and a worker for steps."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from classfeed_dagster.alerting.watchdog import watchdog_incident

out = Console()


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(watchdog)
    app.command()(redrive)
    app.command()(worker)


def watchdog(
    tell: Annotated[bool, typer.Option(help="Tell Slack and PagerDuty; without tokens, the log.")] = True,
    sensors: Annotated[bool, typer.Option(help="Also ask for the sensors' signs of life.")] = True,
) -> None:
    """Is every due manifest there? Needs the object store alone: neither Dagster nor bigsite. For cron or EventBridge.

    Exit code 3 if a live feed's business date is past its deadline without a manifest, or a sensor is silent.
    """
    from classfeed_dagster.alerting import incidents, pagerduty, slack
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
    for one in missing:
        out.print(
            f"[red]missing[/]  {one.feed} {one.due.business_date}, due by {one.due.deadline_at:%Y-%m-%d %H:%M} UTC"
        )
    for what in silent:
        out.print(f"[red]silent[/]   {what}", highlight=False)
    incident = watchdog_incident(missing, silent)
    if tell:
        speaks = (slack.messenger(settings), pagerduty.pager(settings))
        incidents.sync_incidents(store, [] if incident is None else [incident], speaks, now, only=incidents.WATCHDOG)
    if incident is not None:
        raise typer.Exit(3)
    out.print("[green]nothing is missing[/]", highlight=False)


def redrive() -> None:
    """Put consent events from the dead-letter queue back on their queue, once what made them unreadable is mended.

    One that is still unreadable comes back with its reason.
    """
    from classfeed_dagster.repair import consent_events
    from classfeed_dagster.settings import get_settings

    moved = consent_events.redrive(consent_events.Queues.of(get_settings()))
    out.print(f"{moved} event(s) put back on the queue", highlight=False)


def worker(
    name: Annotated[str, typer.Option(help="Its name in runs' logs, unlike that of every other worker.")] = "classfeed",
    queue: Annotated[list[str] | None, typer.Option(help="A queue that it takes steps from; may be repeated.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many steps at once, each in a process of its own.")] = 1,
) -> None:
    """Do the steps of other machines' runs, until Ctrl-C: a Celery worker. See docs/workers.md.

    It needs the broker, bigsite, the object store and Dagster's database, and no disk but for temporary files.
    """
    from classfeed_dagster.orchestration.celery_executor import QUEUE, application
    from classfeed_dagster.settings import get_settings

    queues = ",".join(queue or [QUEUE])
    arguments = ["--hostname", f"{name}@%h", "--queues", queues, "--concurrency", str(concurrency)]
    application(get_settings()).worker_main(
        ["worker", *arguments, "--loglevel", "INFO", "--without-mingle", "--without-gossip"]
    )
