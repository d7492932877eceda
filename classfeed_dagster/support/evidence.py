"""Evidence for an auditor: what a range of business dates delivered, under which checks, and who intervened.

Everything is read from records that the feed left: manifests and chain, verdicts, reconciliation summaries, receipts,
acknowledgements, approvals and requests for re-runs and refreshes. ``classfeed verify`` proves in addition that the
files are those that the manifests name.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classfeed_dagster.acknowledgements.mapping import FileState
from classfeed_dagster.delivery.approve_removals import approvals
from classfeed_dagster.delivery.chain_integrity import require_chain
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import DataError
from classfeed_dagster.feed_run.acknowledged import read_answers
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.support.reruns import requests
from classfeed_dagster.transmission.send import receipts, unsent
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.runtime import Runtime


@dataclass(frozen=True, slots=True)
class DeliveryEvidence:
    """One delivery: its manifest's hash, its size and the verdicts that allowed it."""

    revision: int
    manifest_sha256: str
    chain_position: int
    consent_checked_at: dt.datetime
    portfolios: int
    consents: int  # distinct consents under which data was disclosed
    held_back: int
    verdicts: int
    passed: int
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Intervention:
    """A decision of a person about the date."""

    at: dt.datetime
    person: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class DateEvidence:
    """Evidence of one business date. ``gaps`` states what is missing or wrong; empty: everything is proven."""

    business_date: dt.date
    deliveries: tuple[DeliveryEvidence, ...]
    reconciled: str
    sent: str  # whether its files reached the feed's destination
    acknowledged: str  # what the recipient answered
    interventions: tuple[Intervention, ...]
    gaps: tuple[str, ...]


def date_evidence(runtime: Runtime, feed: Feed, day: dt.date) -> DateEvidence:
    """Return the evidence of ``day``, which must be a date of the feed."""
    audience = feed.audience(runtime.settings.first_business_date)
    store = live_and_shadow(runtime.store, feed.name)
    gaps: list[str] = []
    try:
        require_chain(store, feed.name, [day], audience)
    except DataError as error:
        gaps.append(str(error))
    deliveries = _deliveries(runtime, feed, day)
    if not deliveries:
        gaps.append("not delivered")
    gaps += [
        f"revision {delivery.revision}: {delivery.verdicts - delivery.passed} of {delivery.verdicts} verdicts did "
        "not pass"
        for delivery in deliveries
        if delivery.passed < delivery.verdicts or delivery.verdicts == 0
    ]
    summary = runtime.find_reference(Side.SOURCE.reference(feed.name), day, ReconciliationSummary)
    reconciled, gap = _reconciled(summary, deliveries)
    if gap and deliveries:
        gaps.append(gap)
    sent, not_sent = _sent(runtime, feed, day)
    acknowledged, unacknowledged = _acknowledged(runtime, feed, day)
    gaps += [gap for gap in (not_sent, unacknowledged) if gap and deliveries]
    people = [
        *(
            Intervention(entry.approved_at, entry.approved_by, f"approved {entry.removed} removals", entry.reason)
            for entry in approvals(runtime.store, audience, day)
        ),
        *(
            Intervention(entry.requested_at, entry.requested_by, entry.action, entry.reason)
            for entry in requests(runtime.store, feed.name)
            if entry.business_date == day
        ),
    ]
    in_order = tuple(sorted(people, key=lambda entry: entry.at))
    return DateEvidence(day, deliveries, reconciled, sent, acknowledged, in_order, tuple(gaps))


def _sent(runtime: Runtime, feed: Feed, day: dt.date) -> tuple[str, str | None]:
    if not feed.sends_on(day):
        return "read from the object store", None
    receipted, waiting = receipts(runtime.store, feed.name, day), unsent(runtime.store, feed.name, day)
    gap = f"{counted(len(waiting), 'file')} without a receipt of the destination" if waiting else None
    return counted(len(receipted), "receipt"), gap


def _acknowledged(runtime: Runtime, feed: Feed, day: dt.date) -> tuple[str, str | None]:
    if feed.acknowledgements is None:
        return "the recipient sends no answer", None
    files = read_answers(runtime, feed, day)
    states = Counter("not answered" if file.state is None else file.state.value for file in files)
    open_files = [file for file in files if file.state is not FileState.LOADED or file.contradictory]
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no file"
    return text, f"acknowledgements: {text}" if open_files else None


def _deliveries(runtime: Runtime, feed: Feed, day: dt.date) -> tuple[DeliveryEvidence, ...]:
    state = delivered_state(live_and_shadow(runtime.store, feed.name), feed.name, day)
    deliveries: list[DeliveryEvidence] = []
    for revision in state.revisions:
        manifest = revision.manifest
        if isinstance(manifest, Manifest):
            consents = {consent for portfolio in manifest.portfolios for consent in portfolio.consent_ids}
            deliveries.append(
                DeliveryEvidence(
                    revision=manifest.revision,
                    manifest_sha256=revision.sha256,
                    chain_position=manifest.chain_position,
                    consent_checked_at=manifest.consent_checked_at,
                    portfolios=len(manifest.portfolios),
                    consents=len(consents),
                    held_back=len(manifest.held_back),
                    verdicts=len(manifest.verdicts),
                    passed=sum(verdict.passed for verdict in manifest.verdicts),
                    correlation_id=manifest.correlation_id,
                )
            )
    return tuple(deliveries)


def _reconciled(
    summary: ReconciliationSummary | None, deliveries: Sequence[DeliveryEvidence]
) -> tuple[str, str | None]:
    # Returns the state of the reconciliation with bigsite, and a gap if it does not prove the latest delivery.
    if summary is None:
        return "no record", "no record of a reconciliation with bigsite"
    if summary.stopped:
        return "no verdict", f"the reconciliation with bigsite ended without a verdict: {summary.stopped}"
    if deliveries and summary.revision != deliveries[-1].revision:
        return f"revision {summary.revision}", f"revision {deliveries[-1].revision} is not reconciled with bigsite"
    if summary.errors:
        errors = counted(summary.errors, "error")
        return errors, f"the reconciliation with bigsite has {errors}"
    return "agrees" if not summary.warnings else f"agrees, {counted(summary.warnings, 'explained difference')}", None
