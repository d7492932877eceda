"""Sensors of files that others write: a recipient's messages in the inbox, and the old app's files."""

import hashlib

import dagster as dg

from classfeed_dagster.acknowledgements.inbox import inbox_keys
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact, runs_by_date
from classfeed_dagster.parity.run import to_compare
from classfeed_dagster.repair.decisions import RunState, another_attempt
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.tags import CODE_VERSION_TAG, COMPARED_TAG, INBOX_TAG, parity_job_name

_INBOX_SECONDS = 120


def acknowledgement_sensor(feed_context: FeedContext, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that requests a reading of the inbox for each state of its keys. It reads no message.

    A reading that failed is requested again after a wait, as repair does with a delivery.
    """
    name = feed_context.feed.name
    job = f"{name}_acknowledgement_job"

    @dg.sensor(
        name=f"{name}_acknowledgements",
        job_name=job,
        minimum_interval_seconds=_INBOX_SECONDS,
        description=f"Reads {feed_context.feed.recipient}'s messages under acknowledgements/{name}/ as they arrive.",
        default_status=status.sensor,
    )
    def sensor(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SensorResult:
        keys = inbox_keys(runtime.store, name)
        if not keys:
            return dg.SensorResult(skip_reason=f"the inbox of {name} is empty")
        state = hashlib.sha256("\n".join(keys).encode(errors="backslashreplace")).hexdigest()[:16]
        now = utc_now(runtime.settings.now)
        attempts = context.instance.get_run_records(
            dg.RunsFilter(job_name=job, tags={INBOX_TAG: state}), ascending=True
        )
        last = run_fact(context.instance, attempts[-1], now) if attempts else None
        if last is not None and last.state is RunState.SUCCEEDED:
            return dg.SensorResult(skip_reason=f"the inbox of {name} is read")
        if not another_attempt(last, len(attempts), job, now.date(), runtime.settings, now):
            return dg.SensorResult(skip_reason=f"the inbox of {name} is being read, or waits for its next attempt")
        request = dg.RunRequest(
            run_key=_run_key(f"{name}-acknowledgements-{state}", len(attempts)),
            tags={INBOX_TAG: state, CODE_VERSION_TAG: runtime.settings.code_version},
        )
        return dg.SensorResult(run_requests=[request])

    return sensor


_LEGACY_SECONDS = 300


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
        minimum_interval_seconds=_LEGACY_SECONDS,
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
                key = _run_key(f"{feed.name}-parity-{day.isoformat()}-{state}", len(attempts))
                tags = {COMPARED_TAG: state, CODE_VERSION_TAG: runtime.settings.code_version}
                requests.append(dg.RunRequest(run_key=key, partition_key=day.isoformat(), tags=tags))
        if not requests:
            return dg.SensorResult(skip_reason="every date is compared, being compared, or waits for its next attempt")
        return dg.SensorResult(run_requests=requests)

    return sensor


def _run_key(state: str, attempts: int) -> str:
    return f"{state}-{attempts + 1}" if attempts else state
