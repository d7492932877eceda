"""History of deliveries: by business date for ``classfeed status``, by portfolio for ``classfeed trace``.

Shadow deliveries are included and marked as such. Every function takes the plain store.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from classfeed_dagster.delivery.chain import chain_entry, manifest_of
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView, shadow_key
from classfeed_dagster.delivery.manifest import ChainEntry, HeldBack, Manifest, Page
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.delivery.quarantine import Quarantined, held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import chain_prefix, delivered_prefix, manifest_key, sha256_of


@dataclass(frozen=True, slots=True)
class PortfolioDelivery:
    """One delivery of one portfolio, with its page and revision."""

    manifest: Manifest
    manifest_key: str
    portfolio: PortfolioRecord
    page: Page
    superseded: bool  # a later revision of the same date delivered it again
    shadow: bool  # delivered to the shadow, which the recipient does not load


@dataclass(frozen=True, slots=True)
class DateStatus:
    """Delivery status of one business date of a feed."""

    feed: str
    business_date: dt.date
    deliveries: tuple[Manifest, ...]  # void revisions left out
    void_revisions: tuple[int, ...]
    delivered: int  # portfolios whose data, or removal, was delivered
    held_back: tuple[HeldBack, ...]  # left out by a delivery of the date and not delivered since
    quarantined: tuple[Quarantined, ...]  # not delivered, and held back by the latest attempt
    shadow: tuple[int, ...] = ()  # revisions delivered to the shadow
    delivered_but_excluded: int = 0  # delivered portfolios that the latest attempt would hold back

    @property
    def complete(self) -> bool:
        """Return True if the date was delivered and no portfolio is held back."""
        return bool(self.deliveries) and not self.held_back and not self.quarantined


def live_and_shadow(store: ObjectStore, feed: str) -> ObjectStore:
    """Return a read-only view of the store in which the feed's live and shadow deliveries are one."""
    return FeedStoreView(store, feed, FeedMode.LIVE)


@contextlib.contextmanager
def delivered_page(view: ObjectStore, page: Page) -> Iterator[Path]:
    """Yield the local path of a delivered page; DamagedRecordError if it is missing or its bytes are other ones."""
    with contextlib.ExitStack() as opened:
        try:
            path = opened.enter_context(view.local_file(page.key))
        except ObjectNotFoundError:
            raise DamagedRecordError(view.location(page.key), "a page that the manifest names is missing") from None
        if sha256_of(path) != page.sha256:
            raise DamagedRecordError(view.location(page.key), "it is not the page that the manifest names")
        yield path


def shadow_deliveries(store: ObjectStore, feed: str) -> int:
    """Return the number of the feed's manifests in the shadow."""
    return sum(key.endswith("/manifest.json") for key in store.list(shadow_key(delivered_prefix(feed))))


def _in_shadow(store: ObjectStore, feed: str, day: dt.date, revision: int) -> bool:
    return store.exists(shadow_key(manifest_key(feed, day, revision)))


def delivered_dates(store: ObjectStore, feed: str) -> tuple[dt.date, ...]:
    """Return the business dates for which the feed has a manifest, void ones included, in order."""
    prefix = delivered_prefix(feed)
    keys = (
        key.removeprefix(prefix) for key in live_and_shadow(store, feed).list(prefix) if key.endswith("/manifest.json")
    )
    return tuple(sorted({dt.date.fromisoformat(key.split("/")[0]) for key in keys}))


def latest_date(store: ObjectStore, feed: str) -> dt.date | None:
    """Return the feed's latest delivered business date; None if there is none. Reads the end of the chain only."""
    view, latest = live_and_shadow(store, feed), None
    for position in range(sum(1 for _ in view.list(chain_prefix(feed))), 0, -1):
        entry = chain_entry(view, feed, position)
        if _is_delivered(view, entry):
            latest = max(entry.business_date, latest or entry.business_date)
        # Revisions 0 are in order of the dates: earlier entries have earlier dates.
        if entry.revision == 0 and latest is not None:
            break
    return latest


def chain_dates(store: ObjectStore, feed: str, after: int, count: int) -> dict[int, dt.date]:
    """Return business dates by place in the feed's chain: of ``count`` places ``after`` one, and as many last ones."""
    view = live_and_shadow(store, feed)
    last = sum(1 for _ in view.list(chain_prefix(feed)))
    places = {*range(after + 1, min(last, after + count) + 1), *range(max(last - count, 0) + 1, last + 1)}
    return {place: chain_entry(view, feed, place).business_date for place in sorted(places)}


def _is_delivered(store: ObjectStore, entry: ChainEntry) -> bool:
    # A void manifest has no ledger. A delivery of before the ledger is recognized by its manifest.
    day, revision = entry.business_date, entry.revision
    if not store.exists(manifest_key(entry.feed, day, revision)):
        return False
    if next(iter(store.list(ledger_prefix(entry.feed, day, revision))), None) is not None:
        return True
    found = manifest_of(store, entry)
    return found is not None and isinstance(found[0], Manifest)


def date_status(store: ObjectStore, feed: str, day: dt.date) -> DateStatus:
    """Return the deliveries of ``day`` and the portfolios held back."""
    state = delivered_state(live_and_shadow(store, feed), feed, day)
    left_out = {entry.number: entry for manifest in state.deliveries for entry in manifest.held_back}
    excluded = held(store, feed, day)
    void = tuple(entry.revision for entry in state.revisions if not isinstance(entry.manifest, Manifest))
    return DateStatus(
        feed=feed,
        business_date=day,
        deliveries=tuple(state.deliveries),
        void_revisions=void,
        delivered=len(state.portfolios),
        held_back=tuple(left_out[number] for number in sorted(left_out.keys() - state.portfolios.keys())),
        quarantined=tuple(record for record in excluded if record.number not in state.portfolios),
        shadow=tuple(entry.revision for entry in state.deliveries if _in_shadow(store, feed, day, entry.revision)),
        delivered_but_excluded=sum(record.number in state.portfolios for record in excluded),
    )


def deliveries_of(
    store: ObjectStore, feed: str, day: dt.date, number: str | None = None
) -> tuple[PortfolioDelivery, ...]:
    """Return every delivery of a portfolio (or of all) for ``day``, in order of revision and portfolio number."""
    state = delivered_state(live_and_shadow(store, feed), feed, day)
    deliveries: list[PortfolioDelivery] = []
    for manifest in state.deliveries:
        pages = {page.message_id: page for page in manifest.pages}
        key = manifest_key(feed, day, manifest.revision)
        shadow = _in_shadow(store, feed, day, manifest.revision)
        for portfolio in manifest.portfolios:
            if number is None or portfolio.number == number:
                superseded = state.portfolios[portfolio.number].revision != manifest.revision
                page = pages[portfolio.page]
                deliveries.append(PortfolioDelivery(manifest, key, portfolio, page, superseded, shadow))
    return tuple(deliveries)
