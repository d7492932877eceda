"""The morning: one schedule a feed, on business days, for the business date before (ADR 0003)."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from classfeed_dagster import trading_days
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.tags import CORRELATION_TAG, FEED_TAG, feed_job_name, new_correlation_id


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
