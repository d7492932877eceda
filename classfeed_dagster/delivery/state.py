"""The delivered state of a business date, folded from the manifests of its revisions."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from classfeed_dagster.delivery.manifest import AnyManifest, Manifest, read_manifest
from classfeed_dagster.documents.document_format import message_id
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import canonical, delivered_prefix, sha256

_MANIFEST = re.compile(r"r(0|[1-9][0-9]*)/manifest\.json\Z")


@dataclass(frozen=True, slots=True)
class DeliveredRevision:
    """One revision's manifest, delivered or void, and its location."""

    revision: int
    key: str
    sha256: str
    manifest: AnyManifest


@dataclass(frozen=True, slots=True)
class PortfolioState:
    """The latest delivery of one portfolio for a business date."""

    digest: str
    revision: int
    removed: bool  # the delivery announced the end of its consent and nothing else


@dataclass(frozen=True)
class DeliveredState:
    """The deliveries of one business date of a feed, revision by revision."""

    feed: str
    business_date: dt.date
    revisions: tuple[DeliveredRevision, ...]

    @cached_property
    def portfolios(self) -> Mapping[str, PortfolioState]:
        """Return each portfolio's latest delivery for the date, by number."""
        latest: dict[str, PortfolioState] = {}
        for manifest in self.deliveries:
            for entry in manifest.portfolios:
                latest[entry.number] = PortfolioState(entry.digest, manifest.revision, entry.change == "REMOVED")
        return latest

    @property
    def deliveries(self) -> list[Manifest]:
        """Return the manifests of deliveries, in order of revision, without void ones."""
        return [revision.manifest for revision in self.revisions if isinstance(revision.manifest, Manifest)]

    @property
    def latest(self) -> Manifest | None:
        """Return the latest delivery; None if the date has not been delivered."""
        return self.deliveries[-1] if self.deliveries else None

    @property
    def next_revision(self) -> int:
        """Return the next revision number of the date. Void revisions keep theirs."""
        return self.revisions[-1].revision + 1 if self.revisions else 0

    @property
    def replaces(self) -> str | None:
        """Return the message id of the latest delivery's page 1, which the next one replaces (XSD, Replaces)."""
        return message_id(self.feed, self.business_date, self.latest.revision, 1) if self.latest else None

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Return the portfolios whose data was delivered for the date."""
        return frozenset(number for number, portfolio in self.portfolios.items() if not portfolio.removed)

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest that changes exactly when a portfolio's delivered content for the date does."""
        return sha256(canonical({number: portfolio.digest for number, portfolio in self.portfolios.items()}))

    @cached_property
    def held_back(self) -> Mapping[str, dt.date | None]:
        """Return the portfolios that a delivery of the date held back, with the earlier date that each waited for."""
        return {entry.number: entry.waiting_for for manifest in self.deliveries for entry in manifest.held_back}


@dataclass(frozen=True, slots=True)
class EarlierDate:
    """The business date before the planned one.

    ``delivered`` is None while that date has not been delivered. A document built ahead then assumes a complete
    delivery, and publishing refuses it if that proves wrong. ``waiting`` maps a portfolio held back on that date to
    the date that it waits for, so that the reason names the date to correct.
    """

    date: dt.date
    delivered: frozenset[str] | None
    waiting: Mapping[str, dt.date]


def delivered_state(store: ObjectStore, feed: str, day: dt.date) -> DeliveredState:
    """Return the delivered state of ``day``. Raise DamagedRecordError if one of its manifests is unreadable."""
    prefix = delivered_prefix(feed, day)
    revisions: list[DeliveredRevision] = []
    for key in store.list(prefix):
        if name := _MANIFEST.match(key.removeprefix(prefix)):
            data = store.read(key)
            manifest = read_manifest(data, store.location(key))
            revisions.append(DeliveredRevision(int(name[1]), key, sha256(data), manifest))
    return DeliveredState(feed, day, tuple(sorted(revisions, key=lambda entry: entry.revision)))


def delivered_numbers(store: ObjectStore, feed: str, day: dt.date) -> frozenset[str]:
    """Return the portfolios whose data was delivered for ``day``."""
    return delivered_state(store, feed, day).numbers


def earlier_date(store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date) -> EarlierDate | None:
    """Return the state of the date before ``day`` that the plan needs; None on the first date."""
    previous = audience.previous(day)
    if previous is None:
        return None
    state = delivered_state(store, feed, previous)
    if state.latest is None:
        return EarlierDate(previous, None, {})
    return EarlierDate(previous, state.numbers, {n: date or previous for n, date in state.held_back.items()})


def ever_delivered(
    store: ObjectStore, feed: str, audience: RecipientSchedule, numbers: Iterable[str], before: dt.date
) -> frozenset[str]:
    """Return those of ``numbers`` that were delivered before ``before`` under the consent in force until then.

    Walks back date by date. For a portfolio the walk ends at a date that neither delivered it nor held it back, or
    that announced its removal: earlier deliveries belong to an earlier consent, whose end was announced then.
    """
    undecided, delivered = set(numbers), set[str]()
    day = audience.previous(before)
    while undecided and day is not None:
        state = delivered_state(store, feed, day)
        delivered |= undecided & state.numbers
        undecided &= state.held_back.keys() - state.portfolios.keys()
        day = audience.previous(day)
    return frozenset(delivered)
