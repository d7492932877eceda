"""The steps of a feed's delivery for one business date: hold back, stage, evaluate, publish. Dagster-free.

The assets call these steps in order. Tests call them in a plain loop.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.consent import query_consented
from classfeed_dagster.delivery.build import Build, DeliveryContext, build_delivery, read_build
from classfeed_dagster.delivery.chain_integrity import require_chain
from classfeed_dagster.delivery.checks import CheckResult
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.manifest import SnapshotRef
from classfeed_dagster.delivery.plan import DeliveryPlan, plan_delivery
from classfeed_dagster.delivery.publish import PublishOutcome, publish, require_list
from classfeed_dagster.delivery.quarantine import held, update_quarantine
from classfeed_dagster.delivery.refreshes import require_refreshes
from classfeed_dagster.delivery.state import delivered_state, earlier_date, ever_delivered
from classfeed_dagster.domains.build import (
    CONSENTED,
    open_domains,
    read_frame,
)
from classfeed_dagster.errors import NotInOrderError, StaleBuildError
from classfeed_dagster.feed_run.delivery_checks import check_consent_rollforward, check_live_gate, evaluate_checks
from classfeed_dagster.feed_run.exclusion import findings_delivered_elsewhere, one_live_feed
from classfeed_dagster.feed_run.feed_date import FeedDate, FeedIdleError
from classfeed_dagster.feed_run.findings import (
    FindingsReference,
    collect_findings,
    hold_back_identifiers,
    read_findings,
)
from classfeed_dagster.feed_run.ledger_view import LedgerView, ledger_view
from classfeed_dagster.feed_run.switches import carried, switched_frames
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import utc_now
from classfeed_dagster.settings import FreeText
from classfeed_dagster.transmission.send import ConsentEndedError, Receipt, Transmission, awaiting_reissue

MAX_RESTAGINGS = 3


class BuildReference(BaseModel, frozen=True):
    """Reference to the staged build that is the document of a date."""

    build_id: str


@dataclass(frozen=True)
class FeedRun(FeedDate):
    """The steps of one attempt at one business date of one feed."""

    def build(self) -> Build:
        """Return the staged document of the date."""
        reference = self.runtime.load_reference(f"{self.feed.name}/document", self.day, BuildReference)
        return read_build(self.runtime.store, self.feed.name, self.day, reference.build_id)

    def consent(self) -> tuple[dt.datetime, set[str]]:
        """Query bigsite's current consents; return the instant (UTC) and the portfolio numbers."""
        return query_consented(self.runtime.engine, self.audience.recipient, at=self.now)

    def hold_back(self) -> tuple[DeliveryPlan, FindingsReference]:
        """Collect the findings of the rules and the format, plan the date, and record the portfolios held back."""
        self.require_chain()
        findings = collect_findings(self)
        plan = self.plan(self.consent()[1])
        delivered = delivered_state(self.store, self.feed.name, self.day)
        held_back = {entry.number for entry in plan.held_back}
        # A portfolio is released by its delivery, not by the plan to deliver it.
        not_yet_released = [
            record.held_back
            for record in held(self.store, self.feed.name, self.day)
            if record.number not in held_back and record.number not in delivered.portfolios
        ]
        update_quarantine(
            self.store,
            [*plan.held_back, *not_yet_released],
            delivered,
            at=self._instant(),
            correlation_id=self.correlation_id,
        )
        return plan, findings

    def plan(self, consented_now: set[str], *, max_held_back_share: Decimal = Decimal(1)) -> DeliveryPlan:
        """Return the delivery plan; raise TooManyHeldBackError above ``max_held_back_share``."""
        store, flags = self.store, self.flags
        reference = self.runtime.load_reference(f"{self.feed.name}/quarantine", self.day, FindingsReference)
        if reference.flags != flags.recorded:  # a switch changed since an earlier attempt collected them
            reference = collect_findings(self)
        findings = read_findings(self.store, reference.findings)
        if self.runtime.settings.free_text is FreeText.HOLD_BACK:
            findings = hold_back_identifiers(findings, self.format)
        consented = carried(read_frame(store, self.domains()[0], CONSENTED), flags)
        numbers = set(consented["portfolio_number"])
        against_ledger = self.ledger_view().frame().filter(pl.col("portfolio_number").is_in(numbers))
        elsewhere = findings_delivered_elsewhere(
            self.runtime.store, self.feed, self._feeds, flags, day=self.day, numbers=numbers
        )
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
        """Render and stage the included portfolios, without content that was delivered before."""
        plan = self.plan(
            self.consent()[1] if consented_now is None else consented_now,
            max_held_back_share=self.runtime.settings.max_held_back_share,
        )
        return self.staged(build_delivery(self.store, self.context(), plan, self.frames()))

    def staged(self, build: Build) -> Build:
        """Record ``build`` as the document of the date, and return it."""
        self.runtime.save_reference(f"{self.feed.name}/document", self.day, BuildReference(build_id=build.build_id))
        return build

    def context(self) -> DeliveryContext:
        """Return the context of the date's delivery."""
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
            # A one-file document has a fixed name and is never compressed.
            compress=settings.compress and document_format.compressible,
        )

    def require_chain(self) -> None:
        """Raise DamagedRecordError unless the chain names exactly the manifests that the date builds on.

        CalendarChangedError if this date, the one before or the one after was delivered under another calendar.
        RefreshRecordsLostError if this date was delivered with refreshes whose records are lost.
        """
        require_chain(self.store, self.feed.name, self.audience.around(self.day), self.audience)
        if self.flags.mode is FeedMode.LIVE:
            require_refreshes(delivered_state(self.store, self.feed.name, self.day), self.schedule.refreshed)

    def ledger_view(self) -> LedgerView:
        """Return the date's view of the delivered ledger: rows sent before, and findings against them."""
        return ledger_view(self)

    def frames(self, slices: range | None = None) -> Iterator[Mapping[str, pl.DataFrame]]:
        """Yield the domains' frames, filtered by the switches, slice by slice; all slices or only ``slices``."""
        with open_domains(self.store, self.domains(), slices) as opened:
            # ``map`` keeps no reference to a slice's frames, so they are freed before the next slice is read.
            unsent = map(self.ledger_view().applied, opened)
            yield from map(partial(switched_frames, flags=self.flags), unsent)

    def roll(self) -> CheckResult:
        """Check the consent roll-forward since the previous date, and the approval of unusually many removals."""
        limit = self.runtime.settings.max_removed_share
        return check_consent_rollforward(self.runtime.store, self.audience, self.day, self.consent_roll(), limit)

    def evaluate_checks(self, build: Build, consented_now: set[str] | None = None) -> tuple[CheckResult, ...]:
        """Evaluate every required check over the staged bytes, and record the verdicts."""
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
        """Check that the feed may be live, and that no other feed delivers portfolios of ``build``."""
        store, required = self.runtime.store, self.runtime.settings.parity_clean_dates
        with_data = {portfolio.number for portfolio in build.portfolios if portfolio.change != "REMOVED"}
        return (
            check_live_gate(store, self.feed, self.flags, self.audience, day=self.day, required=required),
            one_live_feed(store, self.feed, self._feeds, self.switches, day=self.day, numbers=with_data),
        )

    def publish(self, wait: Callable[[NotInOrderError], bool] = lambda error: False) -> PublishOutcome:
        """Deliver the staged document under the switches of its build.

        If deliveries, consents or switches have changed since staging, or if a staged file is missing, the document is
        staged and evaluated again here. ``wait`` is called while the previous date is not delivered, and returns True
        to try again.
        """
        self.require_chain()
        build = self.build()
        if not self._may_go(build):
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

    def _may_go(self, build: Build) -> bool:
        # False if switches have changed since staging, or if the staged list is missing.
        try:
            require_list(self.store, build)
        except StaleBuildError:
            return False
        return build.flags == self.flags.recorded and all(result.passed for result in self.allowances(build))

    def _stage_again(self) -> Build:
        consented = self.consent()[1]
        build = self.stage(consented)
        self.evaluate_checks(build, consented)
        return build

    def _publish(self, build: Build, wait: Callable[[NotInOrderError], bool]) -> PublishOutcome:
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

    def send(self) -> tuple[Receipt, ...]:
        """Send the date's delivered files to the feed's destination; return the new receipts.

        If a consent ended since the delivery, its files are withheld, and a revision without that portfolio is
        delivered and sent.
        """
        if self.feed.sends_to is None:
            raise FeedIdleError(f"{self.feed.name} has no destination: its recipient reads the object store")
        transmission = Transmission(
            self.runtime.store,
            self.feed.name,
            self.day,
            self.feed.sends_to,
            audience=self.audience,
            credentials=self.runtime.settings.transmission_credentials,
            consented_now=lambda: self.consent()[1],
            now=self._instant,
            correlation_id=self.correlation_id,
        )
        for attempt in range(1, MAX_RESTAGINGS + 2):
            if awaiting_reissue(self.runtime.store, self.feed.name, self.day):
                self._stage_again()
                self.publish()
            try:
                return transmission.send()
            except ConsentEndedError as error:
                if attempt > MAX_RESTAGINGS:
                    raise
                get_logger().info("staging again", error_type=type(error).__name__, attempt=attempt)
        raise AssertionError("unreachable")  # the last attempt returned or raised

    def _release(self, build: Build) -> None:
        # Delivered portfolios are released; the others stay held back with the delivered plan's reason.
        update_quarantine(
            self.store,
            build.held_back,
            delivered_state(self.store, self.feed.name, self.day),
            at=self._instant(),
            correlation_id=self.correlation_id,
        )

    def _instant(self) -> dt.datetime:
        return utc_now(self.now)
