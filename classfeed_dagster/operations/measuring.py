"""Measures what the feeds did and how they stand, for dashboards and alarms: from the store, never from memory."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
from collections.abc import Iterator, Sequence

import dagster as dg

from classfeed_dagster.delivery.look import delivered_dates
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feeds.assurance import Assured
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.operations.heartbeats import beat
from classfeed_dagster.operations.metrics import emit
from classfeed_dagster.operations.runs import LAUNCHED_BY_TAG, REPAIR, job_name
from classfeed_dagster.operations.service_levels import Punctuality, attainment
from classfeed_dagster.runtime import NotBuiltError, Runtime
from classfeed_dagster.warehouse.records import Side

LOOK_BACK = 10
Values = dict[str, int | float]


def of_delivery(manifest: Manifest) -> Values:
    """The figures of one delivery."""
    return {
        "documents": len(manifest.pages),
        "portfolios": len(manifest.portfolios),
        "rows": sum(manifest.counts.values()),
        "bytes": sum(page.bytes for page in manifest.pages),
        # Both instants are bigsite's own.
        "stage_seconds": (manifest.consent_checked_at - manifest.snapshot.snapshot_at).total_seconds(),
    }


def of_feed(runtime: Runtime, feed: Feed, now: dt.datetime) -> Values:
    """How a feed stands ``now`` (UTC): what is held back, what reconciliation found, what was late yesterday."""
    store = runtime.store
    audience = feed.audience(runtime.settings.first_business_date)
    judged = attainment(store, feed, audience, now, days=1).judged
    values: Values = {
        "held_back": len(held(store, feed.name)),
        "targets_missed": sum(one.verdict is not Punctuality.ON_TARGET for one in judged),
        "deadlines_missed": sum(one.verdict in (Punctuality.LATE, Punctuality.MISSING) for one in judged),
    }
    days = delivered_dates(store, feed.name)
    if days:
        latest = delivered_state(store, feed.name, days[-1]).latest
        if latest is not None:
            values["newest_delivery_age_seconds"] = (now - latest.consent_checked_at).total_seconds()
        values["breaks"] = sum(_breaks(runtime, feed, days[-1], side) for side in Side)
    return values


def _breaks(runtime: Runtime, feed: Feed, day: dt.date, side: Side) -> int:
    try:
        return runtime.load_reference(f"{feed.name}/{side.value}_reconciliation", day, Assured).breaks
    except NotBuiltError:
        return 0  # not reconciled yet: its own sensor and alert see to that


def new_deliveries(runtime: Runtime, feed: Feed, after: int) -> Iterator[Manifest]:
    """The feed's deliveries of its last dates that stand after place ``after`` of its chain, in the chain's order."""
    found = [
        manifest
        for day in delivered_dates(runtime.store, feed.name)[-LOOK_BACK:]
        for manifest in delivered_state(runtime.store, feed.name, day).deliveries
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
            for manifest in new_deliveries(runtime, feed, int(told.get(feed.name, 0))):
                tags = {"dagster/partition": manifest.business_date.isoformat(), LAUNCHED_BY_TAG: REPAIR}
                attempts = context.instance.get_runs_count(dg.RunsFilter(job_name=job_name(feed.name), tags=tags))
                emit(
                    {**of_delivery(manifest), "repair_attempts": attempts},
                    env=env,
                    feed=feed.name,
                    at=now,
                    correlation_id=manifest.correlation_id,
                )
                told[feed.name] = str(manifest.chain_position)
            emit(of_feed(runtime, feed, now), env=env, feed=feed.name, at=now)
        context.update_cursor(" ".join(f"{name}={position}" for name, position in sorted(told.items())))
        beat(runtime.store, "measures", now)
        return dg.SkipReason(f"figures of {len(feeds)} feed(s) written")

    return measures
