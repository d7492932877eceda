"""Run events for an OpenLineage collector, through dagster-openlineage, an extra of this project."""

from __future__ import annotations

import os

import dagster as dg

from classfeed_dagster.orchestration.optional_dependencies import extra_needed
from classfeed_dagster.settings import Settings


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
