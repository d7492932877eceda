"""Looking at what was delivered: by business date for ``classfeed status``, by portfolio for ``classfeed trace``.

Shadow deliveries are seen like live ones, and named as what they are. Every function takes the plain store.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from classfeed_dagster.delivery.feed_mode import FeedMode, shadow_key, switched
from classfeed_dagster.delivery.manifest import HeldBack, Manifest, Page, Portfolio
from classfeed_dagster.delivery.quarantine import Quarantined, held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import delivered_prefix, manifest_key


@dataclass(frozen=True, slots=True)
class PortfolioDelivery:
    """One delivery of one portfolio: which page of which revision it is on."""

    manifest: Manifest
    manifest_key: str
    portfolio: Portfolio
    page: Page
    superseded: bool  # a later revision of the same date delivered it again
    shadow: bool  # the recipient never looks there


@dataclass(frozen=True, slots=True)
class DateStatus:
    """What became of one business date of a feed."""

    feed: str
    business_date: dt.date
    deliveries: tuple[Manifest, ...]  # void revisions left out
    void_revisions: tuple[int, ...]
    delivered: int  # portfolios whose data, or removal, was delivered
    held_back: tuple[HeldBack, ...]  # left out by some delivery of the date and not delivered by any since
    quarantined: tuple[Quarantined, ...]  # not delivered, and held back by the latest attempt
    shadow: tuple[int, ...] = ()  # revisions that went to the shadow, where the recipient never looks
    delivered_but_excluded: int = 0  # delivered portfolios that a new attempt would hold back, as of the latest one

    @property
    def complete(self) -> bool:
        """Delivered, and nobody is held back."""
        return bool(self.deliveries) and not self.held_back and not self.quarantined


def live_and_shadow(store: ObjectStore, feed: str) -> ObjectStore:
    """The store with the feed's live and shadow deliveries seen as one. For reading only."""
    return switched(store, feed, FeedMode.LIVE)


def shadow_deliveries(store: ObjectStore, feed: str) -> int:
    """How many manifests of the feed are in the shadow, where the recipient never looks."""
    return sum(key.endswith("/manifest.json") for key in store.list(shadow_key(delivered_prefix(feed))))


def _in_shadow(store: ObjectStore, feed: str, day: dt.date, revision: int) -> bool:
    return store.exists(shadow_key(manifest_key(feed, day, revision)))


def delivered_dates(store: ObjectStore, feed: str) -> tuple[dt.date, ...]:
    """The business dates for which the feed has a manifest, void ones included, in order."""
    prefix = delivered_prefix(feed)
    keys = (
        key.removeprefix(prefix) for key in live_and_shadow(store, feed).list(prefix) if key.endswith("/manifest.json")
    )
    return tuple(sorted({dt.date.fromisoformat(key.split("/")[0]) for key in keys}))


def date_status(store: ObjectStore, feed: str, day: dt.date) -> DateStatus:
    """What was delivered for ``day`` and who is held back."""
    state = delivered_state(live_and_shadow(store, feed), feed, day)
    left_out = {entry.number: entry for manifest in state.deliveries for entry in manifest.held_back}
    excluded = held(store, feed, day)
    void = tuple(found.revision for found in state.revisions if not isinstance(found.manifest, Manifest))
    return DateStatus(
        feed=feed,
        business_date=day,
        deliveries=tuple(state.deliveries),
        void_revisions=void,
        delivered=len(state.portfolios),
        held_back=tuple(left_out[number] for number in sorted(left_out.keys() - state.portfolios.keys())),
        quarantined=tuple(record for record in excluded if record.number not in state.portfolios),
        shadow=tuple(one.revision for one in state.deliveries if _in_shadow(store, feed, day, one.revision)),
        delivered_but_excluded=sum(record.number in state.portfolios for record in excluded),
    )


def deliveries_of(
    store: ObjectStore, feed: str, day: dt.date, number: str | None = None
) -> tuple[PortfolioDelivery, ...]:
    """Every delivery of a portfolio (or of all of them) for ``day``, in order of revision and portfolio number."""
    state = delivered_state(live_and_shadow(store, feed), feed, day)
    found: list[PortfolioDelivery] = []
    for manifest in state.deliveries:
        pages = {page.message_id: page for page in manifest.pages}
        key = manifest_key(feed, day, manifest.revision)
        shadow = _in_shadow(store, feed, day, manifest.revision)
        for portfolio in manifest.portfolios:
            if number is None or portfolio.number == number:
                superseded = state.portfolios[portfolio.number].revision != manifest.revision
                found.append(PortfolioDelivery(manifest, key, portfolio, pages[portfolio.page], superseded, shadow))
    return tuple(found)


def history_of(store: ObjectStore, feed: str, number: str) -> tuple[PortfolioDelivery, ...]:
    """Every delivery of a portfolio, date by date. Reads every manifest of the feed."""
    dates = delivered_dates(store, feed)
    return tuple(delivery for day in dates for delivery in deliveries_of(store, feed, day, number))
