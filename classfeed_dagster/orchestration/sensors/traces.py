"""Sensors that send finished runs to an OpenTelemetry or OpenLineage collector, from Dagster's event log."""

import datetime as dt
import os
from collections.abc import Iterator

import dagster as dg

from classfeed_dagster.extras import extra_needed
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.settings import Settings
from classfeed_dagster.tags import CODE_VERSION_TAG, CORRELATION_TAG, FEED_TAG, PARTITION_TAG
from classfeed_dagster.telemetry import Span, send_spans, span_id, trace_id
from classfeed_dagster.wording import counted

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# A run is read once its changes have settled, so that none is stored behind the cursor.
_SETTLED = dt.timedelta(seconds=10)
_RUNS = 50
_ATTRIBUTES = {
    "classfeed.correlation_id": CORRELATION_TAG,
    "classfeed.feed": FEED_TAG,
    "classfeed.business_date": PARTITION_TAG,
    "classfeed.code_version": CODE_VERSION_TAG,
}


def tracing_sensors(settings: Settings, status: DefaultStatus) -> list[dg.SensorDefinition]:
    """Return the sensor that sends traces; none without a collector. It begins with the runs that end from now on."""
    if settings.otlp_endpoint is None:
        return []

    @dg.sensor(
        name="traces",
        minimum_interval_seconds=30,
        default_status=status.sensor,
        description="Sends finished runs and their steps to the OpenTelemetry collector.",
    )
    def traces(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        until = dt.datetime.now(dt.UTC) - _SETTLED
        since = _instant(context.cursor) or until
        ended = dg.RunsFilter(statuses=_ENDED, updated_after=since, updated_before=until)
        records = context.instance.get_run_records(ended, limit=_RUNS, order_by="update_timestamp", ascending=True)
        send_spans([span for record in records for span in spans_of(context.instance, record)])
        reached = records[-1].update_timestamp if len(records) == _RUNS else until
        context.update_cursor(reached.replace(tzinfo=dt.UTC).isoformat())
        return dg.SkipReason(f"{counted(len(records), 'run')} sent")

    return [traces]


def _instant(cursor: str | None) -> dt.datetime | None:
    # People may edit the cursor in the UI: an unreadable one counts as none.
    try:
        instant = dt.datetime.fromisoformat(cursor or "")
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def spans_of(instance: dg.DagsterInstance, record: dg.RunRecord) -> Iterator[Span]:
    """Yield the span of a finished run and one per started step, in the trace of the run's correlation id."""
    run = record.dagster_run
    created = record.create_timestamp.replace(tzinfo=dt.UTC).timestamp()
    trace = trace_id(run.tags.get(CORRELATION_TAG, run.run_id.replace("-", "")))
    attributes = {"dagster.run_id": run.run_id, "dagster.job": run.job_name, "dagster.status": run.status.value}
    attributes |= {name: run.tags[tag] for name, tag in _ATTRIBUTES.items() if tag in run.tags}
    started = record.start_time or created
    ended = max(started, record.end_time or started)
    failed = run.status is not dg.DagsterRunStatus.SUCCESS
    root = span_id(run.run_id)
    yield Span(run.job_name, trace, root, None, started, ended, failed, attributes)
    for step in instance.get_run_step_stats(run.run_id):
        if step.start_time is not None:
            failed = step.status is None or step.status.value != "SUCCESS"
            stopped = ended if step.end_time is None else step.end_time  # a lost worker records no end
            details = {**attributes, "dagster.step": step.step_key, "dagster.attempts": str(step.attempts)}
            yield Span(
                step.step_key,
                trace,
                span_id(run.run_id, step.step_key),
                root,
                step.start_time,
                stopped,
                failed,
                details,
            )


def run_event_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensor that sends starts and ends of runs, steps and assets; none without a collector.

    It is off until a person switches it on, and begins with the oldest event that Dagster keeps. ExecutorError names
    the extra if it is not installed.
    """
    if settings.openlineage_url is None:
        return []
    # The client library reads its own variables; variables that are already set take precedence.
    os.environ.setdefault("OPENLINEAGE_URL", settings.openlineage_url)
    os.environ.setdefault("OPENLINEAGE_NAMESPACE", "classfeed")
    with extra_needed("CLASSFEED_OPENLINEAGE_URL", "openlineage"):
        from dagster_openlineage import openlineage_sensor

        sensor: dg.SensorDefinition = openlineage_sensor(
            name="open_lineage",
            description="Sends starts and ends of runs, steps and assets to the OpenLineage collector.",
            include_asset_events=True,
        )
    return [sensor]
