"""Sensor that receives bigsite's consent events."""

import dagster as dg

from classfeed_dagster.alerting import alerts
from classfeed_dagster.alerting.incidents import raise_incident, settle_incident
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.step_context import current_time
from classfeed_dagster.repair import consent_events
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.wording import counted


def consent_sensor(status: DefaultStatus) -> dg.SensorDefinition:
    """Return the sensor that consumes the queue of consent events."""

    @dg.sensor(
        name="consent_events",
        minimum_interval_seconds=30,
        default_status=status.sensor,
        description="Reads bigsite's consent events from their queue. An event triggers a query; bigsite has the "
        "facts.",
    )
    def consent(context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]) -> dg.SkipReason:
        queues = consent_events.Queues.of(runtime.settings)
        if queues is None:
            return dg.SkipReason("no queue is set (CLASSFEED_CONSENT_QUEUE_URL)")
        batch = consent_events.consume(queues, runtime.store, current_time(runtime))
        for event in batch.events:
            get_logger().info("consent event", correlation_id=event.correlation_id, outcome=event.kind)
        waiting = queues.waiting_dead_letters()
        incident = alerts.dead_letters(waiting)
        if waiting:
            raise_incident(runtime.store, incident)
        else:
            settle_incident(runtime.store, incident.key)
        return dg.SkipReason(
            f"{counted(len(batch.events), 'event')}, {counted(batch.duplicates, 'duplicate')}, {batch.dead} unreadable"
        )

    return consent
