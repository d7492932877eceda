"""Assembly of all Dagster definitions, and their partitions. It loads without any service or secret."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.feeds.feed import Feed, audiences_of, require_distinct
from classfeed_dagster.orchestration import jobs, schedules
from classfeed_dagster.orchestration.asset_keys import audience_names
from classfeed_dagster.orchestration.asset_policies import apply_policies, preview_features
from classfeed_dagster.orchestration.assets.acknowledgements import acknowledgement_assets
from classfeed_dagster.orchestration.assets.domains import domain_assets
from classfeed_dagster.orchestration.assets.feeds import feed_assets, legacy_assets
from classfeed_dagster.orchestration.assets.landing import landing_assets
from classfeed_dagster.orchestration.assets.operations import operation_assets
from classfeed_dagster.orchestration.assets.owner import owner_assets
from classfeed_dagster.orchestration.assets.reconciliation import data_team_asset, reconciliation_assets
from classfeed_dagster.orchestration.assets.simulation import recipients_asset, simulation_assets
from classfeed_dagster.orchestration.assets.source import schema_asset, source_assets
from classfeed_dagster.orchestration.assets.warehouse import warehouse_assets
from classfeed_dagster.orchestration.checks.domains import domain_checks
from classfeed_dagster.orchestration.checks.feeds import consent_check, feed_checks
from classfeed_dagster.orchestration.checks.landing import holders_check, values_check
from classfeed_dagster.orchestration.checks.operations import fresh_check, on_time_check
from classfeed_dagster.orchestration.checks.reconciliation import data_team_agrees_check, source_agrees_check
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.jobs import executor_called
from classfeed_dagster.orchestration.resources import runtime_resource, shown_resources
from classfeed_dagster.orchestration.sensors.alerts import alert_sensor, expected_checks
from classfeed_dagster.orchestration.sensors.consent_events import consent_sensor
from classfeed_dagster.orchestration.sensors.metrics import measuring_sensor
from classfeed_dagster.orchestration.sensors.received_files import acknowledgement_sensor, parity_sensor
from classfeed_dagster.orchestration.sensors.reconciliation import reconciliation_sensor
from classfeed_dagster.orchestration.sensors.repair import repair_sensor
from classfeed_dagster.orchestration.sensors.traces import run_event_sensors, tracing_sensors
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.trading_days import LAST_SUPPORTED, SYDNEY, is_business_day

if TYPE_CHECKING:
    from dagster import UnresolvedAssetJobDefinition


def build_definitions(runtime: Runtime | None = None, feeds: Sequence[Feed] | None = None) -> dg.Definitions:
    """Return all definitions for a runtime (default: this process's settings) and feeds (default: all).

    Tests and the command line build the same graph as production, with another runtime.
    """
    runtime = runtime or Runtime()
    feeds = FEEDS if feeds is None else require_distinct(feeds)
    settings = runtime.settings
    start_flags(settings, feeds)
    audiences = audiences_of(feeds, settings.first_business_date)
    names = audience_names(audiences)
    partitions_def = business_date_partitions(min(audience.first_business_date for audience in audiences))
    fan_out = settings.executor != "in_process"  # fanning out is useless in one process
    feed_contexts = [
        FeedContext(feed, audience, names[audience.key], partitions_def, feeds, fan_out)
        for feed in feeds
        for audience in (feed.audience(settings.first_business_date),)
    ]
    status = DefaultStatus.of(settings)
    executor = executor_called(settings.executor)
    feed_jobs = [jobs.feed_job(feed_context.feed, settings.code_version, executor) for feed_context in feed_contexts]
    with preview_features():  # partitioned checks
        checks = [
            values_check(column_exports, partitions_def),
            holders_check(partitions_def),
            *(
                check
                for audience in audiences
                for check in domain_checks(audience, names[audience.key], partitions_def)
            ),
            *(consent_check(audience, names[audience.key], partitions_def) for audience in audiences),
            *(check for feed_context in feed_contexts for check in feed_checks(feed_context)),
        ]
        definitions = dg.Definitions.merge(
            _export(runtime, feed_contexts, audiences, feed_jobs, checks, executor),
            _operations(runtime, feed_contexts, feed_jobs, checks, status),
            schema_definitions(status),
            simulation_definitions(settings, partitions_def, feeds),
            _reconciliation(feed_contexts, status),
        )
    return apply_policies(definitions, feeds)


def _export(
    runtime: Runtime,
    feed_contexts: Sequence[FeedContext],
    audiences: Sequence[RecipientSchedule],
    feed_jobs: Sequence[UnresolvedAssetJobDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    executor: dg.ExecutorDefinition,
) -> dg.Definitions:
    # From bigsite to the delivery, with the parity of feeds that replace an old app.
    status = DefaultStatus.of(runtime.settings)
    names, partitions_def, fan_out = audience_names(audiences), feed_contexts[0].partitions, feed_contexts[0].fan_out
    legacy = [feed_context for feed_context in feed_contexts if feed_context.feed.legacy]
    answered = [feed_context for feed_context in feed_contexts if feed_context.feed.acknowledgements is not None]
    return dg.Definitions(
        assets=[
            *source_assets(),
            landing_assets(audiences, partitions_def, column_exports, feed_contexts[0].feeds),
            *(
                asset
                for audience in audiences
                for asset in domain_assets(audience, names[audience.key], partitions_def, fan_out=fan_out)
            ),
            *(asset for feed_context in feed_contexts for asset in feed_assets(feed_context)),
            *(spec for feed_context in feed_contexts for spec in legacy_assets(feed_context)),
            *(asset for feed_context in feed_contexts for asset in acknowledgement_assets(feed_context)),
        ],
        asset_checks=checks,
        jobs=[*feed_jobs, *map(jobs.parity_job, legacy), *map(jobs.acknowledgement_job, answered)],
        schedules=[
            schedules.morning_schedule(feed_context.feed, feed_context.audience, status)
            for feed_context in feed_contexts
        ],
        sensors=[
            *(parity_sensor(feed_context, status) for feed_context in legacy),
            *(acknowledgement_sensor(feed_context, status) for feed_context in answered),
        ],
        resources={"runtime": runtime_resource(runtime), **shown_resources(runtime.settings)},
        executor=executor,
    )


def _operations(
    runtime: Runtime,
    feed_contexts: Sequence[FeedContext],
    feed_jobs: Sequence[UnresolvedAssetJobDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    status: DefaultStatus,
) -> dg.Definitions:
    feeds, on_time = (
        [feed_context.feed for feed_context in feed_contexts],
        [on_time_check(feed_context) for feed_context in feed_contexts],
    )
    fresh = [fresh_check(feed_context) for feed_context in feed_contexts]
    report, owner = jobs.report_job(fresh), jobs.owner_job()
    retention, audit = jobs.retention_job(), jobs.audit_job(feeds)
    seconds = runtime.settings.sensor_seconds
    return dg.Definitions(
        assets=[*operation_assets(feed_contexts), *owner_assets(feed_contexts)],
        asset_checks=[*on_time, *fresh],
        jobs=[report, owner, retention, audit],
        schedules=[
            schedules.report_schedule(report, status),
            schedules.owner_schedule(owner, status),
            schedules.retention_schedule(retention, status),
            schedules.audit_nightly(audit, status),
        ],
        sensors=[
            repair_sensor(feeds, feed_jobs, status, seconds),
            alert_sensor(feeds, expected_checks(feed_contexts, [*checks, *on_time]), status, seconds),
            consent_sensor(status),
            measuring_sensor(feeds, status),
            *run_event_sensors(runtime.settings),
            *tracing_sensors(runtime.settings, status),
        ],
    )


def schema_definitions(status: DefaultStatus) -> dg.Definitions:
    """Return the schema asset with its checks, job and schedule, which is on by default if ``running``."""
    return dg.Definitions(
        assets=[schema_asset(column_exports)],
        jobs=[jobs.schema_job()],
        schedules=[schedules.schema_morning(status)],
    )


def simulation_definitions(
    settings: Settings, partitions: dg.PartitionsDefinition[str], feeds: Sequence[Feed] = ()
) -> dg.Definitions:
    """Return the assets, jobs and schedules of simulated customers and recipients; none in production."""
    if settings.env is Environment.PROD:
        return dg.Definitions()
    status = DefaultStatus.of(settings)
    answered = [feed for feed in feeds if feed.acknowledgements is not None]
    return dg.Definitions(
        assets=[*simulation_assets(partitions), *([recipients_asset(answered)] if answered else [])],
        jobs=[
            jobs.simulation_job(),
            jobs.simulation_cleaning_job(),
            *([jobs.simulation_recipients_job()] if answered else []),
        ],
        schedules=[
            schedules.simulation_nightly(settings.first_business_date, status),
            schedules.simulation_cleaning_weekly(status),
            *([schedules.simulation_recipients_daily(status)] if answered else []),
        ],
    )


def _reconciliation(feed_contexts: Sequence[FeedContext], status: DefaultStatus) -> dg.Definitions:
    reconciliation_jobs = [jobs.reconciliation_job(feed_context) for feed_context in feed_contexts]
    return dg.Definitions(
        assets=[
            data_team_asset(),
            *(
                asset
                for feed_context in feed_contexts
                for asset in (*reconciliation_assets(feed_context), warehouse_assets(feed_context))
            ),
        ],
        asset_checks=[
            check
            for feed_context in feed_contexts
            for check in (source_agrees_check(feed_context), data_team_agrees_check(feed_context))
        ],
        jobs=reconciliation_jobs,
        sensors=[
            reconciliation_sensor(feed_context, job, status)
            for feed_context, job in zip(feed_contexts, reconciliation_jobs, strict=True)
        ],
    )


def business_date_partitions(first: dt.date) -> dg.DailyPartitionsDefinition:
    """Return a partition per ASX business day from ``first``, keyed YYYY-MM-DD.

    A day's partition exists once the day has ended in Sydney. The key is the business date. Time windows of partitions
    with exclusions include the excluded days, so no code may read them.
    """
    holidays: list[dt.datetime] = []
    day = first
    while day <= LAST_SUPPORTED:
        if day.weekday() < 5 and not is_business_day(day):
            holidays.append(dt.datetime.combine(day, dt.time()))
        day += dt.timedelta(days=1)
    weekends = ["0 0 * * 6", "0 0 * * 0"]
    return dg.DailyPartitionsDefinition(
        start_date=first.isoformat(), timezone=SYDNEY.key, exclusions=[*weekends, *holidays]
    )
