"""A feed's last steps for one business date, without Dagster: hold back, stage, judge, publish.

The assets call these in order; so do proofs and torture tests, in a plain loop.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.consent import ask_consent_now
from classfeed_dagster.bigsite.landing import SlicedFiles, StoredTable
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.build import Build, build_delivery, read_build
from classfeed_dagster.delivery.errors import NotInOrderError, StaleBuildError
from classfeed_dagster.delivery.evaluate import Evaluation
from classfeed_dagster.delivery.manifest import SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, plan_delivery
from classfeed_dagster.delivery.publish import Outcome, publish
from classfeed_dagster.delivery.quarantine import update_quarantine
from classfeed_dagster.delivery.state import delivered_state, earlier_date, ever_delivered
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
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.gate import judge, judge_roll
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime

LANDING = "landing"  # under which name the snapshot is kept
MAX_RESTAGINGS = 3


class FindingsReference(BaseModel, frozen=True):
    """Everything that the rules and the format found for one feed and date, and how many of each rule."""

    snapshot_id: str
    findings: StoredTable
    by_rule: dict[str, int]


class BuildReference(BaseModel, frozen=True):
    """Which staged build is the document of a date."""

    build_id: str


@dataclass(frozen=True)
class FeedDay:
    """One feed on one business date, and one attempt at it. ``now`` is a rehearsal's clock; None: the real one."""

    runtime: Runtime
    feed: Feed
    audience: Audience
    day: dt.date
    correlation_id: str
    now: dt.datetime | None = None

    # What earlier steps left behind; NotBuiltError names the step that is missing.

    def snapshot(self) -> Snapshot:
        """The landed snapshot."""
        return self.runtime.load_reference(LANDING, self.day, Snapshot)

    def domains(self) -> list[DomainReference]:
        """The consented portfolios, first, and the domains that the format carries."""
        names = (CONSENTED, *self.feed.format.domains)
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
        store = self.runtime.store
        found = _collect_findings(self, self.snapshot(), self.domains())
        self.runtime.save_reference(f"{self.feed.name}/quarantine", self.day, found)
        plan = self.plan(self.consent()[1])
        update_quarantine(
            store,
            plan.held_back,
            delivered_state(store, self.feed.name, self.day),
            at=self._instant(),
            correlation_id=self.correlation_id,
        )
        return plan, found

    def plan(self, consented_now: set[str], *, max_held_back_share: Decimal = Decimal(1)) -> DeliveryPlan:
        """Who goes and who is held back; TooManyHeldBackError above ``max_held_back_share``."""
        store, (consented, *_) = self.runtime.store, self.domains()
        found = self.runtime.load_reference(f"{self.feed.name}/quarantine", self.day, FindingsReference)
        with SlicedFiles(store, {FINDINGS.name: found.findings}, [FINDINGS.name]) as files:
            findings = FINDINGS.conform(files.slice(0)[FINDINGS.name])
        return plan_delivery(
            self.day,
            consented=read_frame(store, consented, CONSENTED),
            findings=findings,
            consented_now=consented_now,
            earlier=earlier_date(store, self.feed.name, self.audience, self.day),
            ever_delivered=lambda numbers: ever_delivered(store, self.feed.name, self.audience, numbers, self.day),
            max_held_back_share=max_held_back_share,
        )

    def stage(self, consented_now: set[str] | None = None) -> Build:
        """Render and stage the pages of those who go, less what was delivered before with the same content."""
        settings, store = self.runtime.settings, self.runtime.store
        plan = self.plan(
            self.consent()[1] if consented_now is None else consented_now,
            max_held_back_share=settings.max_held_back_share,
        )
        snapshot = self.snapshot()
        with open_domains(store, self.domains()) as slices:
            build = build_delivery(
                store,
                feed=self.feed.name,
                audience=self.audience,
                document_format=self.feed.format,
                plan=plan,
                slices=slices,
                delivered=delivered_state(store, self.feed.name, self.day),
                snapshot=SnapshotRef(
                    id=snapshot.snapshot_id,
                    snapshot_at=snapshot.snapshot_at,
                    descriptor_key=snapshot.key(),
                    descriptor_sha256=hashlib.sha256(store.read(snapshot.key())).hexdigest(),
                ),
                code_version=settings.code_version,
                correlation_id=self.correlation_id,
                max_page_bytes=self.feed.max_page_bytes or settings.max_page_bytes,
                compress=settings.compress,
            )
        self.runtime.save_reference(f"{self.feed.name}/document", self.day, BuildReference(build_id=build.build_id))
        return build

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
            self.runtime.store,
            self.feed,
            build,
            plan=self.plan(consented_now),
            consented_now=consented_now,
            roll=self.roll(),
            max_held_back_share=self.runtime.settings.max_held_back_share,
            evaluated_by=self.correlation_id,
        )

    def publish(self, wait: Callable[[NotInOrderError], bool] = lambda error: False) -> Outcome:
        """Deliver the staged document.

        What was delivered or consented may have changed since it was staged: then it is staged and judged again
        here, so that nobody has to. ``wait`` is told that the date before is missing; True means: look again.
        """
        build = self.build()
        for attempt in range(1, MAX_RESTAGINGS + 2):
            try:
                outcome = self._publish(build, wait)
            except StaleBuildError as error:
                if attempt > MAX_RESTAGINGS:
                    raise
                get_logger().info("staging again", error_type=type(error).__name__, attempt=attempt)
                consented = self.consent()[1]
                build = self.stage(consented)
                self.judge(build, consented)
            else:
                self._release(build)
                return outcome
        raise AssertionError("unreachable")  # the last attempt returned or raised

    def _publish(self, build: Build, wait: Callable[[NotInOrderError], bool]) -> Outcome:
        while True:
            try:
                return publish(
                    self.runtime.store,
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
            self.runtime.store,
            build.held_back,
            delivered_state(self.runtime.store, self.feed.name, self.day),
            at=self._instant(),
            correlation_id=self.correlation_id,
        )

    def _instant(self) -> dt.datetime:
        return self.now or dt.datetime.now(dt.UTC)


def _collect_findings(work: FeedDay, snapshot: Snapshot, domains: Sequence[DomainReference]) -> FindingsReference:
    store = work.runtime.store
    found = [FINDINGS.empty()]
    with open_domains(store, domains) as slices:
        for frames in slices:
            found += [frames[FINDINGS.name], work.feed.format.unwritable(frames)]
    findings = FINDINGS.conform(pl.concat(found).unique())
    with tempfile.TemporaryDirectory(prefix="classfeed-findings-") as folder:
        path = Path(folder) / "findings.parquet"
        findings.write_parquet(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        prefix = f"domains/{work.day.isoformat()}/{work.audience.key}/findings-{work.feed.name}"
        key = f"{prefix}/{digest[:32]}.parquet"
        store.create(key, path)
        stored = StoredTable(key=key, sha256=digest, rows=findings.height, bytes=path.stat().st_size)
    by_rule = dict(findings.group_by("rule").len().sort("rule").iter_rows())
    return FindingsReference(snapshot_id=snapshot.snapshot_id, findings=stored, by_rule=by_rule)
