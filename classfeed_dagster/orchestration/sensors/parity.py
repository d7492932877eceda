"""When an old app's file lands beside a delivered date, the two are compared without anyone asking."""

import dagster as dg

from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.parity.run import to_compare
from classfeed_dagster.runtime import Runtime

_EVERY_SECONDS = 300


def parity_sensor(parts: FeedContext, *, running: bool) -> dg.SensorDefinition:
    """Asks for a comparison of every recent date of which both sides are there, once for each state of the two.

    Looks at what is there, not at what has happened: a tick that was missed changes nothing. ``running``: on unless a
    person says otherwise.
    """
    feed, audience = parts.feed, parts.audience

    @dg.sensor(
        name=f"{feed.name}_parity",
        job_name=f"{feed.name}_parity_job",
        minimum_interval_seconds=_EVERY_SECONDS,
        description=f"Compares {feed.name} with the old app as soon as its files lie under legacy/{feed.name}/<date>/.",
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
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
