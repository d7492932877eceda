"""Everything of this room that Dagster sees, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from classfeed_dagster.orchestration.assets.operations import (
    on_time_check,
    operation_assets,
    report_job,
    report_schedule,
    retention_job,
    retention_schedule,
)
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.sensors.metrics import measuring_sensor
from classfeed_dagster.orchestration.sensors.operations import expected_checks, operation_sensors

if TYPE_CHECKING:
    from dagster import UnresolvedAssetJobDefinition


def operation_definitions(
    parts: Sequence[FeedContext],
    feed_jobs: Sequence[UnresolvedAssetJobDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    *,
    running: bool,
    sensor_seconds: int,
) -> dg.Definitions:
    """Sensors, reports and housekeeping for the feeds of ``parts``.

    ``feed_jobs`` and ``checks`` are what the other rooms define; ``running``: sensors and schedules are on by default;
    ``sensor_seconds``: how often repair and alerts look.
    """
    on_time = [on_time_check(part) for part in parts]
    report, retention = report_job(), retention_job()
    return dg.Definitions(
        assets=operation_assets(parts),
        asset_checks=on_time,
        jobs=[report, retention],
        schedules=[report_schedule(report, running=running), retention_schedule(retention, running=running)],
        sensors=[
            *operation_sensors(
                [part.feed for part in parts],
                feed_jobs,
                expected_checks(parts, [*checks, *on_time]),
                running=running,
                seconds=sensor_seconds,
            ),
            measuring_sensor([part.feed for part in parts], running=running),
        ],
    )
