"""Sensor that compares a delivered date with the old app's files once they arrive."""

import dagster as dg

from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact, runs_by_date
from classfeed_dagster.parity.run import to_compare
from classfeed_dagster.repair.decisions import RunState, another_attempt
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.tags import CODE_VERSION_TAG, COMPARED_TAG, parity_job_name

_EVERY_SECONDS = 300


def parity_sensor(feed_context: FeedContext, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that requests a comparison of every recent date with both sides, once for each state of them.

    It acts on the current state, so that a missed tick has no effect. A comparison that failed is requested again after
    a wait, as repair does with a delivery.
    """
    feed, audience = feed_context.feed, feed_context.audience
    job = parity_job_name(feed.name)

    @dg.sensor(
        name=f"{feed.name}_parity",
        job_name=job,
        minimum_interval_seconds=_EVERY_SECONDS,
        description=f"Compares {feed.name} with the old app once its files exist under legacy/{feed.name}/DATE/.",
        default_status=status.sensor,
    )
    def sensor(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SensorResult:
        now, states = utc_now(runtime.settings.now), dict(to_compare(runtime.store, feed, audience))
        if not states:
            return dg.SensorResult(skip_reason=f"no date of {feed.name} has both its delivery and the old app's files")
        runs = runs_by_date(context.instance, states)
        requests: list[dg.RunRequest] = []
        for day, state in states.items():
            attempts = [run for run in runs.get(day, ()) if run.dagster_run.tags.get(COMPARED_TAG) == state]
            last = run_fact(context.instance, attempts[-1], now) if attempts else None
            if last is not None and last.state is RunState.SUCCEEDED:
                continue
            if another_attempt(last, len(attempts), job, day, runtime.settings, now):
                key = f"{feed.name}-parity-{day.isoformat()}-{state}" + (f"-{len(attempts) + 1}" if attempts else "")
                tags = {COMPARED_TAG: state, CODE_VERSION_TAG: runtime.settings.code_version}
                requests.append(dg.RunRequest(run_key=key, partition_key=day.isoformat(), tags=tags))
        if not requests:
            return dg.SensorResult(skip_reason="every date is compared, being compared, or waits for its next attempt")
        return dg.SensorResult(run_requests=requests)

    return sensor
