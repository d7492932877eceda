"""What has been delivered, told from the manifests alone: a fold over the revisions of a business date."""

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
class Revision:
    """One revision's manifest, delivered or void, and where it is."""

    revision: int
    key: str
    sha256: str
    manifest: AnyManifest


@dataclass(frozen=True, slots=True)
class Delivered:
    """The latest delivery of one portfolio for a business date."""

    digest: str
    revision: int
    removed: bool  # the delivery said that its consent ended, and nothing else


@dataclass(frozen=True)
class DeliveredState:
    """What was delivered for one business date of a feed, revision after revision."""

    feed: str
    business_date: dt.date
    revisions: tuple[Revision, ...]

    @cached_property
    def portfolios(self) -> Mapping[str, Delivered]:
        """Each portfolio's latest delivery for the date, by number."""
        latest: dict[str, Delivered] = {}
        for manifest in self.deliveries:
            for entry in manifest.portfolios:
                latest[entry.number] = Delivered(entry.digest, manifest.revision, entry.change == "REMOVED")
        return latest

    @property
    def deliveries(self) -> list[Manifest]:
        """The manifests that delivered something, in order of revision; void ones left out."""
        return [found.manifest for found in self.revisions if isinstance(found.manifest, Manifest)]

    @property
    def latest(self) -> Manifest | None:
        """The latest delivery; None if the date has not been delivered."""
        return self.deliveries[-1] if self.deliveries else None

    @property
    def next_revision(self) -> int:
        """The revision that the next delivery of the date gets; void ones keep theirs."""
        return self.revisions[-1].revision + 1 if self.revisions else 0

    @property
    def replaces(self) -> str | None:
        """Message id of page 1 of the latest delivery, which the next one replaces in part (XSD, Replaces)."""
        return message_id(self.feed, self.business_date, self.latest.revision, 1) if self.latest else None

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Portfolios whose data was delivered for the date."""
        return frozenset(number for number, found in self.portfolios.items() if not found.removed)

    @cached_property
    def fingerprint(self) -> str:
        """Changes if and only if some portfolio's delivered content for the date does."""
        return sha256(canonical({number: found.digest for number, found in self.portfolios.items()}))

    @cached_property
    def held_back(self) -> Mapping[str, dt.date | None]:
        """Portfolios that some delivery of the date left out, and the earlier date that each was waiting for."""
        return {entry.number: entry.waiting_for for manifest in self.deliveries for entry in manifest.held_back}


@dataclass(frozen=True, slots=True)
class EarlierDate:
    """The audience's business date before the one being planned.

    ``delivered`` is None while that date has not been delivered: a document built ahead assumes that all will go,
    and publishing refuses it should that turn out wrong. ``waiting`` gives the date that a portfolio left out
    there waits for itself, so that the reason names the date to mend.
    """

    date: dt.date
    delivered: frozenset[str] | None
    waiting: Mapping[str, dt.date]


def delivered_state(store: ObjectStore, feed: str, day: dt.date) -> DeliveredState:
    """What was delivered for ``day``. DamagedRecordError if one of its manifests can't be read."""
    prefix = delivered_prefix(feed, day)
    found: list[Revision] = []
    for key in store.list(prefix):
        if name := _MANIFEST.match(key.removeprefix(prefix)):
            data = store.read(key)
            found.append(Revision(int(name[1]), key, sha256(data), read_manifest(data, store.location(key))))
    return DeliveredState(feed, day, tuple(sorted(found, key=lambda one: one.revision)))


def delivered_numbers(store: ObjectStore, feed: str, day: dt.date) -> frozenset[str]:
    """Portfolios whose data was delivered for ``day``."""
    return delivered_state(store, feed, day).numbers


def earlier_date(store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date) -> EarlierDate | None:
    """What the plan for ``day`` needs of the audience's date before it; None on the audience's first date."""
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
    """Those of ``numbers`` whose data was delivered before ``before``, in the consent that lasted until then.

    Walks back date by date, and stops for a portfolio at a date that neither delivered it nor held it back, or that
    announced its removal: what went before belongs to an earlier consent, whose end was announced then.
    """
    open_questions, found = set(numbers), set[str]()
    day = audience.previous(before)
    while open_questions and day is not None:
        state = delivered_state(store, feed, day)
        found |= open_questions & state.numbers
        open_questions &= state.held_back.keys() - state.portfolios.keys()
        day = audience.previous(day)
    return frozenset(found)
