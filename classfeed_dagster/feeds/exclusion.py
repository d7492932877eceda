"""Which feeds exclude each other per portfolio: those from which a recipient would load the same movement twice.

The rule: of the feeds to one recipient that carry a ledger in common, at most one is live for a portfolio.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Mapping, Set

from classfeed_dagster.delivery.shadow import FeedMode
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.switches import FeedFlags
from classfeed_dagster.store import ObjectStore

ALL_LEDGERS = frozenset("TSIC")  # the letters of TransactionId: trade, security movement, income, cash


def ledgers(feed: Feed) -> frozenset[str]:
    """The ledgers whose rows the feed carries. A format that doesn't say is taken to carry all of them."""
    found: frozenset[str] = getattr(feed.format, "ledgers", ALL_LEDGERS)
    return found


def exclude_each_other(one: Feed, other: Feed) -> bool:
    """True if no portfolio may be live in both."""
    return one.name != other.name and one.recipient == other.recipient and bool(ledgers(one) & ledgers(other))


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
