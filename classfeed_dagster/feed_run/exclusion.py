"""Mutual exclusion of feeds per portfolio, so that no recipient loads the same movement twice.

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


def exclude_each_other(feed: Feed, other: Feed) -> bool:
    """Return True if no portfolio may be live in both feeds."""
    common_ledgers = feed.format.ledgers & other.format.ledgers
    return feed.name != other.name and feed.recipient == other.recipient and bool(common_ledgers)


def switched_to_clash(feeds: Iterable[Feed], flags: Mapping[str, FeedFlags]) -> list[tuple[str, str]]:
    """Return pairs of live feeds (names, in order) that exclude each other and may carry the same portfolio.

    ``flags`` is by feed name; a feed without flags is off. Neither feed of a pair may deliver live until a person
    changes a switch.
    """
    live = [feed for feed in feeds if feed.name in flags and flags[feed.name].mode is FeedMode.LIVE]
    return sorted(
        (min(feed.name, other.name), max(feed.name, other.name))
        for feed, other in itertools.combinations(live, 2)
        if exclude_each_other(feed, other) and flags[feed.name].portfolios.overlaps(flags[other.name].portfolios)
    )


def delivered_elsewhere(
    store: ObjectStore, feed: Feed, feeds: Iterable[Feed], day: dt.date, numbers: Set[str]
) -> dict[str, tuple[str, ...]]:
    """Return those of ``numbers`` that feeds which ``feed`` excludes delivered live for ``day``, with these feeds.

    Reads the deliveries, not the current switches. ``store`` is the plain store: shadow deliveries don't count.
    """
    feeds_by_number: dict[str, list[str]] = {}
    for other in sorted(feeds, key=lambda candidate: candidate.name):
        if exclude_each_other(feed, other):
            for number in delivered_state(store, other.name, day).numbers & numbers:
                feeds_by_number.setdefault(number, []).append(other.name)
    return {number: tuple(feeds_by_number[number]) for number in sorted(feeds_by_number)}


def findings_delivered_elsewhere(
    store: ObjectStore, feed: Feed, feeds: Iterable[Feed], flags: FeedFlags, *, day: dt.date, numbers: Set[str]
) -> pl.DataFrame:
    """Return FINDINGS that hold back those of ``numbers`` that an excluded feed delivered live for ``day``.

    Only a live feed has any: the recipient does not load shadow deliveries.
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
    """Check that the recipient gets no movement of ``numbers`` for ``day`` from two feeds.

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
    return CheckResult.of_offenders(CHECK, f"excludes {', '.join(others)} per portfolio", offenders)
