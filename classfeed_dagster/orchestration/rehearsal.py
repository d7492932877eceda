"""Rehearsal: simulated days through the real Dagster jobs, and the proof of the deliveries."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.run_date import RunReport, run_date
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.simulation.proof import Proof, delivered_pages, prove
from classfeed_dagster.simulation.recipient import DeliveredPage
from classfeed_dagster.tags import CLOCK_TAG, CORRELATION_TAG, new_correlation_id, reconciliation_job_name
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

    from classfeed_dagster.simulation.world import World

MORNING = dt.time(6, 0)


@dataclass(slots=True)
class Rehearsal:
    """Result of a rehearsal."""

    feed: str
    store_location: str
    runs: list[tuple[RunReport, float]] = field(default_factory=list)  # with their duration in seconds
    reasons: dict[str, str] = field(default_factory=dict)  # of each run, by its id
    proofs: list[Proof] = field(default_factory=list)
    held_back: list[tuple[str, str]] = field(default_factory=list)  # at the end: portfolio and reason
    example_transaction: str | None = None

    @property
    def proven(self) -> bool:
        """Return True if every run delivered or had no work, and every proof holds."""
        return all(report.outcome.exit_code == 0 for report, _ in self.runs) and all(p.holds for p in self.proofs)


def morning_after(day: dt.date) -> dt.datetime:
    """Return the start of the date's run: 06:00 Sydney on the next business day, in UTC."""
    morning = dt.datetime.combine(trading_days.next_business_day(day), MORNING, tzinfo=trading_days.SYDNEY)
    return morning.astimezone(dt.UTC)


def rehearse(
    definitions: Definitions,
    instance: DagsterInstance,
    runtime: Runtime,
    feed: Feed,
    world: World,
    dates: Sequence[dt.date],
    *,
    progress: Callable[[str], None] = lambda _: None,
    done: Callable[[], None] = lambda: None,
) -> Rehearsal:
    """Simulate ``dates`` in order, run the feed's job on each following morning, and prove the outcome.

    A date with portfolios held back for a rule is run again each morning, and then the later dates, as the repair
    sensor does. The last date is reconciled. ``progress`` receives each step's description, ``done`` is called after
    each date.
    """
    rehearsal = Rehearsal(feed.name, runtime.settings.store_location)

    def run(day: dt.date, now: dt.datetime, reason: str, *, fresh: bool = False) -> None:
        began = time.perf_counter()
        tags = {CLOCK_TAG: now.isoformat()}
        report = run_date(definitions, instance, feed.name, day, fresh_snapshot=fresh, tags=tags)
        rehearsal.runs.append((report, time.perf_counter() - began))
        rehearsal.reasons[report.run_id] = reason

    progress("writing customers and their history")
    world.seed(runtime.engine)
    for at, day in enumerate(dates):
        progress(f"{day}: simulating customers and bigsite's end of day")
        world.advance(runtime.engine, day)
        now = morning_after(day)
        if retried := [early for early in dates[:at] if _holds_back(runtime, feed, early)]:
            for early in dates[dates.index(retried[0]) : at]:
                progress(f"{early}: running again for portfolios held back")
                reason = "retry of held-back portfolios" if early in retried else "follows a retried date"
                run(early, now, reason, fresh=early in retried)
        progress(f"{day}: running the feed")
        run(day, now, "scheduled")
        done()
    progress("adding up the deliveries")
    pages = list(delivered_pages(runtime.store, feed, dates))
    rehearsal.proofs = prove(runtime.store, feed, world, dates[-1], pages)
    rehearsal.held_back = [
        (record.number, record.held_back.reason)
        for record in date_status(runtime.store, feed.name, dates[-1]).quarantined
    ]
    rehearsal.example_transaction = _example(pages)
    progress("reconciling the last date independently")
    rehearsal.proofs += _reconcile(definitions, instance, runtime, feed, dates[-1])
    return rehearsal


def _reconcile(
    definitions: Definitions, instance: DagsterInstance, runtime: Runtime, feed: Feed, day: dt.date
) -> list[Proof]:
    from classfeed_dagster.orchestration.code_location import runs_with_origin

    # The data team computes its metrics at eight in the morning; the job then reconciles and loads the delivery.
    audience = feed.audience(runtime.settings.first_business_date)
    now = morning_after(day) + dt.timedelta(hours=2)
    previous = audience.previous(day) or trading_days.previous_business_day(day)
    metrics = data_team_metrics(runtime.engine, feed.recipient, day, previous)
    with open_warehouse(runtime.settings) as connection:
        publish_metrics(connection, feed.recipient, day, metrics, now)
    job = reconciliation_job_name(feed.name)
    with runs_with_origin(instance, job):
        result = definitions.resolve_job_def(job).execute_in_process(
            partition_key=day.isoformat(),
            instance=instance,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={CLOCK_TAG: now.isoformat(), CORRELATION_TAG: new_correlation_id()},
        )
    proofs: list[Proof] = []
    for side, other in ((Side.SOURCE, "bigsite"), (Side.DATA_TEAM, "the data team's metrics")):
        summary = runtime.find_reference(side.reference(feed.name), day, ReconciliationSummary)
        if summary is None:
            proofs.append(Proof(f"reconciliation with {other}: the run {result.run_id} failed", False))
            continue
        breaks = (
            f"{counted(summary.breaks, 'break')}, {summary.unexplained} unexplained" if summary.breaks else "no break"
        )
        holds = not summary.errors and not summary.unexplained
        proofs.append(
            Proof(f"reconciliation with {other}: {breaks}; report {runtime.store.location(summary.report)}", holds)
        )
    return proofs


def _holds_back(runtime: Runtime, feed: Feed, day: dt.date) -> bool:
    quarantined = date_status(runtime.store, feed.name, day).quarantined
    return any(record.held_back.kind == "RULE" for record in quarantined)


def _example(pages: Sequence[DeliveredPage]) -> str | None:
    # The last contract note sent.
    for page in reversed(pages):
        ids = page.frames["movement_transactions"]["transaction_id"]
        if trades := [name for name in ids if name.startswith("T")]:
            return str(trades[-1])
    return None
