"""Due times and deliveries of business dates, their punctuality, and attainment over thirty days.

A date is due on the morning of the business day after it, at Sydney local times (ADR 0003); instants are UTC. The
business date is judged, not the asset: a backfill of an old date does not make a feed fresh.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from classfeed_dagster import trading_days
from classfeed_dagster.charts import data_uri
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest, read_manifest
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import delivered_prefix

_MANIFEST = re.compile(r"r(\d+)/manifest\.json\Z")
_CACHE_SIZE = 4000
_SUMMARIES: dict[str, Delivery | None] = {}  # by the manifest's location; None for void manifests


@dataclass(frozen=True, slots=True)
class Delivery:
    """The facts of a manifest that alerts and repair need. A manifest itself may be large."""

    revision: int
    delivered_at: dt.datetime  # bigsite's clock at the last consent query before the manifest
    snapshot_at: dt.datetime
    portfolios: int
    held_back: int


def deliveries(store: ObjectStore, feed: Feed, day: dt.date) -> tuple[Delivery, ...]:
    """Return the deliveries of a date in order, without void revisions."""
    view = live_and_shadow(store, feed.name)
    prefix = delivered_prefix(feed.name, day)
    summaries: list[Delivery] = []
    for key in view.list(prefix):
        if _MANIFEST.match(key.removeprefix(prefix)):
            location = view.location(key)
            if location not in _SUMMARIES:
                if len(_SUMMARIES) >= _CACHE_SIZE:
                    _SUMMARIES.clear()
                _SUMMARIES[location] = _summary(view, key, location)
            delivery = _SUMMARIES[location]
            if delivery is not None:
                summaries.append(delivery)
    return tuple(sorted(summaries, key=lambda delivery: delivery.revision))


def _summary(store: ObjectStore, key: str, location: str) -> Delivery | None:
    manifest = read_manifest(store.read(key), location, store)
    if not isinstance(manifest, Manifest):
        return None
    return Delivery(
        manifest.revision,
        manifest.consent_checked_at,
        manifest.snapshot.snapshot_at,
        len(manifest.portfolios),
        len(manifest.held_back),
    )


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


DAYS = 30


class Punctuality(enum.StrEnum):
    """Punctuality of a business date against its service level."""

    ON_TARGET = "by the target"
    IN_TIME = "by the deadline"
    LATE = "late"
    MISSING = "missing"  # past its deadline, and not delivered


@dataclass(frozen=True, slots=True)
class Judgment:
    """Punctuality of one business date of a feed. ``delivered_at``: of the first delivery, UTC; None without one."""

    feed: str
    due: Due
    delivered_at: dt.datetime | None
    verdict: Punctuality


@dataclass(frozen=True, slots=True)
class Attainment:
    """Punctuality of a feed's dates over a period."""

    feed: str
    judgments: tuple[Judgment, ...]

    @property
    def in_time(self) -> int:
        """Number of dates delivered by their deadline."""
        return sum(judgment.verdict in (Punctuality.ON_TARGET, Punctuality.IN_TIME) for judgment in self.judgments)

    @property
    def percent(self) -> int | None:
        """Percentage of dates delivered by their deadline, rounded down; None if no date was due."""
        return 100 * self.in_time // len(self.judgments) if self.judgments else None


def judge(store: ObjectStore, feed: Feed, date: Due) -> Judgment:
    """Judge a date that was delivered, or whose deadline has passed."""
    delivered = deliveries(store, feed, date.business_date)
    if not delivered:
        return Judgment(feed.name, date, None, Punctuality.MISSING)
    at = delivered[0].delivered_at
    verdict = (
        Punctuality.ON_TARGET
        if at <= date.target_at
        else Punctuality.IN_TIME
        if at <= date.deadline_at
        else Punctuality.LATE
    )
    return Judgment(feed.name, date, at, verdict)


def attainment(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, now: dt.datetime, days: int = DAYS
) -> Attainment:
    """Judge the dates with a deadline in the last ``days`` calendar days before ``now`` (UTC)."""
    since = now - dt.timedelta(days=days)
    dates = due_since(feed, audience, now, (since - dt.timedelta(days=14)).date())
    return Attainment(feed.name, tuple(judge(store, feed, date) for date in dates if date.deadline_at > since))


@dataclass(frozen=True, slots=True)
class Freshness:
    """Progress of a feed by business date: the delivery of an old date does not make it fresh."""

    newest_delivered: dt.date | None  # of the last thirty due
    behind: int  # undelivered dates past their deadline, of the last thirty due

    @property
    def newest(self) -> str:
        """Newest delivered date, for people."""
        return f"none of the last {DAYS}" if self.newest_delivered is None else self.newest_delivered.isoformat()


def freshness(store: ObjectStore, feed: Feed, audience: RecipientSchedule, now: dt.datetime) -> Freshness:
    """Return the progress of ``feed`` at ``now`` (UTC), over the last thirty due dates."""
    dues = latest_due(feed, audience, now, DAYS)
    delivered = {date.business_date for date in dues if deliveries(store, feed, date.business_date)}
    late = [date for date in dues if date.deadline_at <= now and date.business_date not in delivered]
    return Freshness(max(delivered, default=None), len(late))


def judge_date(store: ObjectStore, feed: Feed, day: dt.date) -> Judgment:
    """Judge one business date."""
    return judge(store, feed, due(feed, day))


def missing(
    store: ObjectStore, feeds: Iterable[tuple[Feed, RecipientSchedule]], now: dt.datetime, count: int
) -> list[Judgment]:
    """Return the live feeds' dates, of their last ``count``, that are past their deadline without a manifest."""
    return [
        judgment
        for feed, audience in feeds
        for date in latest_due(feed, audience, now, count)
        if date.deadline_at <= now
        for judgment in (judge(store, feed, date),)
        if judgment.verdict is Punctuality.MISSING
    ]


def plot(judgments: Sequence[Judgment]) -> str:
    """Return a chart as Markdown: one bar a date, with its time before (up) or after the deadline (down)."""
    width, middle = 14, 60
    colours = {
        Punctuality.ON_TARGET: "#2e7d32",
        Punctuality.IN_TIME: "#f9a825",
        Punctuality.LATE: "#c62828",
        Punctuality.MISSING: "#4a148c",
    }
    bars: list[str] = []
    for place, judgment in enumerate(judgments):
        at, deadline = judgment.delivered_at, judgment.due.deadline_at
        minutes = middle if at is None else (at - deadline).total_seconds() / 60
        height = max(2, min(middle - 2, round(abs(minutes) / 4)))
        y = middle if minutes > 0 else middle - height
        bars.append(
            f'<rect x="{place * width + 2}" y="{y}" width="{width - 4}" height="{height}" '
            f'fill="{colours[judgment.verdict]}">'
            f"<title>{judgment.due.business_date.isoformat()}: {judgment.verdict}</title></rect>"
        )
    line = f'<line x1="0" y1="{middle}" x2="{len(judgments) * width}" y2="{middle}" stroke="#555"/>'
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(1, len(judgments)) * width}" height="{2 * middle}">'
        f"{''.join(bars)}{line}</svg>"
    )
    return f"![deliveries against their deadline]({data_uri(picture)})"
