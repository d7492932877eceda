"""Schedules, one function each. A feed's morning delivers the business date before (ADR 0003)."""

import datetime as dt

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.jobs import CLEANING_JOB, SCHEMA_JOB, SIMULATION_JOB
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.tags import (
    CORRELATION_TAG,
    FEED_TAG,
    feed_job_name,
    new_correlation_id,
)
from classfeed_dagster.trading_days import SYDNEY


def date_due(morning: dt.date, audience: RecipientSchedule) -> dt.date | str:
    """The business date to deliver on a morning (a Sydney date), or the reason why there is none."""
    if not trading_days.is_business_day(morning):
        return f"{morning.isoformat()} is not an ASX business day"
    day = trading_days.previous_business_day(morning)
    if day < audience.first_business_date:
        return f"{day.isoformat()} is before the feed's first business date, {audience.first_business_date.isoformat()}"
    if not audience.is_due(day):
        return f"{day.isoformat()} is not a date of this {audience.cadence} feed"
    return day


def morning_schedule(feed: Feed, audience: RecipientSchedule, *, running: bool) -> dg.ScheduleDefinition:
    """The feed's schedule. Its run key makes a second request for the same date impossible.

    ``running`` is whether it is on unless a person says otherwise: not on a laptop, where no date is due.
    """

    @dg.schedule(
        name=f"{feed.name}_morning",
        job_name=feed_job_name(feed.name),
        cron_schedule=f"{feed.starts_at.minute} {feed.starts_at.hour} * * *",
        execution_timezone=trading_days.SYDNEY.key,
        description=f"On ASX business days at {feed.starts_at:%H:%M} Sydney: the business date before. "
        f"Due by {feed.service_level.target:%H:%M}, at the latest {feed.service_level.deadline:%H:%M}.",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
    )
    def morning(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = date_due(context.scheduled_execution_time.astimezone(trading_days.SYDNEY).date(), audience)
        if isinstance(day, str):
            return dg.SkipReason(day)
        return dg.RunRequest(
            run_key=f"{feed.name}-{day.isoformat()}",
            partition_key=day.isoformat(),
            tags={CORRELATION_TAG: new_correlation_id(), FEED_TAG: feed.name},
        )

    return morning


def report_schedule(job: "dg.UnresolvedAssetJobDefinition", *, running: bool) -> dg.ScheduleDefinition:
    """Shortly after the deadline, every day."""
    return dg.ScheduleDefinition(
        name="operations_report_daily",
        job=job,
        cron_schedule="10 9 * * *",
        execution_timezone=SYDNEY.key,
        default_status=_status(running=running),
    )


def retention_schedule(job: dg.JobDefinition, *, running: bool) -> dg.ScheduleDefinition:
    """Sundays, when nothing is due."""
    return dg.ScheduleDefinition(
        name="retention_weekly",
        job=job,
        cron_schedule="0 3 * * 0",
        execution_timezone=SYDNEY.key,
        default_status=_status(running=running),
    )


def schema_morning(*, running: bool) -> dg.ScheduleDefinition:
    """Return the daily schedule of the schema comparison, before the feeds start."""
    return dg.ScheduleDefinition(
        name="schema_morning",
        job_name=SCHEMA_JOB,
        cron_schedule="30 5 * * *",
        execution_timezone=trading_days.SYDNEY.key,
        description="Daily at 05:30 Sydney, before the feeds: compares bigsite's schema with its contract.",
        default_status=_status(running=running),
    )


def simulation_nightly(first: dt.date, *, running: bool) -> dg.ScheduleDefinition:
    """Return the nightly schedule of simulated customers."""

    # After the end of day has run (at most 110 minutes after midnight), before any feed's morning; and not at an hour
    # that a change of clock skips or repeats.
    @dg.schedule(
        name="simulation_nightly",
        job_name=SIMULATION_JOB,
        cron_schedule="30 3 * * *",
        execution_timezone=trading_days.SYDNEY.key,
        description="The night after each ASX business day, before the feeds: customers live that day.",
        default_status=_status(running=running),
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(trading_days.SYDNEY).date() - dt.timedelta(days=1)
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


def simulation_cleaning_weekly(*, running: bool) -> dg.ScheduleDefinition:
    """Return the weekly schedule that deletes expired simulated rows."""
    return dg.ScheduleDefinition(
        name="simulation_cleaning_weekly",
        job_name=CLEANING_JOB,
        cron_schedule="0 5 * * 0",
        execution_timezone=trading_days.SYDNEY.key,
        description="Sundays: simulated rows that expired go.",
        default_status=_status(running=running),
    )


def _status(*, running: bool) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
