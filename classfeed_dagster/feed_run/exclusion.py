"""Which feeds exclude each other per portfolio: those from which a recipient would load the same movement twice.

The rule: of the feeds to one recipient that carry a ledger in common, at most one is live for a portfolio.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Mapping, Set

import polars as pl

from classfeed_dagster.delivery.checks import CheckResult
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.feed_run.switches import FeedFlags
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.store import ObjectStore

CHECK = "one_live_feed"
DELIVERED_ELSEWHERE = "delivered_by_another_feed"  # the rule that such a portfolio breaks
_SHOWN = 20


def exclude_each_other(one: Feed, other: Feed) -> bool:
    """True if no portfolio may be live in both."""
    return (
        one.name != other.name and one.recipient == other.recipient and bool(one.format.ledgers & other.format.ledgers)
    )


def switched_to_clash(feeds: Iterable[Feed], flags: Mapping[str, FeedFlags]) -> list[tuple[str, str]]:
    """Pairs of live feeds (names, in order) that exclude each other and may carry the same portfolio.

    ``flags`` by the feed's name; a feed without flags is off. Empty is what is right: nothing may be delivered live
    from a feed of a pair until a person changes a switch.
    """
    live = [feed for feed in feeds if feed.name in flags and flags[feed.name].mode is FeedMode.LIVE]
    return sorted(
        (min(one.name, other.name), max(one.name, other.name))
        for one, other in itertools.combinations(live, 2)
        if exclude_each_other(one, other) and flags[one.name].portfolios.overlaps(flags[other.name].portfolios)
    )


def delivered_elsewhere(
    store: ObjectStore, feed: Feed, feeds: Iterable[Feed], day: dt.date, numbers: Set[str]
) -> dict[str, tuple[str, ...]]:
    """Those of ``numbers`` that another feed, which ``feed`` excludes, has delivered live for ``day``, and which.

    Looks at what left, whatever the switches say now. ``store`` is the plain store: shadow deliveries don't count.
    """
    found: dict[str, list[str]] = {}
    for other in sorted(feeds, key=lambda one: one.name):
        if exclude_each_other(feed, other):
            for number in delivered_state(store, other.name, day).numbers & numbers:
                found.setdefault(number, []).append(other.name)
    return {number: tuple(found[number]) for number in sorted(found)}


def already_there(
    store: ObjectStore, feed: Feed, feeds: Iterable[Feed], flags: FeedFlags, *, day: dt.date, numbers: Set[str]
) -> pl.DataFrame:
    """FINDINGS that hold back those of ``numbers`` that the recipient has for ``day`` from a feed that this excludes.

    Only a live feed has any: what is in shadow reaches nobody.
    """
    if flags.mode is not FeedMode.LIVE:
        return FINDINGS.empty()
    rows = [
        (number, DELIVERED_ELSEWHERE, "QUARANTINE", other, f"{other} delivered it live for {day.isoformat()}")
        for number, others in delivered_elsewhere(store, feed, feeds, day, numbers).items()
        for other in others
    ]
    return FINDINGS.conform(pl.DataFrame(rows, schema=FINDINGS.empty().schema, orient="row"))


def one_live_feed(
    store: ObjectStore,
    feed: Feed,
    feeds: Iterable[Feed],
    flags: Mapping[str, FeedFlags],
    *,
    day: dt.date,
    numbers: Set[str],
) -> CheckResult:
    """The check: the recipient gets no movement of ``numbers`` for ``day`` from two feeds.

    ``flags`` are those of ``feed`` and of the feeds that it excludes; ``store`` is the plain store.
    """
    feeds = tuple(feeds)
    others = sorted(other.name for other in feeds if exclude_each_other(feed, other))
    if not others:
        return CheckResult(CHECK, True, f"{feed.name} excludes no other feed", (), 0)
    if flags[feed.name].mode is not FeedMode.LIVE:
        return CheckResult(CHECK, True, f"{feed.name} is {flags[feed.name].mode}: nothing reaches the recipient", (), 0)
    offenders = [
        (" and ".join(pair), "are both live for the same portfolios: change mode or portfolios of one")
        for pair in switched_to_clash(feeds, flags)
        if feed.name in pair
    ]
    offenders += [
        (number, f"was delivered live by {', '.join(by)}")
        for number, by in delivered_elsewhere(store, feed, feeds, day, numbers).items()
    ]
    what = f"excludes {', '.join(others)} per portfolio"
    summary = what if not offenders else f"{what}; {len(offenders)} fault(s), the first: {' '.join(offenders[0])}"
    return CheckResult(CHECK, not offenders, summary, tuple(offenders[:_SHOWN]), len(offenders))
