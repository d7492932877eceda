"""Due times of a feed's business dates: start of the run, target and deadline of the delivery.

Instants are UTC. A date is due on the morning of the business day after it, at Sydney local times (ADR 0003).
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from classfeed_dagster import trading_days
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule


@dataclass(frozen=True, slots=True)
class Due:
    """One business date and its instants, UTC."""

    business_date: dt.date
    starts_at: dt.datetime
    target_at: dt.datetime
    deadline_at: dt.datetime


def due(feed: Feed, day: dt.date) -> Due:
    """Return the due times of ``day`` for ``feed``."""
    morning = trading_days.next_business_day(day)

    def at(local: dt.time) -> dt.datetime:
        return dt.datetime.combine(morning, local, tzinfo=trading_days.SYDNEY).astimezone(dt.UTC)

    return Due(day, at(feed.starts_at), at(feed.service_level.target), at(feed.service_level.deadline))


def latest_due(feed: Feed, audience: RecipientSchedule, now: dt.datetime, count: int) -> Sequence[Due]:
    """Return the last ``count`` dates whose run should have started by ``now``, oldest first."""
    dates = audience.dates()
    today = now.astimezone(trading_days.SYDNEY).date()
    last = bisect_right(dates, today)
    # Before a morning's start neither today nor the business day before it is due.
    candidates = dates[max(0, last - count - 2) : last]
    return [date for date in (due(feed, day) for day in candidates) if date.starts_at <= now][-count:]


def due_since(feed: Feed, audience: RecipientSchedule, now: dt.datetime, since: dt.date) -> Sequence[Due]:
    """Return the dates from ``since`` on whose deadline has passed by ``now``, oldest first."""
    today = now.astimezone(trading_days.SYDNEY).date()
    dates = (day for day in audience.dates() if since <= day <= today)
    return [date for date in (due(feed, day) for day in dates) if date.deadline_at <= now]
