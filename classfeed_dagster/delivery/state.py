"""The delivered state of a business date, folded from the manifests of its revisions, without withheld files.

A file is withheld, that is never sent, if a consent ended between the delivery and the sending. Its record is created
next to the manifest, which never changes. Its portfolios count as not delivered, so that the next build of the date
carries those that still consent.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt

from classfeed_dagster.delivery.manifest import (
    AnyManifest,
    ControlTotals,
    HeldBack,
    Link,
    Manifest,
    read_manifest,
    sum_totals,
)
from classfeed_dagster.documents.document_format import message_id
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import (
    Sha256,
    StoredRecord,
    canonical,
    delivered_prefix,
    from_json,
    manifest_key,
    read_record,
    sha256,
    to_json,
)

WITHHELD = re.compile(r"r(?P<revision>0|[1-9][0-9]*)/withheld-(?P<message_id>.+)\.json\Z")


class WithheldFile(StoredRecord):
    """One delivered file that is not sent."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    message_id: str = Field(description="id of the file")
    ended: tuple[str, ...] = Field(description="numbers of the portfolios whose consent ended")
    may_have_arrived: bool = Field(description="true if an attempt began to send it and there is no receipt")
    withheld_at: AwareDatetime
    correlation_id: str


def withheld_key(feed: str, day: dt.date, revision: int, message_id: str) -> str:
    """Return the key of a withheld file's record."""
    return f"{delivered_prefix(feed, day, revision)}withheld-{message_id}.json"


def disclosed(manifest: Manifest, withheld: Sequence[WithheldFile]) -> Manifest:
    """Return a manifest without the withheld files and their portfolios. Those whose consent ended are held back."""
    if not withheld:
        return manifest
    names = {file.message_id for file in withheld}
    pages = tuple(page for page in manifest.pages if page.message_id not in names)
    totals = sum_totals(pages)
    ended = sorted({number for file in withheld for number in file.ended})
    entries = [HeldBack(number=number, kind="CONSENT_ENDED", reason="consent ended before sending") for number in ended]
    return manifest.model_copy(
        update={
            "pages": pages,
            "portfolios": tuple(portfolio for portfolio in manifest.portfolios if portfolio.page not in names),
            "held_back": tuple(sorted([*manifest.held_back, *entries], key=lambda entry: entry.number)),
            "counts": dict(totals.counts),
            "totals": ControlTotals.of(totals),
        }
    )


CHECKPOINT_EVERY = 16  # revisions of a date that are read one by one; earlier ones are folded into a checkpoint
_MANIFEST = re.compile(r"r(0|[1-9][0-9]*)/manifest\.json\Z")


@dataclass(frozen=True, slots=True)
class DeliveredRevision:
    """One revision's manifest, delivered or void, and its location."""

    revision: int
    key: str
    sha256: str
    manifest: AnyManifest
    withheld_numbers: frozenset[str] = frozenset()
    may_have_arrived: frozenset[str] = frozenset()  # those whose file an attempt began to send


class PortfolioState(NamedTuple):
    """The latest delivery of one portfolio for a business date."""

    digest: str
    revision: int
    removed: bool  # the delivery announced the end of its consent and nothing else


class Checkpoint(StoredRecord):
    """The earlier revisions of a date, folded, so that a delivery needs not read them."""

    schema_version: Literal[1] = 1
    revision: NonNegativeInt = Field(description="the last revision folded")
    chain_position: PositiveInt = Field(description="its position in the feed's chain")
    run_from: PositiveInt = Field(description="position from which the chain holds this date only")
    first: NonNegativeInt = Field(description="the date's first delivery")
    portfolios: dict[str, PortfolioState] = Field(description="latest delivery of each portfolio, by number")
    held_back: dict[str, dt.date | None] = Field(description="portfolios held back, and the date that each waited for")
    manifests: dict[NonNegativeInt, Sha256] = Field(
        description="SHA-256 of the first, the last and every manifest with a portfolio's latest delivery"
    )


@dataclass(frozen=True)
class DeliveredState:
    """The deliveries of one business date of a feed, revision by revision.

    ``recent`` are the revisions read; with a ``checkpoint``, the first of them names it, and ``earlier`` revisions are
    read from ``store`` on demand.
    """

    feed: str
    business_date: dt.date
    recent: tuple[DeliveredRevision, ...]
    store: ObjectStore
    checkpoint: Checkpoint | None = None
    earlier: tuple[int, ...] = ()

    @cached_property
    def revisions(self) -> tuple[DeliveredRevision, ...]:
        """Return every revision of the date. Reads the earlier ones: ``recent`` does not grow with their number."""
        return (*(self._read(revision) for revision in self.earlier), *self.recent)

    def _read(self, revision: int) -> DeliveredRevision:
        return read_revision(self.store, self.feed, self.business_date, revision)

    @cached_property
    def current(self) -> tuple[DeliveredRevision, ...]:
        """Return the deliveries that hold a portfolio's latest one, and the recent ones.

        Raise DamagedRecordError if one of them is not the manifest that the checkpoint names.
        """
        recent = tuple(entry for entry in self.recent if isinstance(entry.manifest, Manifest))
        if self.checkpoint is None:
            return recent
        numbers = {portfolio.revision for portfolio in self.portfolios.values()}
        return (*(self._named(number) for number in sorted(numbers & self.checkpoint.manifests.keys())), *recent)

    def _named(self, revision: int) -> DeliveredRevision:
        entry = self._read(revision)
        if self.checkpoint is None or entry.sha256 != self.checkpoint.manifests[revision]:
            raise DamagedRecordError(self.store.location(entry.key), "a later delivery of the date names other bytes")
        return entry

    @cached_property
    def portfolios(self) -> Mapping[str, PortfolioState]:
        """Return each portfolio's latest delivery for the date, by number."""
        latest = dict(self.checkpoint.portfolios) if self.checkpoint else {}
        for manifest in self._recent_deliveries:
            for entry in manifest.portfolios:
                latest[entry.number] = PortfolioState(entry.digest, manifest.revision, entry.change == "REMOVED")
        return latest

    @property
    def _recent_deliveries(self) -> list[Manifest]:
        return [revision.manifest for revision in self.recent if isinstance(revision.manifest, Manifest)]

    @property
    def deliveries(self) -> list[Manifest]:
        """Return the manifests of all deliveries, in order of revision, without void ones."""
        return [revision.manifest for revision in self.revisions if isinstance(revision.manifest, Manifest)]

    def delivered_after(self, position: int) -> list[Manifest]:
        """Return the manifests of deliveries after a position of the chain."""
        folded = self.checkpoint is not None and self.checkpoint.chain_position <= position
        deliveries = self._recent_deliveries if folded else self.deliveries
        return [manifest for manifest in deliveries if manifest.chain_position > position]

    def before(self, position: int) -> DeliveredState:
        """Return the state as of the claim of a position of the chain."""
        if not self.recent or self.recent[-1].manifest.chain_position < position:
            return self
        recent = self.recent
        if recent[0].manifest.chain_position >= position:
            recent = self.revisions
        kept = tuple(revision for revision in recent if revision.manifest.chain_position < position)
        whole = recent is self.revisions
        return DeliveredState(
            self.feed,
            self.business_date,
            kept,
            self.store,
            None if whole else self.checkpoint,
            () if whole else self.earlier,
        )

    def at(self, revision: int) -> AnyManifest | None:
        """Return the manifest of one revision; None if it has none."""
        if revision in self.earlier:
            return self._read(revision).manifest
        return next((entry.manifest for entry in self.recent if entry.revision == revision), None)

    @property
    def first(self) -> Manifest | None:
        """Return the first delivery; None if the date has not been delivered."""
        if self.checkpoint is None:
            return next(iter(self._recent_deliveries), None)
        manifest = self._named(self.checkpoint.first).manifest
        return manifest if isinstance(manifest, Manifest) else None

    @property
    def latest(self) -> Manifest | None:
        """Return the latest delivery; None if the date has not been delivered."""
        return self._recent_deliveries[-1] if self._recent_deliveries else None

    @property
    def next_revision(self) -> int:
        """Return the next revision number of the date. Void revisions keep theirs."""
        return self.recent[-1].revision + 1 if self.recent else 0

    @property
    def replaces(self) -> str | None:
        """Return the message id of the latest delivery's page 1, which the next one replaces (XSD, Replaces).

        A delivery is not replaced if all its files are withheld.
        """
        revisions = [manifest.revision for manifest in self._recent_deliveries if manifest.pages]
        return message_id(self.feed, self.business_date, revisions[-1], 1) if revisions else None

    @cached_property
    def withheld_numbers(self) -> frozenset[str]:
        """Return the portfolios on withheld files."""
        return frozenset().union(*(revision.withheld_numbers for revision in self.recent))

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
        held_back = dict(self.checkpoint.held_back) if self.checkpoint else {}
        recent = (entry for manifest in self._recent_deliveries for entry in manifest.held_back)
        return held_back | {entry.number: entry.waiting_for for entry in recent}


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


def delivered_state(
    store: ObjectStore, feed: str, day: dt.date, until: int | None = None, *, sent: bool = True
) -> DeliveredState:
    """Return the delivered state of ``day``, or of its revisions below ``until``.

    Read the revisions back to a checkpoint, or all if files are withheld. ``sent=False`` counts withheld files as
    well. Raise DamagedRecordError if one of these manifests is unreadable.
    """
    prefix = delivered_prefix(feed, day)
    keys = [key.removeprefix(prefix) for key in store.list(prefix)]
    names = (_MANIFEST.match(key) for key in keys)
    earlier = sorted(int(name[1]) for name in names if name and (until is None or int(name[1]) < until))
    files = [prefix + key for key in keys if WITHHELD.match(key)]
    if sent and files:
        withheld = [read_record(store, WithheldFile, key) for key in files]
        every = (read_revision(store, feed, day, revision) for revision in earlier)
        return DeliveredState(feed, day, tuple(_without(entry, withheld) for entry in every), store)
    recent: list[DeliveredRevision] = []
    checkpoint = None
    while earlier and checkpoint is None:
        recent.append(read_revision(store, feed, day, earlier.pop()))
        checkpoint = read_checkpoint(store, recent[-1].manifest)
    return DeliveredState(feed, day, tuple(reversed(recent)), store, checkpoint, tuple(earlier))


def _without(revision: DeliveredRevision, every: Sequence[WithheldFile]) -> DeliveredRevision:
    manifest = revision.manifest
    withheld = [file for file in every if file.revision == revision.revision]
    if not withheld or not isinstance(manifest, Manifest):
        return revision
    began = {file.message_id for file in withheld if file.may_have_arrived}
    remaining = disclosed(manifest, withheld)
    numbers = {portfolio.number for portfolio in remaining.portfolios}
    return replace(
        revision,
        manifest=remaining,
        withheld_numbers=frozenset(portfolio.number for portfolio in manifest.portfolios) - numbers,
        may_have_arrived=frozenset(
            portfolio.number
            for portfolio in manifest.portfolios
            if portfolio.page in began and portfolio.change != "REMOVED"
        ),
    )


def read_revision(store: ObjectStore, feed: str, day: dt.date, revision: int) -> DeliveredRevision:
    """Return one revision, delivered or void. Raise DamagedRecordError if its manifest is missing or unreadable."""
    key = manifest_key(feed, day, revision)
    try:
        data = store.read(key)
    except ObjectNotFoundError:
        raise DamagedRecordError(store.location(key), "the manifest is missing") from None
    return DeliveredRevision(revision, key, sha256(data), read_manifest(data, store.location(key), store))


def read_checkpoint(store: ObjectStore, manifest: AnyManifest) -> Checkpoint | None:
    """Return the checkpoint that a manifest names. Raise DamagedRecordError unless it has the named bytes."""
    if not isinstance(manifest, Manifest) or manifest.checkpoint is None:
        return None
    location = store.location(manifest.checkpoint.key)
    try:
        data = store.read(manifest.checkpoint.key)
    except ObjectNotFoundError:
        raise DamagedRecordError(location, "a checkpoint that a manifest names is missing") from None
    if sha256(data) != manifest.checkpoint.sha256:
        raise DamagedRecordError(location, "it is not the checkpoint that the manifest names")
    return from_json(Checkpoint, data, location)


def publish_checkpoint(store: ObjectStore, state: DeliveredState) -> Link | None:
    """Store the fold of ``state`` for the next revision, if enough revisions were read one by one.

    Every attempt at that revision folds the same manifests to the same bytes.
    """
    checkpoint = checkpoint_of(state)
    if checkpoint is None:
        return None
    key = f"{ledger_prefix(state.feed, state.business_date, state.next_revision)}checkpoint.json"
    data = to_json(checkpoint)
    store.create(key, data)
    return Link(key=key, sha256=sha256(data))


def checkpoint_of(state: DeliveredState) -> Checkpoint | None:
    """Return the fold of a date's revisions; None while few were read one by one, or if files are withheld."""
    first = state.first
    if len(state.recent) < CHECKPOINT_EVERY or first is None or state.withheld_numbers:
        return None
    last = state.recent[-1]
    hashes = {entry.revision: entry.sha256 for entry in (*state.current, last)}
    if state.checkpoint is not None:
        hashes[first.revision] = state.checkpoint.manifests[first.revision]
    named = {portfolio.revision for portfolio in state.portfolios.values()} | {first.revision, last.revision}
    return Checkpoint(
        revision=last.revision,
        chain_position=last.manifest.chain_position,
        run_from=_run_from(state),
        first=first.revision,
        portfolios=dict(sorted(state.portfolios.items())),
        held_back=dict(sorted(state.held_back.items())),
        manifests={revision: hashes[revision] for revision in sorted(named)},
    )


def checkpoint_fault(store: ObjectStore, manifest: Manifest) -> str | None:
    """Return the contradiction of a manifest's checkpoint and the revisions that it folds; None without one."""
    if manifest.checkpoint is None:
        return None
    try:
        stored = read_checkpoint(store, manifest)
        earlier = delivered_state(store, manifest.feed, manifest.business_date, until=manifest.revision, sent=False)
        return None if stored == checkpoint_of(earlier) else "it differs from the revisions that it folds"
    except DamagedRecordError as error:
        return str(error)


def _run_from(state: DeliveredState) -> int:
    positions = [entry.manifest.chain_position for entry in reversed(state.recent)]
    run = next((at for at, position in enumerate(positions) if position != positions[0] - at), len(positions))
    start = positions[run - 1]
    before = state.checkpoint
    if before is not None and run == len(positions) and before.chain_position == start - 1:
        return before.run_from
    return start


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
    that announced its removal. Deliveries before that belong to an earlier consent.
    """
    undecided, delivered = set(numbers), set[str]()
    day = audience.previous(before)
    while undecided and day is not None:
        state = delivered_state(store, feed, day)
        delivered |= undecided & state.numbers.union(*(revision.may_have_arrived for revision in state.recent))
        undecided &= state.held_back.keys() - state.portfolios.keys()
        day = audience.previous(day)
    return frozenset(delivered)
