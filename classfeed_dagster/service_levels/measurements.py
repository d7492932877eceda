"""Measurements of the feeds for dashboards and alarms, from the object store, and of the portfolios held back."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from classfeed_dagster.bigsite.snapshot import latest_snapshot
from classfeed_dagster.delivery.delivery_history import delivered_dates, live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.quarantine import Quarantined, held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feed_run.flags import is_live
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.service_levels import Due, Punctuality, attainment, deliveries, latest_due
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.records import Side

# A portfolio that breaks a rule on one date waits on all later dates: the rule is the reason.
_STRONGEST_FIRST = ("RULE", "WAITING", "CONSENT_ENDED")
_LACKING_DATA = ("RULE", "WAITING")  # after the end of consent no data is due


@dataclass(frozen=True, slots=True)
class HeldBackSummary:
    """Distinct portfolios that are held back.

    Attributes:
        by_reason: number of portfolios by reason; each portfolio is counted once, by its strongest reason.
        oldest: longest time for which a portfolio has been held back by a rule or an earlier date.
    """

    by_reason: dict[str, int]
    oldest: dt.timedelta

    @property
    def lacking_data(self) -> int:
        """Number of portfolios without data that is due."""
        return sum(self.by_reason[reason] for reason in _LACKING_DATA)


def summarize(records: Iterable[Quarantined], now: dt.datetime) -> HeldBackSummary:
    """Count the portfolios of quarantine records, over all dates. ``now`` is UTC.

    A portfolio whose data a revision of the date delivered is not held back for that date.
    """
    reasons: dict[str, str] = {}
    oldest = dt.timedelta()
    for record in records:
        if not record.lacks_data:
            continue
        strongest = reasons.get(record.number)
        reason = record.held_back.kind
        if strongest is None or _STRONGEST_FIRST.index(reason) < _STRONGEST_FIRST.index(strongest):
            reasons[record.number] = reason
        if reason in _LACKING_DATA:
            oldest = max(oldest, record.age(now))
    counts = Counter(reasons.values())
    return HeldBackSummary({reason: counts[reason] for reason in _STRONGEST_FIRST}, oldest)


LOOK_BACK = 10  # dates
# A morning is forecast from FORECAST_AHEAD before its target, by the median of the last FORECAST_DATES dates, if there
# are at least FORECAST_FROM.
FORECAST_AHEAD = dt.timedelta(minutes=90)
FORECAST_DATES = 20
FORECAST_FROM = 5

Values = dict[str, int | float]


def of_delivery(manifest: Manifest) -> Values:
    """Return the measurements of one delivery."""
    return {
        "documents": len(manifest.pages),
        "portfolios": len(manifest.portfolios),
        "rows": sum(manifest.counts.values()),
        "bytes": sum(page.bytes for page in manifest.pages),
        # Both instants are by bigsite's clock.
        "date_seconds": (manifest.consent_checked_at - manifest.snapshot.snapshot_at).total_seconds(),
    }


def of_feed(runtime: Runtime, feed: Feed, now: dt.datetime, tries: Callable[[dt.date], int]) -> Values:
    """Return a feed's measurements at ``now`` (UTC): portfolios held back, breaks, late and expected late dates.

    ``tries`` returns repair's attempts at a date.
    """
    store, settings = runtime.store, runtime.settings
    audience = feed.audience(settings.first_business_date)
    judgments = attainment(store, feed, audience, now, days=1).judgments
    # A feed in shadow or off is never late.
    dues = latest_due(feed, audience, now + FORECAST_AHEAD, LOOK_BACK) if is_live(feed, settings.env) else ()
    missing = [date for date in dues if not deliveries(store, feed, date.business_date)]
    waiting = summarize(held(store, feed.name), now)
    values: Values = {
        "held_back": waiting.lacking_data,
        **{f"held_back_{reason.lower()}": count for reason, count in waiting.by_reason.items()},
        "held_back_oldest_seconds": waiting.oldest.total_seconds(),
        "targets_missed": sum(date.verdict is not Punctuality.ON_TARGET for date in judgments),
        "deadlines_missed": sum(date.verdict in (Punctuality.LATE, Punctuality.MISSING) for date in judgments),
        "overdue_seconds": max((0.0, *((now - date.deadline_at).total_seconds() for date in missing))),
        "expected_late_seconds": expected_late(runtime, feed, missing, now),
        "repair_attempts": max((0, *(tries(date.business_date) for date in missing if date.starts_at <= now))),
    }
    days = delivered_dates(store, feed.name)
    if days:
        latest = deliveries(store, feed, days[-1])
        if latest:
            values["newest_delivery_age_seconds"] = (now - latest[-1].delivered_at).total_seconds()
        values["breaks"] = sum(_errors(runtime, feed, days[-1], side) for side in Side)
    return values


def expected_late(runtime: Runtime, feed: Feed, missing: Sequence[Due], now: dt.datetime) -> float:
    """Return the largest expected delay of the ``missing`` dates past their target, in seconds.

    A date takes the median of the last dates, counted from bigsite's snapshot. A date without one gets it now at the
    earliest. 0 while the target is far, or while there are too few dates.
    """
    close = [date for date in missing if date.target_at - FORECAST_AHEAD <= now]
    if not close:
        return 0.0
    took = _durations(runtime.store, feed)
    if len(took) < FORECAST_FROM:
        return 0.0
    usual = dt.timedelta(seconds=statistics.median(took))
    audience = feed.audience(runtime.settings.first_business_date)
    worst = 0.0
    for date in close:
        landed = latest_snapshot(runtime.store, date.business_date, [audience])
        begun = landed.snapshot_at if landed is not None else max(now, date.starts_at)
        worst = max(worst, (max(now, begun + usual) - date.target_at).total_seconds())
    return worst


def _durations(store: ObjectStore, feed: Feed) -> list[float]:
    # First deliveries only: a re-issue covers few portfolios or waited for a person.
    firsts = (deliveries(store, feed, day)[:1] for day in delivered_dates(store, feed.name)[-FORECAST_DATES:])
    return [(delivery.delivered_at - delivery.snapshot_at).total_seconds() for first in firsts for delivery in first]


def _errors(runtime: Runtime, feed: Feed, day: dt.date, side: Side) -> int:
    # Without explained differences, such as a portfolio held back.
    summary = runtime.find_reference(side.reference(feed.name), day, ReconciliationSummary)
    return 0 if summary is None else summary.errors  # a separate sensor and alert cover a date that is not reconciled


def new_deliveries(runtime: Runtime, feed: Feed, after: int) -> Iterator[Manifest]:
    """Yield the feed's deliveries of its last dates after position ``after`` of its chain, in the chain's order."""
    view = live_and_shadow(runtime.store, feed.name)
    manifests = [
        manifest
        for day in delivered_dates(runtime.store, feed.name)[-LOOK_BACK:]
        for manifest in delivered_state(view, feed.name, day).delivered_after(after)
    ]
    yield from sorted(manifests, key=lambda manifest: manifest.chain_position)
