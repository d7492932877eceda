"""Evaluation of every blocking check over a staged document's bytes, with recorded verdicts. Dagster-free."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from decimal import Decimal

from classfeed_dagster.delivery.approve_removals import is_approved
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.checks import (
    OFFENDERS_LIMIT,
    CheckResult,
    control_totals_agree,
    document_valid,
    everyone_consented,
    examine_build,
    held_back_share,
    record_evaluation,
)
from classfeed_dagster.delivery.feed_mode import FeedMode, last_delivery
from classfeed_dagster.delivery.plan import DeliveryPlan
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains.consented_portfolios import ConsentRoll
from classfeed_dagster.feed_run.flags import live_gate
from classfeed_dagster.feed_run.switches import FeedFlags
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.parity.comparison import Scorecard, scorecard
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore


def check_consent_rollforward(
    store: ObjectStore, audience: RecipientSchedule, day: dt.date, roll: ConsentRoll, max_removed_share: Decimal
) -> CheckResult:
    """Check that previous + new - removed = current, and that many removals at once were approved by a person.

    An approval is needed above ``max_removed_share`` of the portfolios, or if none is left.
    """
    equation = f"{roll.previous} before + {roll.new} new - {roll.removed} removed = {roll.current} now"
    if not roll.balanced:
        return CheckResult("consent_roll", False, f"{equation} does not hold", (), 1)
    if not roll.exceeds(max_removed_share):
        return CheckResult("consent_roll", True, equation, (), 0)
    if is_approved(store, audience, day, roll.removed_numbers):
        return CheckResult("consent_roll", True, f"{equation}; the removals were approved by a person", (), 0)
    offenders = tuple((number, "removed") for number in roll.removed_numbers[:OFFENDERS_LIMIT])
    return CheckResult(
        "consent_roll",
        False,
        f"{equation}: {roll.removed_share:.1%} removed at once, the limit is {max_removed_share:.1%}. If these "
        f"customers really left, approve it: classfeed approve-removals --date {day.isoformat()} --reason '...'",
        offenders,
        roll.removed,
    )


def check_live_gate(
    store: ObjectStore, feed: Feed, flags: FeedFlags, audience: RecipientSchedule, *, day: dt.date, required: int
) -> CheckResult:
    """Check that a feed that replaces an old app has ``required`` clean dates of parity, or an override.

    ``store`` is the plain store. The clean dates must reach up to the newest date that the feed delivered.
    """
    last, card = None, Scorecard(feed.name, day, 0, None, ())
    if feed.legacy and flags.mode is FeedMode.LIVE:
        last = last_delivery(store, feed.name, dt.date.max)
        card = scorecard(store, feed.name, audience, day if last is None else last[0])
    verdict = live_gate(feed, flags, last, card, required)
    offenders = () if verdict.allowed else ((feed.name, verdict.reason),)
    return CheckResult("live_gate", verdict.allowed, verdict.reason, offenders, len(offenders))


def evaluate_checks(
    store: ObjectStore,
    document_format: DocumentFormat,
    build: Build,
    *,
    plan: DeliveryPlan,
    consented_now: Collection[str],
    others: Iterable[CheckResult],
    max_held_back_share: Decimal,
    evaluated_by: str,
    code_version: str,
) -> tuple[CheckResult, ...]:
    """Evaluate every required check over ``build``'s written files, and record the verdicts.

    ``others`` are results of checks that do not read the files, such as the consent roll-forward. Records that the
    same ``code_version`` prevalidated are recognized by their hash.
    """
    examined = examine_build(store, build, document_format, code_version=code_version)
    evaluations = (
        document_valid(build, examined),
        everyone_consented(build, examined, consented_now),
        control_totals_agree(build, examined),
        held_back_share(plan, max_held_back_share),
        *others,
    )
    for evaluation in evaluations:
        record_evaluation(store, build, evaluation, evaluated_by)
    return evaluations
