"""Sensor that emits the feeds' metrics for dashboards and alarms, from the object store."""

import datetime as dt
from collections.abc import Mapping, Sequence

import dagster as dg

from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.service_levels.heartbeats import record
from classfeed_dagster.service_levels.measurements import new_deliveries, of_delivery, of_feed
from classfeed_dagster.service_levels.metrics import PROJECT, emit
from classfeed_dagster.service_levels.owner_months import CURRENT_KEY, OwnerMonth
from classfeed_dagster.stored_records import find_record
from classfeed_dagster.tags import (
    CORRELATION_TAG,
    LAUNCHED_BY_TAG,
    PARTITION_TAG,
    REPAIR,
    executed_again,
    feed_job_name,
)
from classfeed_dagster.wording import counted

_OWNER = "@owner"  # position of the owner's numbers in the cursor, which no feed's name equals


def of_stages(instance: dg.DagsterInstance, feed: Feed, manifest: Manifest) -> Mapping[str, float]:
    """Return the seconds of each step in the runs of a delivery, by the step's name without the feed's."""
    seconds: dict[str, float] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={CORRELATION_TAG: manifest.correlation_id})):
        for step in instance.get_run_step_stats(run.run_id):
            if step.start_time is not None and step.end_time is not None:
                asset = step.step_key.partition(".")[0]  # a large date has several steps an asset
                stage = asset.removeprefix(f"{feed.name}__")
                seconds[stage] = seconds.get(stage, 0.0) + round(step.end_time - step.start_time, 3)
    return seconds


def _emit_owner(runtime: Runtime, env: str, positions: dict[str, str]) -> None:
    # The owner's numbers, once for each time that they were computed.
    month = find_record(runtime.store, OwnerMonth, CURRENT_KEY)
    if month is None:
        return
    at = month.computed_at.isoformat()
    if positions.get(_OWNER) != at:
        for figure in (figure for figure in month.figures if figure.number is not None):
            # CloudWatch's metrics are doubles. The exact figure is in the month's record.
            emit({figure.metric: float(figure.value)}, env=env, feed=figure.feed or PROJECT, at=month.computed_at)
    positions[_OWNER] = at


def _positions(cursor: str | None) -> dict[str, str]:
    # People may edit the cursor in the UI: an unreadable position counts as none.
    pairs = (part.partition("=") for part in (cursor or "").split())
    return {name: position for name, _, position in pairs if name == _OWNER or position.isdecimal()}


def measuring_sensor(feeds: Sequence[Feed], status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that emits each new delivery once, and every feed's state, as CloudWatch embedded metrics."""

    @dg.sensor(
        name="measures",
        minimum_interval_seconds=60,
        default_status=status.sensor,
        description="Writes the feeds' metrics for dashboards and alarms to standard output.",
    )
    def measures(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        now = utc_now(runtime.settings.now)
        env = runtime.settings.env.value
        positions = _positions(context.cursor)
        for feed in feeds:

            def tries(day: dt.date, feed: Feed = feed) -> int:
                tags = {PARTITION_TAG: day.isoformat(), LAUNCHED_BY_TAG: REPAIR}
                of_repair = dg.RunsFilter(job_name=feed_job_name(feed.name), tags=tags)
                return sum(not executed_again(run.tags) for run in context.instance.get_runs(of_repair))

            for manifest in new_deliveries(runtime, feed, int(positions.get(feed.name, 0))):
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
                positions[feed.name] = str(manifest.chain_position)
            emit(of_feed(runtime, feed, now, tries), env=env, feed=feed.name, at=now)
        _emit_owner(runtime, env, positions)
        context.update_cursor(" ".join(f"{name}={position}" for name, position in sorted(positions.items())))
        record(runtime.store, "measures", now)
        return dg.SkipReason(f"metrics of {counted(len(feeds), 'feed')} written")

    return measures
