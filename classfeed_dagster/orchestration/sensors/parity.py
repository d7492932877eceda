"""Sensor that compares a delivered date with the old app's files once they arrive."""

import dagster as dg

from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.parity.run import to_compare
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.tags import parity_job_name

_EVERY_SECONDS = 300


def parity_sensor(feed_context: FeedContext, status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that requests a comparison of every recent date with both sides, once for each state of them.

    It acts on the current state, so that a missed tick has no effect.
    """
    feed, audience = feed_context.feed, feed_context.audience

    @dg.sensor(
        name=f"{feed.name}_parity",
        job_name=parity_job_name(feed.name),
        minimum_interval_seconds=_EVERY_SECONDS,
        description=f"Compares {feed.name} with the old app once its files exist under legacy/{feed.name}/<date>/.",
        default_status=status.sensor,
    )
    def sensor(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SensorResult:
        requests = [
            dg.RunRequest(run_key=f"{feed.name}-parity-{day.isoformat()}-{mark}", partition_key=day.isoformat())
            for day, mark in to_compare(runtime.store, feed, audience)
        ]
        if not requests:
            return dg.SensorResult(skip_reason=f"no date of {feed.name} has both its delivery and the old app's files")
        return dg.SensorResult(run_requests=requests)

    return sensor
