"""Sensor of a recipient's inbox."""

import hashlib

import dagster as dg

from classfeed_dagster.acknowledgements.inbox import inbox_keys
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.runtime import Runtime

_EVERY_SECONDS = 120


def acknowledgement_sensor(feed_context: FeedContext, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that requests a reading of the inbox for each state of its keys. It reads no message."""
    name = feed_context.feed.name

    @dg.sensor(
        name=f"{name}_acknowledgements",
        job_name=f"{name}_acknowledgement_job",
        minimum_interval_seconds=_EVERY_SECONDS,
        description=f"Reads {feed_context.feed.recipient}'s messages under acknowledgements/{name}/ as they arrive.",
        default_status=status.sensor,
    )
    def sensor(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SensorResult:
        keys = inbox_keys(runtime.store, name)
        if not keys:
            return dg.SensorResult(skip_reason=f"the inbox of {name} is empty")
        state = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"{name}-acknowledgements-{state}")])

    return sensor
