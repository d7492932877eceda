"""A feed's last steps for one business date, without Dagster: hold back, stage, judge, publish.

The assets call these in order; so do proofs and torture tests, in a plain loop.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.consent import ask_consent_now
from classfeed_dagster.bigsite.landing import SlicedFiles, StoredFile, StoredTable
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.build import Build, Terms, build_delivery, read_build
from classfeed_dagster.delivery.errors import NotInOrderError, StaleBuildError
from classfeed_dagster.delivery.evaluate import Evaluation
from classfeed_dagster.delivery.manifest import SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, plan_delivery
from classfeed_dagster.delivery.publish import Outcome, publish
from classfeed_dagster.delivery.quarantine import held, update_quarantine
from classfeed_dagster.delivery.records import canonical, sha256
from classfeed_dagster.delivery.shadow import FeedMode, switched
from classfeed_dagster.delivery.shards import (
    SharedOut,
    made_under,
    put_together,
    render_shard,
    share_out,
    share_out_pages,
    write_pages,
)
from classfeed_dagster.delivery.state import delivered_state, earlier_date, ever_delivered
from classfeed_dagster.documents.format import DocumentFormat, OneFileFormat
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.domains.run import (
    CONSENTED,
    DomainReference,
    open_domains,
    read_consent_roll,
    read_frame,
)
from classfeed_dagster.feeds.exclusion import already_there, one_live_feed
from classfeed_dagster.feeds.feed import Feed, declared_feeds
from classfeed_dagster.feeds.flags import attempt_flags
from classfeed_dagster.feeds.gate import judge, judge_live, judge_roll
from classfeed_dagster.feeds.switches import FeedFlags, carried, chosen_format, switched_frames
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

LANDING = "landing"  # under which name the snapshot is kept
MAX_RESTAGINGS = 3


class FindingsReference(BaseModel, frozen=True):
    """Everything that the rules and the format found for one feed and date, and how many of each rule."""

    snapshot_id: str
    flags: dict[str, str | int | bool]  # the switches with which the format was asked
    findings: StoredTable
    by_rule: dict[str, int]


class FindingsShard(BaseModel, frozen=True):
    """What was found in one shard, gathered ahead."""

    made_from: str  # what determines it
    findings: StoredTable


class BuildReference(BaseModel, frozen=True):
    """Which staged build is the document of a date."""

    build_id: str


class FeedIdleError(RuntimeError):
    """The feed has nothing to do on the date: look at ``FeedDay.idle`` before asking for a step."""


@dataclass(frozen=True)
class FeedDay:
    """One feed on one business date, and one attempt at it.

    ``now`` is a rehearsal's clock; None: the real one. ``feeds`` are all feeds there are, since some exclude each
    other; None: the declared ones.
    """

    runtime: Runtime
    feed: Feed
    audience: Audience
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
        return declared_feeds() if self.feeds is None else self.feeds

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
        found = self._collect_findings()
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
            found = self._collect_findings()
        findings = self._read_findings(found.findings)
        consented = carried(read_frame(store, self.domains()[0], CONSENTED), flags)
        numbers = set(consented["portfolio_number"])
        elsewhere = already_there(self.runtime.store, self.feed, self._feeds, flags, day=self.day, numbers=numbers)
        return plan_delivery(
            self.day,
            consented=consented,
            findings=pl.concat([findings, elsewhere]),
            consented_now=consented_now,
            earlier=earlier_date(store, self.feed.name, self.audience, self.day),
            ever_delivered=lambda numbers: ever_delivered(store, self.feed.name, self.audience, numbers, self.day),
            max_held_back_share=max_held_back_share,
        )

    def stage(self, consented_now: set[str] | None = None) -> Build:
        """Render and stage the pages of those who go, less what was delivered before with the same content."""
        store = self.store
        plan = self.plan(
            self.consent()[1] if consented_now is None else consented_now,
            max_held_back_share=self.runtime.settings.max_held_back_share,
        )
        with open_domains(store, self.domains()) as slices:
            build = build_delivery(store, self.terms(), plan, map(partial(switched_frames, flags=self.flags), slices))
        return self._staged(build)

    def _staged(self, build: Build) -> Build:
        self.runtime.save_reference(f"{self.feed.name}/document", self.day, BuildReference(build_id=build.build_id))
        return build

    def terms(self) -> Terms:
        """What the date's delivery is made under."""
        settings, store, document_format, snapshot = self.runtime.settings, self.store, self.format, self.snapshot()
        return Terms(
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
            max_page_bytes=self.feed.max_page_bytes or settings.max_page_bytes,
            # One file under a name of its own is looked for under that name.
            compress=settings.compress and not isinstance(document_format, OneFileFormat),
        )

    # The same steps shared out, for great dates: what is made here ahead, the steps above put together.

    @property
    def shards(self) -> int:
        """Into how many shards the date's work can be shared out; 0 on ordinary dates."""
        if self.idle is not None:
            return 0
        count = len(self.snapshot().shards)
        return count if count > 1 else 0

    def find_in_shard(self, shard: int) -> None:
        """Gather what the rules and the format find in one shard (from 0)."""
        found = FindingsShard(made_from=self._findings_made_from(), findings=self._keep(self._find(shard)))
        self.runtime.save_reference(self._findings_name(shard), self.day, found)

    def share_out(self) -> int:
        """Plan the date, and share the plan out for rendering; the number of shards, 0 on ordinary dates."""
        if not self.shards:
            return 0
        plan = self.plan(self.consent()[1], max_held_back_share=self.runtime.settings.max_held_back_share)
        snapshot = self.snapshot()
        last_of_shards = [snapshot.slices[shard.stop - 1].last for shard in snapshot.shards]
        shared = share_out(self.store, self.terms(), plan, last_of_shards, self._made_of())
        self.runtime.save_reference(self._shared_name, self.day, shared)
        return len(shared.shards)

    def render_shard(self, shard: int) -> None:
        """Render those of one shard who go."""
        with open_domains(self.store, self.domains(), self.snapshot().shards[shard]) as slices:
            frames = map(partial(switched_frames, flags=self.flags), slices)
            render_shard(self.store, self.terms(), self._shared(), shard, frames)

    def share_out_pages(self) -> int:
        """Divide what was rendered into pages; the number of lots to write them in, 0 on ordinary dates."""
        return share_out_pages(self.store, self.terms(), self._shared()) if self.shards else 0

    def write_pages(self, lot: int) -> None:
        """Write, examine and stage one lot of pages."""
        write_pages(self.store, self.terms(), self._shared(), lot)

    def put_together(self) -> Build | None:
        """The staged document, if it was shared out and still is what would be shared out now."""
        shared = self.runtime.find_reference(self._shared_name, self.day, SharedOut) if self.shards else None
        terms = self.terms()
        if shared is None or shared.made_under != made_under(terms, self._made_of()):
            return None
        try:
            return self._staged(put_together(self.store, terms, shared))
        except ObjectNotFoundError:  # a part of it is missing
            return None

    @property
    def _shared_name(self) -> str:
        return f"{self.feed.name}/document-shared"

    def _shared(self) -> SharedOut:
        return self.runtime.load_reference(self._shared_name, self.day, SharedOut)

    def roll(self) -> Evaluation:
        """The roll of consents since the date before, and whether it is a jump that nobody released."""
        limit = self.runtime.settings.max_removed_share
        return judge_roll(self.runtime.store, self.audience, self.day, self.consent_roll(), limit)

    def consent_roll(self) -> ConsentRoll:
        """How the consented portfolios got from the date before to this one."""
        return read_consent_roll(self.runtime.store, self.snapshot(), self.audience, self.domains()[0])

    def judge(self, build: Build, consented_now: set[str] | None = None) -> tuple[Evaluation, ...]:
        """Evaluate every check that delivery requires over the staged bytes, and put the verdicts on record."""
        consented_now = self.consent()[1] if consented_now is None else consented_now
        return judge(
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

    def allowances(self, build: Build) -> tuple[Evaluation, Evaluation]:
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
        self.judge(build, consented)
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

    def _collect_findings(self) -> FindingsReference:
        snapshot = self.snapshot()
        found = [FINDINGS.empty(), *map(self._findings_of, range(len(snapshot.shards)))]
        findings = FINDINGS.conform(pl.concat(found).unique())
        reference = FindingsReference(
            snapshot_id=snapshot.snapshot_id,
            flags=self.flags.recorded,
            findings=self._keep(findings),
            by_rule=dict(findings.group_by("rule").len().sort("rule").iter_rows()),
        )
        self.runtime.save_reference(f"{self.feed.name}/quarantine", self.day, reference)
        return reference

    def _findings_of(self, shard: int) -> pl.DataFrame:
        ahead = (
            self.runtime.find_reference(self._findings_name(shard), self.day, FindingsShard) if self.shards else None
        )
        if ahead is not None and ahead.made_from == self._findings_made_from():
            return self._read_findings(ahead.findings)
        return self._find(shard)

    def _find(self, shard: int) -> pl.DataFrame:
        found = [FINDINGS.empty()]
        with open_domains(self.store, self.domains(), self.snapshot().shards[shard]) as slices:
            for frames in slices:
                found += [frames[FINDINGS.name], self.format.unwritable(switched_frames(frames, self.flags))]
                del frames  # not in memory any more while the next slice is read
        return FINDINGS.conform(pl.concat(found).unique())

    def _findings_name(self, number: int) -> str:
        return f"{self.feed.name}/quarantine-shard-{number:04d}"

    def _findings_made_from(self) -> str:
        made_from = [*self._made_of(), self.format.name, self.runtime.settings.code_version, self.flags.recorded]
        return sha256(canonical(made_from))

    def _made_of(self) -> list[str]:
        return [table.sha256 for domain in self.domains() for _, table in sorted(domain.frames.items())]

    def _read_findings(self, findings: StoredTable) -> pl.DataFrame:
        with SlicedFiles(self.store, {FINDINGS.name: findings}, [FINDINGS.name]) as files:
            return FINDINGS.conform(files.slice(0)[FINDINGS.name])

    def _keep(self, findings: pl.DataFrame) -> StoredTable:
        with tempfile.TemporaryDirectory(prefix="classfeed-findings-") as folder:
            path = Path(folder) / "findings.parquet"
            findings.write_parquet(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            prefix = f"domains/{self.day.isoformat()}/{self.audience.key}/findings-{self.feed.name}"
            key = f"{prefix}/{digest[:32]}.parquet"
            self.store.create(key, path)
            file = StoredFile(key=key, sha256=digest, rows=findings.height, bytes=path.stat().st_size)
            return StoredTable(files=(file,))

    def _instant(self) -> dt.datetime:
        return self.now or dt.datetime.now(dt.UTC)
