"""Schedules, one function each. A feed's morning schedule delivers the previous business date (ADR 0003)."""

import datetime as dt

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.jobs import CLEANING_JOB, RECIPIENTS_JOB, SCHEMA_JOB, SIMULATION_JOB
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.tags import (
    CORRELATION_TAG,
    FEED_TAG,
    feed_job_name,
    new_correlation_id,
)
from classfeed_dagster.trading_days import SYDNEY


def date_due(morning: dt.date, audience: RecipientSchedule) -> dt.date | str:
    """Return the business date to deliver on a morning (a Sydney date), or the reason for no date."""
    if not trading_days.is_business_day(morning):
        return f"{morning.isoformat()} is not an ASX business day"
    day = trading_days.previous_business_day(morning)
    if day < audience.first_business_date:
        return f"{day.isoformat()} is before the feed's first business date, {audience.first_business_date.isoformat()}"
    if not audience.is_due(day):
        return f"{day.isoformat()} is not a date of this {audience.cadence} feed"
    return day


def morning_schedule(feed: Feed, audience: RecipientSchedule, status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the feed's schedule. Its run key prevents a second request for the same date."""

    @dg.schedule(
        name=f"{feed.name}_morning",
        job_name=feed_job_name(feed.name),
        cron_schedule=f"{feed.starts_at.minute} {feed.starts_at.hour} * * *",
        execution_timezone=SYDNEY.key,
        description=f"On ASX business days at {feed.starts_at:%H:%M} Sydney: delivers the previous business date. "
        f"Due by {feed.service_level.target:%H:%M}, at the latest {feed.service_level.deadline:%H:%M}.",
        default_status=status.schedule,
    )
    def morning(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = date_due(context.scheduled_execution_time.astimezone(SYDNEY).date(), audience)
        if isinstance(day, str):
            return dg.SkipReason(day)
        return dg.RunRequest(
            run_key=f"{feed.name}-{day.isoformat()}",
            partition_key=day.isoformat(),
            tags={CORRELATION_TAG: new_correlation_id(), FEED_TAG: feed.name},
        )

    return morning


def report_schedule(job: "dg.UnresolvedAssetJobDefinition", status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the daily schedule of the reports, shortly after the deadline."""
    description = "Daily at 09:10 Sydney, after the deadline: service levels, toil and freshness of every feed."
    return _schedule("operations_report_daily", job, "10 9 * * *", description, status)


def owner_schedule(job: "dg.UnresolvedAssetJobDefinition", status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the daily schedule of the owner's numbers, after the reports."""
    description = "Daily at 09:30 Sydney, after the reports: records the owner's numbers."
    return _schedule("owner_report_daily", job, "30 9 * * *", description, status)


def retention_schedule(job: dg.JobDefinition, status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the weekly schedule of the run retention, on Sundays, when no date is due."""
    description = "Sundays at 03:00 Sydney, when no date is due: deletes old runs."
    return _schedule("retention_weekly", job, "0 3 * * 0", description, status)


def audit_nightly(job: dg.JobDefinition, status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the nightly schedule of the audit, when nothing is due."""
    description = "Daily at 01:00 Sydney, when no date is due: adds up a sample of what every feed sent."
    return _schedule("audit_nightly", job, "0 1 * * *", description, status)


def schema_morning(status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the daily schedule of the schema comparison, before the feeds start."""
    description = "Daily at 05:30 Sydney, before the feeds: compares bigsite's schema with its contract."
    return _schedule("schema_morning", SCHEMA_JOB, "30 5 * * *", description, status)


def simulation_nightly(first: dt.date, status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the nightly schedule of simulated customers."""

    # After the end of day (at most 110 minutes after midnight) and before any feed's morning, at an hour that no change
    # of the clock skips or repeats.
    @dg.schedule(
        name="simulation_nightly",
        job_name=SIMULATION_JOB,
        cron_schedule="30 3 * * *",
        execution_timezone=SYDNEY.key,
        description="The night after each ASX business day, before the feeds: simulates the customers' day.",
        default_status=status.schedule,
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(SYDNEY).date() - dt.timedelta(days=1)
        if not trading_days.is_business_day(day):
            return dg.SkipReason(f"{day.isoformat()} was not an ASX business day")
        if day < first:
            return dg.SkipReason(f"{day.isoformat()} is before the first business date, {first.isoformat()}")
        return dg.RunRequest(
            run_key=f"simulation-{day.isoformat()}",
            partition_key=day.isoformat(),
            tags={CORRELATION_TAG: new_correlation_id()},
        )

    return nightly


def simulation_cleaning_weekly(status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the weekly schedule that deletes expired simulated rows."""
    description = "Sundays: deletes expired simulated rows."
    return _schedule("simulation_cleaning_weekly", CLEANING_JOB, "0 5 * * 0", description, status)


def simulation_recipients_daily(status: DefaultStatus) -> dg.ScheduleDefinition:
    """Return the daily schedule of simulated recipients' answers."""
    description = "Every day, after the feeds: simulated recipients answer the files that reached them."
    return _schedule("simulation_recipients_daily", RECIPIENTS_JOB, "0 10 * * *", description, status)


def _schedule(
    name: str,
    job: "str | dg.JobDefinition | dg.UnresolvedAssetJobDefinition",
    cron: str,
    description: str,
    status: DefaultStatus,
) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        **({"job_name": job} if isinstance(job, str) else {"job": job}),
        cron_schedule=cron,
        execution_timezone=SYDNEY.key,
        description=description,
        default_status=status.schedule,
    )
