"""Sensor of a recipient's inbox."""

import hashlib

import dagster as dg

from classfeed_dagster.acknowledgements.inbox import inbox_keys
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact
from classfeed_dagster.repair.decisions import RunState, another_attempt
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.tags import CODE_VERSION_TAG, INBOX_TAG

_EVERY_SECONDS = 120


def acknowledgement_sensor(feed_context: FeedContext, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that requests a reading of the inbox for each state of its keys. It reads no message.

    A reading that failed is requested again after a wait, as repair does with a delivery.
    """
    name = feed_context.feed.name
    job = f"{name}_acknowledgement_job"

    @dg.sensor(
        name=f"{name}_acknowledgements",
        job_name=job,
        minimum_interval_seconds=_EVERY_SECONDS,
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
            run_key=f"{name}-acknowledgements-{state}" + (f"-{len(attempts) + 1}" if attempts else ""),
            tags={INBOX_TAG: state, CODE_VERSION_TAG: runtime.settings.code_version},
        )
        return dg.SensorResult(run_requests=[request])

    return sensor
