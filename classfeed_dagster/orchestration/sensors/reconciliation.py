"""Sensor that starts reconciliation of each delivered date."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.delivery.delivery_history import delivered_dates, live_and_shadow
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.asset_keys import DATA_TEAM_RECONCILIATION
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact
from classfeed_dagster.repair.decisions import another_attempt
from classfeed_dagster.runtime import NotBuiltError, Runtime, utc_now
from classfeed_dagster.tags import (
    BUILD_ID_TAG,
    CODE_VERSION_TAG,
    CORRELATION_TAG,
    PARTITION_TAG,
    new_correlation_id,
    reconciliation_job_name,
)

_LOOK_BACK = 10


def dates_to_reconcile(runtime: Runtime, feed: str, days: Sequence[dt.date]) -> list[tuple[dt.date, str]]:
    """Of some delivered dates those whose latest delivery has not been proven, with that delivery's build."""
    waiting: list[tuple[dt.date, str]] = []
    for day in days:
        latest = delivered_state(live_and_shadow(runtime.store, feed), feed, day).latest
        if latest is None:
            continue
        try:
            known = runtime.load_reference(f"{feed}/{DATA_TEAM_RECONCILIATION}", day, ReconciliationSummary)
        except NotBuiltError:
            waiting.append((day, latest.build_id))
        else:
            if known.stopped or known.build_id != latest.build_id:
                waiting.append((day, latest.build_id))
    return waiting


def reconciliation_sensor(part: FeedContext, job: Any, *, running: bool) -> dg.SensorDefinition:
    """Return the sensor that starts reconciliation of delivered dates that lack it."""

    # Level-triggered: looks at what is delivered and what is proven. Each attempt has a key of its own. While one is
    # under way again after a failure, or waits for it, later dates wait too: one at a time probes what may be down.
    @dg.sensor(
        name=f"{part.feed.name}_reconciliation_sensor",
        job=job,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Starts reconciliation and the warehouse load for every delivered date that lacks them.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        days = delivered_dates(runtime.store, part.feed.name)[-_LOOK_BACK:]
        asked = 0
        for day, build_id in dates_to_reconcile(runtime, part.feed.name, days):
            before = context.instance.get_run_records(
                dg.RunsFilter(job_name=reconciliation_job_name(part.feed.name), tags={PARTITION_TAG: day.isoformat()}),
                ascending=True,
            )
            if any(not record.dagster_run.is_finished for record in before):
                continue
            attempts = [one for one in before if one.dagster_run.tags.get(BUILD_ID_TAG) == build_id]
            now = utc_now(runtime.settings.now)
            last = run_fact(context.instance, attempts[-1], now) if attempts else None
            verdict = another_attempt(last, len(attempts), str(job.name), day, runtime.settings, now)
            if verdict is None:
                break
            if not verdict:
                continue
            asked += 1
            yield dg.RunRequest(
                run_key=f"{build_id}-{len(attempts) + 1}",
                partition_key=day.isoformat(),
                tags={
                    CORRELATION_TAG: new_correlation_id(),
                    BUILD_ID_TAG: build_id,
                    CODE_VERSION_TAG: runtime.settings.code_version,
                },
            )
            if attempts:
                break
        if not asked:
            yield dg.SkipReason("every delivered date is proven, being proven, or waits for its next attempt")

    return sensor
