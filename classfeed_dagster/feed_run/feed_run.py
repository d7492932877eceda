"""A feed's last steps for one business date, without Dagster: hold back, stage, judge, publish.

The assets call these in order; so do proofs and torture tests, in a plain loop.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.consent import ask_consent_now
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.build import Build, DeliveryContext, build_delivery, read_build
from classfeed_dagster.delivery.chain_integrity import require_chain
from classfeed_dagster.delivery.checks import CheckResult
from classfeed_dagster.delivery.feed_mode import FeedMode, switched
from classfeed_dagster.delivery.manifest import SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, plan_delivery
from classfeed_dagster.delivery.publish import Outcome, publish
from classfeed_dagster.delivery.quarantine import held, update_quarantine
from classfeed_dagster.delivery.state import delivered_state, earlier_date, ever_delivered
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains.build import (
    CONSENTED,
    DomainReference,
    open_domains,
    read_consent_roll,
    read_frame,
)
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.errors import CodeFaultError, NotInOrderError, StaleBuildError
from classfeed_dagster.feed_run.delivery_checks import check_consent_rollforward, evaluate_checks, judge_live
from classfeed_dagster.feed_run.exclusion import already_there, one_live_feed
from classfeed_dagster.feed_run.findings import FindingsReference, collect_findings, read_findings
from classfeed_dagster.feed_run.flags import attempt_flags
from classfeed_dagster.feed_run.ledger_view import LedgerView, ledger_view
from classfeed_dagster.feed_run.switches import FeedFlags, carried, chosen_format, switched_frames
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore

LANDING = "landing"  # under which name the snapshot is kept
MAX_RESTAGINGS = 3


class BuildReference(BaseModel, frozen=True):
    """Which staged build is the document of a date."""

    build_id: str


class FeedIdleError(CodeFaultError):
    """The feed has nothing to do on the date: look at ``FeedDay.idle`` before asking for a step."""


@dataclass(frozen=True)
class FeedRun:
    """One feed on one business date, and one attempt at it.

    ``now`` is a rehearsal's clock; None: the real one. ``feeds`` are all feeds there are, since some exclude each
    other; None: the declared ones.
    """

    runtime: Runtime
    feed: Feed
    audience: RecipientSchedule
    day: dt.date
    correlation_id: str
    now: dt.datetime | None = None
    feeds: tuple[Feed, ...] | None = None

    # What the attempt works with.

    @cached_property
    def switches(self) -> dict[str, FeedFlags]:
        """The switches of this feed, and of those that it excludes, as the attempt's first step found them."""
        environment = self.runtime.settings.env
        return attempt_flags(
            self.runtime.store, environment, self.feed, self._feeds, day=self.day, correlation_id=self.correlation_id
        )

    @property
    def _feeds(self) -> tuple[Feed, ...]:
        return FEEDS if self.feeds is None else self.feeds

    @property
    def flags(self) -> FeedFlags:
        """This feed's switches."""
        return self.switches[self.feed.name]

    @cached_property
    def idle(self) -> str | None:
        """Why there is nothing to do, in a sentence; None if there is."""
        if not self.audience.is_due(self.day):
            return self.audience.not_due(self.day)
        if self.flags.errors:
            return f"{self.feed.name} is off for now: its switches could not be had ({'; '.join(self.flags.errors)})"
        return f"{self.feed.name} is switched off" if self.flags.mode is FeedMode.OFF else None

    @cached_property
    def store(self) -> ObjectStore:
        """The store as the feed's mode has it; FeedIdleError if there is nothing to do."""
        if self.idle is not None:
            raise FeedIdleError(self.idle)
        return switched(self.runtime.store, self.feed.name, self.flags.mode)

    @property
    def format(self) -> DocumentFormat:
        """The rendering that makes the document."""
        return chosen_format(self.feed, self.flags)

    # What earlier steps left behind; NotBuiltError names the step that is missing.

    def snapshot(self) -> Snapshot:
        """The landed snapshot."""
        return self.runtime.load_reference(LANDING, self.day, Snapshot)

    def domains(self) -> list[DomainReference]:
        """The consented portfolios, first, and the domains that the format carries."""
        names = (CONSENTED, *self.feed.domains)
        load = self.runtime.load_reference
        return [load(self.audience.reference(name), self.day, DomainReference) for name in names]

    def build(self) -> Build:
        """The staged document of the date."""
        reference = self.runtime.load_reference(f"{self.feed.name}/document", self.day, BuildReference)
        return read_build(self.runtime.store, self.feed.name, self.day, reference.build_id)

    # The steps.

    def consent(self) -> tuple[dt.datetime, set[str]]:
        """Who consents at this moment, asked of bigsite: the instant (UTC) and the portfolio numbers."""
        return ask_consent_now(self.runtime.engine, self.audience.recipient, at=self.now)

    def hold_back(self) -> tuple[DeliveryPlan, FindingsReference]:
        """Gather what the rules and the format found, work out who is held back, and put that on record."""
        self.require_chain()
        found = collect_findings(self)
        plan = self.plan(self.consent()[1])
        delivered = delivered_state(self.store, self.feed.name, self.day)
        named = {entry.number for entry in plan.held_back}
        # Whoever may go now is released by the delivery, not by the plan to deliver.
        leaving = [
            record.held_back
            for record in held(self.store, self.feed.name, self.day)
            if record.number not in named and record.number not in delivered.portfolios
        ]
        update_quarantine(
            self.store,
            [*plan.held_back, *leaving],
            delivered,
            at=self._instant(),
            correlation_id=self.correlation_id,
        )
        return plan, found

    def plan(self, consented_now: set[str], *, max_held_back_share: Decimal = Decimal(1)) -> DeliveryPlan:
        """Who goes and who is held back; TooManyHeldBackError above ``max_held_back_share``."""
        store, flags = self.store, self.flags
        found = self.runtime.load_reference(f"{self.feed.name}/quarantine", self.day, FindingsReference)
        if found.flags != flags.recorded:  # switched since an earlier attempt gathered them
            found = collect_findings(self)
        findings = read_findings(self.store, found.findings)
        consented = carried(read_frame(store, self.domains()[0], CONSENTED), flags)
        numbers = set(consented["portfolio_number"])
        against_ledger = self.ledger_view().frame().filter(pl.col("portfolio_number").is_in(numbers))
        elsewhere = already_there(self.runtime.store, self.feed, self._feeds, flags, day=self.day, numbers=numbers)
        return plan_delivery(
            self.day,
            consented=consented,
            findings=pl.concat([findings, elsewhere, against_ledger]),
            consented_now=consented_now,
            earlier=earlier_date(store, self.feed.name, self.audience, self.day),
            ever_delivered=lambda numbers: ever_delivered(store, self.feed.name, self.audience, numbers, self.day),
            max_held_back_share=max_held_back_share,
        )

    def stage(self, consented_now: set[str] | None = None) -> Build:
        """Render and stage the pages of those who go, less what was delivered before with the same content."""
        plan = self.plan(
            self.consent()[1] if consented_now is None else consented_now,
            max_held_back_share=self.runtime.settings.max_held_back_share,
        )
        return self.staged(build_delivery(self.store, self.terms(), plan, self.frames()))

    def staged(self, build: Build) -> Build:
        """``build`` is the document of the date from now on."""
        self.runtime.save_reference(f"{self.feed.name}/document", self.day, BuildReference(build_id=build.build_id))
        return build

    def terms(self) -> DeliveryContext:
        """What the date's delivery is made under."""
        settings, store, document_format, snapshot = self.runtime.settings, self.store, self.format, self.snapshot()
        return DeliveryContext(
            feed=self.feed.name,
            audience=self.audience,
            document_format=document_format,
            delivered=delivered_state(store, self.feed.name, self.day),
            snapshot=SnapshotRef(
                id=snapshot.snapshot_id,
                snapshot_at=snapshot.snapshot_at,
                descriptor_key=snapshot.key(),
                descriptor_sha256=hashlib.sha256(store.read(snapshot.key())).hexdigest(),
            ),
            code_version=settings.code_version,
            correlation_id=self.correlation_id,
            flags=self.flags.recorded,
            ledger_view=self.ledger_view().digest,
            last_of_shards=tuple(snapshot.slices[shard.stop - 1].last for shard in snapshot.shards if len(shard)),
            max_page_bytes=self.feed.max_page_bytes or settings.max_page_bytes,
            # One file under a name of its own is looked for under that name.
            compress=settings.compress and document_format.compressible,
        )

    @property
    def shards(self) -> int:
        """Into how many shards the date's work can be shared out; 0 on ordinary dates."""
        if self.idle is not None:
            return 0
        count = len(self.snapshot().shards)
        return count if count > 1 else 0

    def require_chain(self) -> None:
        """Raise DamagedRecordError unless the manifests that the date builds on are those that the chain names."""
        previous = self.audience.previous(self.day)
        require_chain(self.store, self.feed.name, [self.day] if previous is None else [previous, self.day])

    def ledger_view(self) -> LedgerView:
        """Return what the delivered ledger says of the date: rows sent before, and findings against what was sent."""
        return ledger_view(self)

    def made_of(self) -> list[str]:
        """The SHA-256 of every frame that the document is made of."""
        return [table.sha256 for domain in self.domains() for _, table in sorted(domain.frames.items())]

    def frames(self, slices: range | None = None) -> Iterator[Mapping[str, pl.DataFrame]]:
        """The domains' frames as the switches leave them, slice by slice; all, or only some ``slices``."""
        with open_domains(self.store, self.domains(), slices) as opened:
            # By map, which keeps no slice's frames: they would still be in memory while the next slice is read.
            unsent = map(self.ledger_view().without_dropped, opened)
            yield from map(partial(switched_frames, flags=self.flags), unsent)

    def roll(self) -> CheckResult:
        """The roll of consents since the date before, and whether it is a jump that nobody released."""
        limit = self.runtime.settings.max_removed_share
        return check_consent_rollforward(self.runtime.store, self.audience, self.day, self.consent_roll(), limit)

    def consent_roll(self) -> ConsentRoll:
        """How the consented portfolios got from the date before to this one."""
        return read_consent_roll(self.runtime.store, self.snapshot(), self.audience, self.domains()[0])

    def evaluate_checks(self, build: Build, consented_now: set[str] | None = None) -> tuple[CheckResult, ...]:
        """Evaluate every check that delivery requires over the staged bytes, and put the verdicts on record."""
        consented_now = self.consent()[1] if consented_now is None else consented_now
        return evaluate_checks(
            self.store,
            self.format,
            build,
            plan=self.plan(consented_now),
            consented_now=consented_now,
            others=(self.roll(), *self.allowances(build)),
            max_held_back_share=self.runtime.settings.max_held_back_share,
            evaluated_by=self.correlation_id,
            code_version=self.runtime.settings.code_version,
        )

    def allowances(self, build: Build) -> tuple[CheckResult, CheckResult]:
        """May the feed go live yet, and does the recipient get none of ``build`` from another feed as well?"""
        store, required = self.runtime.store, self.runtime.settings.parity_clean_dates
        with_data = {one.number for one in build.portfolios if one.change != "REMOVED"}
        return (
            judge_live(store, self.feed, self.flags, self.audience, day=self.day, required=required),
            one_live_feed(store, self.feed, self._feeds, self.switches, day=self.day, numbers=with_data),
        )

    def publish(self, wait: Callable[[NotInOrderError], bool] = lambda error: False) -> Outcome:
        """Deliver the staged document, with the switches that it was built with.

        What was delivered, consented or switched may have changed since it was staged: then it is staged and judged
        again here, so that nobody has to. ``wait`` is told that the date before is missing; True means: look again.
        """
        self.require_chain()
        build = self.build()
        if build.flags != self.flags.recorded or not all(one.passed for one in self.allowances(build)):
            build = self._stage_again()
        for attempt in range(1, MAX_RESTAGINGS + 2):
            try:
                outcome = self._publish(build, wait)
            except StaleBuildError as error:
                if attempt > MAX_RESTAGINGS:
                    raise
                get_logger().info("staging again", error_type=type(error).__name__, attempt=attempt)
                build = self._stage_again()
            else:
                self._release(build)
                return outcome
        raise AssertionError("unreachable")  # the last attempt returned or raised

    def _stage_again(self) -> Build:
        consented = self.consent()[1]
        build = self.stage(consented)
        self.evaluate_checks(build, consented)
        return build

    def _publish(self, build: Build, wait: Callable[[NotInOrderError], bool]) -> Outcome:
        while True:
            try:
                return publish(
                    self.store,
                    build,
                    consented_now=self.consent,
                    audience=self.audience,
                    correlation_id=self.correlation_id,
                    ledger_view=lambda: self.ledger_view().digest,
                )
            except NotInOrderError as error:
                if not wait(error):
                    raise

    def _release(self, build: Build) -> None:
        # Whoever went is held back no more; the others stay, with the reason that the delivered plan gives.
        update_quarantine(
            self.store,
            build.held_back,
            delivered_state(self.store, self.feed.name, self.day),
            at=self._instant(),
            correlation_id=self.correlation_id,
        )

    def _instant(self) -> dt.datetime:
        return self.now or dt.datetime.now(dt.UTC)
