"""Sensor that starts reconciliation of each delivered date."""

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.alerting.reconciliation_alerts import failed_dates, report_failed
from classfeed_dagster.delivery.delivery_history import chain_dates, delivered_dates, live_and_shadow
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.asset_keys import DATA_TEAM_RECONCILIATION
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact
from classfeed_dagster.repair.decisions import RunState, another_attempt
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.service_levels.service_levels import latest_due
from classfeed_dagster.tags import (
    BUILD_ID_TAG,
    CODE_VERSION_TAG,
    CORRELATION_TAG,
    PARTITION_TAG,
    new_correlation_id,
    reconciliation_job_name,
)

_LOOK_BACK = 10
_PLACES = 25  # of the chain, at the cursor and at its end, that a tick examines for older dates
_AT_ONCE = 10  # unfinished runs of a feed, so that many dates do not fill the queue before a delivery


def dates_to_reconcile(runtime: Runtime, feed: str, days: Sequence[dt.date]) -> list[tuple[dt.date, str]]:
    """Return the delivered dates whose latest delivery is not reconciled, with that delivery's build."""
    pending: list[tuple[dt.date, str]] = []
    for day in days:
        latest = delivered_state(live_and_shadow(runtime.store, feed), feed, day).latest
        if latest is None:
            continue
        known = runtime.find_reference(f"{feed}/{DATA_TEAM_RECONCILIATION}", day, ReconciliationSummary)
        if known is None or known.stopped or known.build_id != latest.build_id:
            pending.append((day, latest.build_id))
    return pending


def _reconciled_up_to(reached: int, places: Mapping[int, dt.date], pending: Collection[dt.date]) -> int:
    # The place of the chain up to which every date is reconciled. The last one may not have its manifest yet.
    last = max(places, default=0)
    while (place := reached + 1) < last and place in places and places[place] not in pending:
        reached = place
    return reached


def reconciliation_sensor(feed_context: FeedContext, job: Any, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that starts reconciliation of delivered dates that lack it."""

    # It acts on the current state of deliveries and reconciliations. Each attempt has its own key. While a failed date
    # is retried or waits for its retry, later dates wait: one attempt at a time probes a service that may be down.
    # The cursor is the place of the chain up to which every delivered date is reconciled. A date whose attempts failed
    # for good is in an incident, and examined, until it is reconciled.
    @dg.sensor(
        name=f"{feed_context.feed.name}_reconciliation_sensor",
        job=job,
        minimum_interval_seconds=120,
        default_status=status.sensor,
        description="Starts reconciliation and the warehouse load for every delivered date that lacks them.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        feed, now = feed_context.feed.name, utc_now(runtime.settings.now)
        reached = int(context.cursor) if context.cursor and context.cursor.isdecimal() else 0
        places = chain_dates(runtime.store, feed, reached, _PLACES)
        failed = {*failed_dates(runtime.store, feed)}
        days = sorted({*delivered_dates(runtime.store, feed)[-_LOOK_BACK:], *places.values(), *failed})
        pending = dates_to_reconcile(runtime, feed, days)
        context.update_cursor(str(_reconciled_up_to(reached, places, {day for day, _ in pending})))
        failed &= {day for day, _ in pending}
        requested = unfinished = 0
        for day, build_id in pending:
            if requested + unfinished >= _AT_ONCE:
                break
            before = context.instance.get_run_records(
                dg.RunsFilter(job_name=reconciliation_job_name(feed), tags={PARTITION_TAG: day.isoformat()}),
                ascending=True,
            )
            if any(not record.dagster_run.is_finished for record in before):
                unfinished += 1
                continue
            attempts = [run for run in before if run.dagster_run.tags.get(BUILD_ID_TAG) == build_id]
            last = run_fact(context.instance, attempts[-1], now) if attempts else None
            verdict = another_attempt(last, len(attempts), str(job.name), day, runtime.settings, now)
            if verdict is None:
                break
            if not verdict:
                change = failed.add if last is not None and last.state is RunState.FAILED else failed.discard
                change(day)
                continue
            requested += 1
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
        dues = latest_due(feed_context.feed, feed_context.audience, now, runtime.settings.repair_dates)
        report_failed(runtime, feed, failed, {each.business_date for each in dues})
        if not requested:
            yield dg.SkipReason("every delivered date is reconciled, being reconciled, or waiting for its next attempt")

    return sensor
