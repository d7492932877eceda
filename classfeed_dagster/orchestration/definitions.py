"""Assembly of every Dagster definition. Loads with nothing reachable and no secret set."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from classfeed_dagster.alerting.schema_alerts import tell_of_schema
from classfeed_dagster.documents.lineage import column_exports
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed, audiences_of, require_distinct
from classfeed_dagster.orchestration.assets.domains import audience_names, domain_assets
from classfeed_dagster.orchestration.assets.feeds import feed_assets, legacy_assets
from classfeed_dagster.orchestration.assets.landing import landing_assets, source_assets
from classfeed_dagster.orchestration.assets.reconciliation import assurance_definitions
from classfeed_dagster.orchestration.assets.simulation import simulation_definitions
from classfeed_dagster.orchestration.checks.domains import domain_checks
from classfeed_dagster.orchestration.checks.feeds import consent_check, feed_checks
from classfeed_dagster.orchestration.checks.source import schema_definitions, values_check
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.jobs import executor_called, feed_job
from classfeed_dagster.orchestration.operations import operation_definitions
from classfeed_dagster.orchestration.partitions import business_date_partitions
from classfeed_dagster.orchestration.schedules import morning_schedule
from classfeed_dagster.orchestration.sensors.parity import parity_job, parity_sensor
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment


def build_definitions(runtime: Runtime | None = None, feeds: Sequence[Feed] | None = None) -> dg.Definitions:
    """Everything that Dagster sees, for the given runtime (default: this process's settings) and feeds (default: all).

    Tests and the command line build the same graph as production, with another runtime.
    """
    runtime = runtime or Runtime()
    feeds = FEEDS if feeds is None else require_distinct(feeds)
    settings = runtime.settings
    start_flags(settings, feeds)
    audiences = audiences_of(feeds, settings.first_business_date)
    names = audience_names(audiences)
    partitions_def = business_date_partitions(min(audience.first_business_date for audience in audiences))
    fan_out = settings.executor != "in_process"  # where one process does everything, there is nobody to share with
    parts = [
        FeedContext(feed, audience, names[audience.key], partitions_def, feeds, fan_out)
        for feed in feeds
        for audience in (feed.audience(settings.first_business_date),)
    ]
    legacy = [part for part in parts if part.feed.legacy]
    running = settings.env is not Environment.LOCAL
    executor = executor_called(settings.executor)
    feed_jobs = [feed_job(part.feed, settings.code_version, executor) for part in parts]
    checks = [
        values_check(column_exports),
        *(check for audience in audiences for check in domain_checks(audience, names[audience.key])),
        *(consent_check(audience, names[audience.key]) for audience in audiences),
        *(check for part in parts for check in feed_checks(part)),
    ]
    feeding = dg.Definitions(
        assets=[
            *source_assets(),
            landing_assets(audiences, partitions_def, column_exports, feeds),
            *(
                asset
                for audience in audiences
                for asset in domain_assets(audience, names[audience.key], partitions_def, fan_out=fan_out)
            ),
            *(asset for part in parts for asset in feed_assets(part)),
            *(asset for part in parts for asset in legacy_assets(part)),
        ],
        asset_checks=checks,
        jobs=[*feed_jobs, *map(parity_job, legacy)],
        schedules=[morning_schedule(part.feed, part.audience, running=running) for part in parts],
        sensors=[parity_sensor(part, running=running) for part in legacy],
        resources={"runtime": runtime},
        executor=executor,
    )
    return dg.Definitions.merge(
        feeding,
        operation_definitions(parts, feed_jobs, checks, running=running, sensor_seconds=settings.sensor_seconds),
        schema_definitions(column_exports, tell_of_schema, running=running),
        simulation_definitions(settings, partitions_def),
        assurance_definitions(parts, running=running),
    )
