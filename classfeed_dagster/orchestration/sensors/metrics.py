"""Measures what the feeds did and how they stand, for dashboards and alarms: from the store, never from memory."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import dagster as dg

from classfeed_dagster.bigsite.snapshot import latest_snapshot
from classfeed_dagster.delivery.delivery_history import delivered_dates, wherever
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feed_run.post_delivery import Assured
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.run_date import LAUNCHED_BY_TAG, REPAIR, job_name
from classfeed_dagster.repair.facts import deliveries, is_live
from classfeed_dagster.runtime import CORRELATION_TAG, NotBuiltError, Runtime
from classfeed_dagster.service_levels.due import Due, latest_due
from classfeed_dagster.service_levels.heartbeats import beat
from classfeed_dagster.service_levels.metrics import emit
from classfeed_dagster.service_levels.service_levels import Punctuality, attainment
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.records import Side

LOOK_BACK = 10
# A morning is forecast from this long before its target on, by the median of so many dates, if there are some.
FORECAST_AHEAD = dt.timedelta(minutes=90)
FORECAST_DATES = 20
FORECAST_FROM = 5
Values = dict[str, int | float]


def of_delivery(manifest: Manifest) -> Values:
    """The figures of one delivery."""
    return {
        "documents": len(manifest.pages),
        "portfolios": len(manifest.portfolios),
        "rows": sum(manifest.counts.values()),
        "bytes": sum(page.bytes for page in manifest.pages),
        # Both instants are bigsite's own.
        "date_seconds": (manifest.consent_checked_at - manifest.snapshot.snapshot_at).total_seconds(),
    }


def of_stages(instance: dg.DagsterInstance, feed: Feed, manifest: Manifest) -> Mapping[str, float]:
    """Seconds that each step took of the runs that made a delivery, by the step's name without the feed's."""
    seconds: dict[str, float] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={CORRELATION_TAG: manifest.correlation_id})):
        for step in instance.get_run_step_stats(run.run_id):
            if step.start_time is not None and step.end_time is not None:
                asset = step.step_key.partition(".")[0]  # several steps make one asset of a great date
                stage = asset.removeprefix(f"{feed.name}__")
                seconds[stage] = seconds.get(stage, 0.0) + round(step.end_time - step.start_time, 3)
    return seconds


def of_feed(runtime: Runtime, feed: Feed, now: dt.datetime, tries: Callable[[dt.date], int]) -> Values:
    """How a feed stands ``now`` (UTC): what is held back, what reconciliation found, what is late or will be.

    ``tries`` says how often repair tried a date.
    """
    store, settings = runtime.store, runtime.settings
    audience = feed.audience(settings.first_business_date)
    judged = attainment(store, feed, audience, now, days=1).judged
    # What is rehearsed in the shadow, or switched off, is late for nobody.
    dues = latest_due(feed, audience, now + FORECAST_AHEAD, LOOK_BACK) if is_live(feed, settings.env) else ()
    missing = [one for one in dues if not deliveries(store, feed, one.business_date)]
    values: Values = {
        "held_back": len(held(store, feed.name)),
        "targets_missed": sum(one.verdict is not Punctuality.ON_TARGET for one in judged),
        "deadlines_missed": sum(one.verdict in (Punctuality.LATE, Punctuality.MISSING) for one in judged),
        "overdue_seconds": max((0.0, *((now - one.deadline_at).total_seconds() for one in missing))),
        "expected_late_seconds": expected_late(runtime, feed, missing, now),
        "repair_attempts": max((0, *(tries(one.business_date) for one in missing if one.starts_at <= now))),
    }
    days = delivered_dates(store, feed.name)
    if days:
        sent = deliveries(store, feed, days[-1])
        if sent:
            values["newest_delivery_age_seconds"] = (now - sent[-1].delivered_at).total_seconds()
        values["breaks"] = sum(_breaks(runtime, feed, days[-1], side) for side in Side)
    return values


def expected_late(runtime: Runtime, feed: Feed, missing: Sequence[Due], now: dt.datetime) -> float:
    """Seconds by which the worst of the ``missing`` dates will be past its target, if it takes as long as most did.

    A date takes the median of the last dates, from bigsite's snapshot on; one that has none yet can have it now at the
    earliest. 0 while the target is far, and while there is too little to go by.
    """
    close = [one for one in missing if one.target_at - FORECAST_AHEAD <= now]
    if not close:
        return 0.0
    took = _durations(runtime.store, feed)
    if len(took) < FORECAST_FROM:
        return 0.0
    usual = dt.timedelta(seconds=statistics.median(took))
    audience = feed.audience(runtime.settings.first_business_date)
    worst = 0.0
    for one in close:
        landed = latest_snapshot(runtime.store, one.business_date, [audience])
        begun = landed.snapshot_at if landed is not None else max(now, one.starts_at)
        worst = max(worst, (max(now, begun + usual) - one.target_at).total_seconds())
    return worst


def _durations(store: ObjectStore, feed: Feed) -> list[float]:
    # First deliveries alone: a re-issue is of few portfolios, or waited for somebody.
    firsts = (deliveries(store, feed, day)[:1] for day in delivered_dates(store, feed.name)[-FORECAST_DATES:])
    return [(one.delivered_at - one.snapshot_at).total_seconds() for first in firsts for one in first]


def _breaks(runtime: Runtime, feed: Feed, day: dt.date, side: Side) -> int:
    try:
        return runtime.load_reference(f"{feed.name}/{side.value}_reconciliation", day, Assured).breaks
    except NotBuiltError:
        return 0  # not reconciled yet: its own sensor and alert see to that


def new_deliveries(runtime: Runtime, feed: Feed, after: int) -> Iterator[Manifest]:
    """The feed's deliveries of its last dates that stand after place ``after`` of its chain, in the chain's order."""
    view = wherever(runtime.store, feed.name)
    found = [
        manifest
        for day in delivered_dates(runtime.store, feed.name)[-LOOK_BACK:]
        for manifest in delivered_state(view, feed.name, day).deliveries
        if manifest.chain_position > after
    ]
    yield from sorted(found, key=lambda manifest: manifest.chain_position)


def measuring_sensor(feeds: Sequence[Feed], *, running: bool) -> dg.SensorDefinition:
    """Every minute: new deliveries once each, and how every feed stands, as CloudWatch's embedded metrics."""

    @dg.sensor(
        name="measures",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Writes the feeds' figures for dashboards and alarms to standard output.",
    )
    def measures(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        now = runtime.settings.now or dt.datetime.now(dt.UTC)
        env = runtime.settings.env.value
        told = dict(part.split("=") for part in (context.cursor or "").split()) if context.cursor else {}
        for feed in feeds:

            def tries(day: dt.date, feed: Feed = feed) -> int:
                tags = {"dagster/partition": day.isoformat(), LAUNCHED_BY_TAG: REPAIR}
                return context.instance.get_runs_count(dg.RunsFilter(job_name=job_name(feed.name), tags=tags))

            for manifest in new_deliveries(runtime, feed, int(told.get(feed.name, 0))):
                correlation_id = manifest.correlation_id
                values = {**of_delivery(manifest), "repair_attempts": tries(manifest.business_date)}
                emit(values, env=env, feed=feed.name, at=now, correlation_id=correlation_id)
                for stage, seconds in of_stages(context.instance, feed, manifest).items():
                    emit(
                        {"stage_seconds": seconds},
                        env=env,
                        feed=feed.name,
                        at=now,
                        correlation_id=correlation_id,
                        stage=stage,
                    )
                told[feed.name] = str(manifest.chain_position)
            emit(of_feed(runtime, feed, now, tries), env=env, feed=feed.name, at=now)
        context.update_cursor(" ".join(f"{name}={position}" for name, position in sorted(told.items())))
        beat(runtime.store, "measures", now)
        return dg.SkipReason(f"figures of {len(feeds)} feed(s) written")

    return measures
