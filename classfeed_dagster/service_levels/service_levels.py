"""Was each business date delivered in time? The date is judged, never the asset: a backfill of an old day is no sign
of freshness. Attainment over thirty days, and what the watchdog outside Dagster finds missing.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.service_levels.delivery_summary import deliveries
from classfeed_dagster.service_levels.due import Due, due, due_since, latest_due
from classfeed_dagster.store import ObjectStore

DAYS = 30


class Punctuality(enum.StrEnum):
    """How a business date stands against its service level."""

    ON_TARGET = "by the target"
    IN_TIME = "by the deadline"
    LATE = "late"
    MISSING = "missing"  # past its deadline, and not delivered


@dataclass(frozen=True, slots=True)
class Judgment:
    """One business date of a feed, judged. ``delivered_at`` is the first delivery's, UTC; None if there is none."""

    feed: str
    due: Due
    delivered_at: dt.datetime | None
    verdict: Punctuality


@dataclass(frozen=True, slots=True)
class Attainment:
    """A feed's dates of a period, judged."""

    feed: str
    judged: tuple[Judgment, ...]

    @property
    def in_time(self) -> int:
        """Dates delivered by their deadline."""
        return sum(one.verdict in (Punctuality.ON_TARGET, Punctuality.IN_TIME) for one in self.judged)

    @property
    def percent(self) -> int | None:
        """Whole percent of dates delivered by their deadline, rounded down; None if no date was due."""
        return 100 * self.in_time // len(self.judged) if self.judged else None


def judge(store: ObjectStore, feed: Feed, one: Due) -> Judgment:
    """Judge one date whose deadline has passed, or that was delivered."""
    sent = deliveries(store, feed, one.business_date)
    if not sent:
        return Judgment(feed.name, one, None, Punctuality.MISSING)
    at = sent[0].delivered_at
    verdict = (
        Punctuality.ON_TARGET
        if at <= one.target_at
        else Punctuality.IN_TIME
        if at <= one.deadline_at
        else Punctuality.LATE
    )
    return Judgment(feed.name, one, at, verdict)


def attainment(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, now: dt.datetime, days: int = DAYS
) -> Attainment:
    """The dates whose deadline fell into the last ``days`` calendar days before ``now`` (UTC)."""
    since = now - dt.timedelta(days=days)
    dates = due_since(feed, audience, now, (since - dt.timedelta(days=14)).date())
    return Attainment(feed.name, tuple(judge(store, feed, one) for one in dates if one.deadline_at > since))


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far a feed has come. Judged by business date: an old date delivered today makes nothing fresh."""

    newest_delivered: dt.date | None
    behind: int  # dates past their deadline, of the last thirty due, that are not delivered


def freshness(store: ObjectStore, feed: Feed, audience: RecipientSchedule, now: dt.datetime) -> Freshness:
    """How far ``feed`` has come at ``now`` (UTC), of the last thirty dates that are due."""
    dues = latest_due(feed, audience, now, DAYS)
    delivered = {one.business_date for one in dues if deliveries(store, feed, one.business_date)}
    late = [one for one in dues if one.deadline_at <= now and one.business_date not in delivered]
    return Freshness(max(delivered, default=None), len(late))


def judge_date(store: ObjectStore, feed: Feed, day: dt.date) -> Judgment:
    """Judge one business date."""
    return judge(store, feed, due(feed, day))


def missing(
    store: ObjectStore, feeds: Iterable[tuple[Feed, RecipientSchedule]], now: dt.datetime, count: int
) -> list[Judgment]:
    """Live feeds' dates, of their last ``count``, that are past their deadline without a manifest."""
    return [
        judged
        for feed, audience in feeds
        for one in latest_due(feed, audience, now, count)
        if one.deadline_at <= now
        for judged in (judge(store, feed, one),)
        if judged.verdict is Punctuality.MISSING
    ]


def plot(judged: Sequence[Judgment]) -> str:
    """A small picture as Markdown: one bar a date, its height how long before (up) or after the deadline (down)."""
    width, middle = 14, 60
    colours = {
        Punctuality.ON_TARGET: "#2e7d32",
        Punctuality.IN_TIME: "#f9a825",
        Punctuality.LATE: "#c62828",
        Punctuality.MISSING: "#4a148c",
    }
    bars: list[str] = []
    for at, one in enumerate(judged):
        minutes = middle if one.delivered_at is None else (one.delivered_at - one.due.deadline_at).total_seconds() / 60
        height = max(2, min(middle - 2, round(abs(minutes) / 4)))
        y = middle if minutes > 0 else middle - height
        title = f"{one.due.business_date.isoformat()}: {one.verdict}"
        bars.append(
            f'<rect x="{at * width + 2}" y="{y}" width="{width - 4}" height="{height}" fill="{colours[one.verdict]}">'
            f"<title>{title}</title></rect>"
        )
    line = f'<line x1="0" y1="{middle}" x2="{len(judged) * width}" y2="{middle}" stroke="#555"/>'
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(1, len(judged)) * width}" height="{2 * middle}">'
        f"{''.join(bars)}{line}</svg>"
    )
    return (
        f"![deliveries against their deadline](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"
    )
