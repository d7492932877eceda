"""Publishing a staged build exactly once: pages first, consent queried again, the manifest last (docs/adr/0002).

Every step is a conditional create or can be repeated. A process may die, or pause for an hour, between any two steps,
and any number of processes may run at once.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.chain import (
    ChainPlace,
    claim_next,
    close_place,
    last_place,
    remove_orphans,
    wait_for_manifest,
)
from classfeed_dagster.delivery.gate import files_checked, require_verdicts
from classfeed_dagster.delivery.ledger_publication import publish_ledger
from classfeed_dagster.delivery.manifest import (
    ChainEntry,
    ControlTotals,
    Link,
    Manifest,
    Page,
    PassedCheck,
    VoidManifest,
)
from classfeed_dagster.delivery.pages import UNREADABLE, Written, written
from classfeed_dagster.delivery.portfolio_list import PortfolioList, publish_portfolios
from classfeed_dagster.delivery.state import DeliveredState, delivered_state, ever_delivered, publish_checkpoint
from classfeed_dagster.errors import (
    ChainBusyError,
    ConsentChangedError,
    DamagedRecordError,
    NotInOrderError,
    StaleBuildError,
)
from classfeed_dagster.ledger.files import LedgerFiles
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import (
    canonical,
    create_record,
    delivered_prefix,
    file_facts,
    manifest_key,
    sha256,
    stored_facts,
)
from classfeed_dagster.wording import counted

_ROUNDS = 100
ConsentAnswer = tuple[dt.datetime, Collection[str]]


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """Result of publishing. ``manifest`` is the new one, or the one that delivered the same content before."""

    kind: Literal["DELIVERED", "ALREADY_DELIVERED", "NOTHING_TO_DO"]
    manifest: Manifest | None

    @property
    def manifest_key(self) -> str | None:
        """Return the manifest's key in the store."""
        manifest = self.manifest
        return manifest_key(manifest.feed, manifest.business_date, manifest.revision) if manifest else None


def publish(
    store: ObjectStore,
    build: Build,
    *,
    consented_now: Callable[[], ConsentAnswer],
    audience: RecipientSchedule,
    correlation_id: str,
    patience_seconds: float = 60.0,
    sleep: Callable[[float], None] = time.sleep,
    ledger_view: Callable[[], str] | None = None,
) -> PublishOutcome:
    """Deliver ``build`` unless it was delivered before. Safe to repeat and to run concurrently.

    ``consented_now`` queries bigsite's consents (UTC instant by bigsite's clock, portfolio numbers). It is called
    before anything is written and again right before the manifest. ``patience_seconds`` is the time without progress
    after which another attempt's place in the chain is closed.

    Raises:
        NotInOrderError: the previous date is not delivered.
        StaleBuildError: the date's deliveries have changed since the build, or a staged file is missing.
        ConsentChangedError: a portfolio in it no longer consents.
        GateRefusedError: a passed verdict for exactly these documents is missing.
        ChainBusyError: other deliveries kept taking the next place.

    After any error nothing of the build is delivered, and a retry is safe.
    """
    attempt = _Attempt(store, build, consented_now, audience, correlation_id, patience_seconds, sleep, ledger_view)
    for _ in range(_ROUNDS):
        outcome = attempt.once()
        if outcome is not None:
            return outcome
    raise ChainBusyError(
        f"{build.feed} of {build.business_date.isoformat()}: other deliveries of the feed kept taking the next place "
        "in its chain. The build is valid: run it again."
    )


@dataclass(frozen=True, slots=True)
class _Attempt:
    store: ObjectStore
    build: Build
    consented_now: Callable[[], ConsentAnswer]
    audience: RecipientSchedule
    correlation_id: str
    patience_seconds: float
    sleep: Callable[[float], None]
    ledger_view: Callable[[], str] | None = None

    def once(self) -> PublishOutcome | None:
        """Run one round of the protocol; return None if the state changed meanwhile and another round is needed."""
        store, build = self.store, self.build
        # The chain first, the deliveries second: see claim_next.
        last = last_place(store, build.feed)
        state = delivered_state(store, build.feed, build.business_date)
        for manifest in (*(revision.manifest for revision in state.recent), state.at(build.revision)):
            if isinstance(manifest, VoidManifest):
                remove_orphans(store, manifest)  # the attempt that closed it may have stopped before this
        require_list(store, build)
        outcome = _done(build, state)
        if outcome is not None:
            return outcome
        _require_fresh(build, state)
        _require_order(store, build, self.audience)
        _require_view(build, self.ledger_view)
        passed = require_verdicts(store, build)

        entry = _entry(build)
        unfinished = last if last is not None and last.manifest is None else None
        if unfinished is not None and not _continues(unfinished.entry, entry):
            self._give_way(unfinished, "its attempt stopped, and another delivery of the feed went on")
            return None
        if not self._all_consent(self.consented_now()[1], unfinished):
            return None
        place = unfinished or claim_next(store, last, entry)
        return None if place is None else self._deliver(place, passed, state)

    def _give_way(self, place: ChainPlace, reason: str) -> None:
        if not wait_for_manifest(self.store, place, self.patience_seconds, self.sleep):
            close_place(self.store, place, reason, self.correlation_id)

    def _all_consent(self, consented: Collection[str], begun: ChainPlace | None) -> bool:
        # ConsentChangedError if a consent ended. False: another attempt delivered before that was detected.
        current = set(consented)
        ended = [
            portfolio.number
            for portfolio in self.build.portfolios
            if portfolio.change != "REMOVED" and portfolio.number not in current
        ]
        if not ended:
            return True
        # The begun delivery holds data without consent: close it at once, so that its pages are removed too.
        reason = "a consent ended before it was delivered"
        if begun is None or close_place(self.store, begun, reason, self.correlation_id):
            raise ConsentChangedError(ended)
        return False

    def _deliver(
        self, place: ChainPlace, passed: tuple[PassedCheck, ...], state: DeliveredState
    ) -> PublishOutcome | None:
        store, build = self.store, self.build
        pages = [page.model_copy(update={"key": self._target(page)}) for page in build.pages]
        if not self._copy_pages(pages, checked=files_checked(store, build)):
            self._give_way(place, "its pages are those of another attempt, which stopped")
            return None
        ledger = None
        if staged := build.staged_ledger:
            ledger = publish_ledger(store, place.entry, place.position, staged, self.audience)
            if ledger is None:
                self._give_way(place, "its ledger is that of another attempt, which stopped")
                return None
        listed = publish_portfolios(store, build.feed, build.business_date, build.revision, build.portfolios)
        if listed is None:
            self._give_way(place, "its list of portfolios is that of another attempt, which stopped")
            return None
        asked_at, consented = self.consented_now()
        if not self._all_consent(consented, place):
            return None
        manifest = _manifest(
            build,
            place=place,
            pages=pages,
            listed=listed,
            passed=passed,
            asked_at=asked_at,
            correlation_id=self.correlation_id,
            ledger=ledger,
            checkpoint=publish_checkpoint(store, state),
        ).listed_in(store)
        key = manifest_key(build.feed, build.business_date, build.revision)
        if create_record(store, key, manifest, {"correlation-id": self.correlation_id}):
            return PublishOutcome("DELIVERED", manifest)
        return None

    def _target(self, page: Page) -> str:
        build = self.build
        return delivered_prefix(build.feed, build.business_date, build.revision) + page.key.rpartition("/")[2]

    def _copy_pages(self, pages: Sequence[Page], *, checked: bool) -> bool:
        # Page 1 is copied first and alone: of two attempts with different content the second stops there, or before if
        # there are several pages (see ``_entry``), and no page stays behind.
        pairs = list(zip(self.build.pages, pages, strict=True))
        if not self._copy(*pairs[0], checked=checked):
            return False
        with ThreadPoolExecutor(max_workers=4) as pool:
            return all(pool.map(lambda pair: self._copy(*pair, checked=checked), pairs[1:]))

    def _copy(self, staged: Page, target: Page, *, checked: bool) -> bool:
        # False if the page's key has other content, or its revision was closed meanwhile.
        try:
            with self.store.local_file(staged.key) as path:
                if not (_is_file if checked else _is_page)(path, staged):
                    raise DamagedRecordError(self.store.location(staged.key), "the staged page is not the one checked")
                metadata = {"correlation-id": self.correlation_id, "sha256": staged.sha256}
                created = self.store.create(target.key, path, metadata)
        except ObjectNotFoundError as error:
            raise StaleBuildError(f"{error.location}: a staged page is missing. Build again.") from None
        try:
            arrived = stored_facts(self.store, target.key) == (target.bytes, target.sha256)
        except ObjectNotFoundError:
            return False
        if created and not arrived:
            raise DamagedRecordError(self.store.location(target.key), "the page read back differs from the one written")
        return arrived


def _entry(build: Build) -> ChainEntry:
    # A page need not state how many there are: two attempts may differ in later pages only.
    pages = [[page.message_id, page.sha256] for page in build.pages]
    digest = sha256(canonical(pages)) if len(pages) > 1 else None
    return ChainEntry(feed=build.feed, business_date=build.business_date, revision=build.revision, pages=digest)


def _continues(begun: ChainEntry, own: ChainEntry) -> bool:
    # An entry of an earlier release has no digest.
    pages = own.pages if begun.pages is None else begun.pages
    return begun.model_copy(update={"pages": pages}) == own


def _is_file(path: Path, page: Page) -> bool:
    # Enough for a file that the gate read, because the document has exactly these bytes.
    return file_facts(path) == (page.bytes, page.sha256)


def _is_page(path: Path, page: Page) -> bool:
    try:
        return written(path) == Written(page.bytes, page.sha256, page.document_bytes, page.document_sha256)
    except UNREADABLE:
        return False


def _done(build: Build, state: DeliveredState) -> PublishOutcome | None:
    # The outcome if nothing is left to do: this build or all its content was delivered, or it is empty.
    own = state.at(build.revision)
    if isinstance(own, Manifest) and own.build_id == build.build_id:
        return PublishOutcome("ALREADY_DELIVERED", own)
    if state.latest is None:
        return None
    if not build.pages:
        return PublishOutcome("NOTHING_TO_DO", state.latest) if state.fingerprint == build.delivered_before else None
    delivered = {number: portfolio.digest for number, portfolio in state.portfolios.items()}
    if all(delivered.get(portfolio.number) == portfolio.digest for portfolio in build.portfolios):
        return PublishOutcome("ALREADY_DELIVERED", state.latest)
    return None


def require_list(store: ObjectStore, build: Build) -> None:
    """Raise StaleBuildError if the staged list of the build's portfolios is missing: staging stores it again."""
    listed = build.portfolio_list
    if listed is not None and not store.exists(listed.key):
        raise StaleBuildError(f"{store.location(listed.key)}: the staged list of portfolios is missing. Build again.")


def _require_fresh(build: Build, state: DeliveredState) -> None:
    assumed = (build.revision, build.replaces, build.delivered_before)
    if assumed != (state.next_revision, state.replaces, state.fingerprint):
        raise StaleBuildError(
            f"{build.feed} of {build.business_date.isoformat()}: build {build.build_id} was made as revision "
            f"{build.revision}, and revision {state.next_revision} comes next after what was delivered since. "
            "Build again from the same snapshot."
        )


def _require_view(build: Build, ledger_view: Callable[[], str] | None) -> None:
    # What was sent since, on this date or another, decides which rows this build may carry.
    if ledger_view is not None and ledger_view() != build.ledger_view:
        raise StaleBuildError(
            f"{build.feed} of {build.business_date.isoformat()}: build {build.build_id} was made before other records "
            "of the feed were sent. Build again from the same snapshot."
        )


def _require_order(store: ObjectStore, build: Build, audience: RecipientSchedule) -> None:
    # The plan's assumptions about earlier dates must hold now that these are delivered.
    day = build.business_date
    assumed = (build.recipient, build.previous_date, build.sequence_number)
    if assumed != (audience.recipient, audience.previous(day), audience.sequence_number(day)):
        raise StaleBuildError(
            f"{build.feed} of {day.isoformat()}: build {build.build_id} was made for another recipient, first business "
            "date or cadence. Build again."
        )
    if build.previous_date is None:
        return
    earlier = delivered_state(store, build.feed, build.previous_date)
    if earlier.latest is None:
        raise NotInOrderError(build.feed, day, build.previous_date)
    unknown = [portfolio for portfolio in build.portfolios if portfolio.number not in earlier.numbers]
    early = {portfolio.number for portfolio in unknown if portfolio.change == "CURRENT"}
    announced = {portfolio.number for portfolio in unknown if portfolio.change == "REMOVED"}
    in_doubt = announced | set(build.unannounced)
    delivered = ever_delivered(store, build.feed, audience, in_doubt, day) if in_doubt else frozenset()
    wrong = sorted({*early, *(announced - delivered), *(delivered & set(build.unannounced))})
    if wrong:
        raise StaleBuildError(
            f"{build.feed} of {day.isoformat()}: build {build.build_id} was made before {build.previous_date} was "
            f"delivered, and its assumptions are wrong for {counted(len(wrong), 'portfolio')} "
            f"({', '.join(wrong[:20])}). Build "
            "again."
        )


def _manifest(
    build: Build,
    *,
    place: ChainPlace,
    pages: Sequence[Page],
    listed: PortfolioList,
    passed: tuple[PassedCheck, ...],
    asked_at: dt.datetime,
    correlation_id: str,
    ledger: LedgerFiles | None,
    checkpoint: Link | None,
) -> Manifest:
    totals = build.totals
    return Manifest(
        schema_version=2,
        feed=build.feed,
        recipient=build.recipient,
        business_date=build.business_date,
        sequence_number=build.sequence_number,
        revision=build.revision,
        chain_position=place.position,
        previous=place.previous,
        replaces=build.replaces,
        recorded_after=build.recorded_after,
        recorded_before=build.recorded_before,
        snapshot=build.snapshot,
        build_id=build.build_id,
        code_version=build.code_version,
        correlation_id=correlation_id,
        consent_checked_at=asked_at,
        flags=build.flags,
        pages=tuple(pages),
        portfolio_list=listed,
        held_back=build.held_back,
        counts=dict(totals.counts),
        totals=ControlTotals.of(totals),
        verdicts=passed,
        ledger=ledger,
        checkpoint=checkpoint,
    )
