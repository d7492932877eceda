"""Decisions about due business dates, from facts alone. Pure: no clock, no store, no Dagster.

Level-triggered: after a missed tick, a restart or a killed worker the same facts lead to the same decision. The repair
sensor gathers the facts and executes the decisions.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from classfeed_dagster.repair.causes import SCHEMA_ERRORS, Cause, CauseKind, Dependency
from classfeed_dagster.settings import Settings

# Minutes before attempt 2, 3, 4, ..., plus a spread of up to a quarter.
BACKOFF_MINUTES = (2, 5, 15, 30)
NOT_READY_MINUTES = 10
MAX_UNKNOWN_ATTEMPTS = 2
_NOT_SENT = "NotSentError"  # the class's name, as event logs have it


class RunState(enum.StrEnum):
    """State of a run of a date."""

    RUNNING = "running"  # queued, starting or started
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"  # by a person: only a person starts it again


@dataclass(frozen=True, slots=True)
class RunFact:
    """One run of a feed for a date. Instants are UTC."""

    run_id: str
    state: RunState
    ended_at: dt.datetime | None = None
    cause: Cause | None = None
    code_version: str = ""
    retried_by_dagster: bool = False  # Dagster itself will retry it (a crashed worker)
    remaining: tuple[str, ...] = ()  # of a failed run: the assets from the failed step on
    idle: bool = False  # succeeded without work: the feed is off
    snapshot_id: str | None = None  # its snapshot of bigsite, if it has one
    finding: str | None = None  # reconciliation's finding that caused it


@dataclass(frozen=True, slots=True)
class DateFacts:
    """Facts of one due business date of a feed. Instants are UTC."""

    feed: str
    business_date: dt.date
    due_at: dt.datetime  # start of the morning's run
    deadline: dt.datetime
    delivered: bool
    runs: Sequence[RunFact] = ()  # oldest first
    held_back: int = 0
    held_by_rule: bool = False  # a rule holds back some, which new code may release
    # Snapshot of the feed's latest attempt, and the newest one landed (possibly by another feed).
    snapshot_at: dt.datetime | None = None
    landed_at: dt.datetime | None = None
    source_changed_at: dt.datetime | None = None  # latest change of rows that this date delivers or holds back
    freed: str | None = None  # hash of the portfolios held back whose earlier date was delivered since
    released_at: dt.datetime | None = None  # a person approved unusual removals
    waits_for: dt.date | None = None  # an undelivered earlier date, too old to be repaired
    finding: str | None = None  # identity of the errors in the latest delivery's reconciliation
    schema_agrees: bool = False  # the latest run failed by the schema, which now agrees with its contract
    unsent: int = 0  # delivered files that the destination does not have
    sends_after: dt.date | None = None  # the business date before, whose files have to be sent first
    refreshes: str | None = None  # hash of granted refreshes of this latest date that no run has delivered
    budget_from: dt.datetime | None = None  # attempts before this morning's start no longer count


class Action(enum.StrEnum):
    """Action on a date."""

    NOTHING = "nothing"
    LEAVE = "leave"  # a run is in progress
    WAIT = "wait"
    RUN = "run"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Decision:
    """Action on one date, with a reason that fits a tick's log and an alert."""

    feed: str
    business_date: dt.date
    action: Action
    reason: str
    attempt: int = 0
    fresh_snapshot: bool = False
    selection: tuple[str, ...] = ()  # assets to resume from; empty: the whole job
    not_before: dt.datetime | None = None
    run_key: str | None = None
    cause: Cause | None = None
    finding: str | None = None  # the reconciliation's finding that the run answers


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of repair."""

    max_attempts: int = 5
    grace: dt.timedelta = dt.timedelta(minutes=15)  # wait for the schedule before repair starts the date
    code_version: str = ""
    pace: float = 1.0  # factor on all waiting times


def decide(facts: DateFacts, now: dt.datetime, policy: Policy) -> Decision:
    """Decide on one date, without regard to other dates. ``now`` is UTC."""
    if now < facts.due_at:
        return _say(facts, Action.NOTHING, "not due yet")
    last = facts.runs[-1] if facts.runs else None
    if any(fact.state is RunState.RUNNING for fact in facts.runs):
        return _say(facts, Action.LEAVE, "a run is in progress")
    if last is not None and last.retried_by_dagster:
        return _say(facts, Action.LEAVE, "its worker died; Dagster retries it")
    if last is not None and last.state is RunState.FAILED:
        # Also for a delivered date: then a re-issue has failed.
        return _failed(facts, last, now, policy)
    if facts.delivered:
        return _delivered(facts, policy)
    if facts.waits_for is not None:
        return _say(facts, Action.GIVE_UP, f"waits for {facts.waits_for.isoformat()}, which is too old to be repaired")
    if last is None:
        starts = facts.due_at + policy.grace * policy.pace
        if now < starts:
            return _say(facts, Action.WAIT, "its schedule starts it", not_before=starts)
        return _run(facts, "it was never started")
    if last.state is RunState.CANCELED:
        return _say(facts, Action.WAIT, "a person canceled its run; it waits until a person starts it")
    if last.idle:
        decision = _again(facts, now, policy, "the feed was off in its last run")
        if decision.action is Action.GIVE_UP:  # no fault: check again every morning
            return _say(facts, Action.WAIT, "the feed is off; checked again in the morning")
        return decision
    # The run covered a part of the job, or its manifest is missing: a whole run is needed.
    return _again(facts, now, policy, "its last run delivered no document")


def _delivered(facts: DateFacts, policy: Policy) -> Decision:
    if source_changed(facts):
        return _run(facts, "bigsite changed rows that this date delivers or holds back", fresh=_must_read(facts))
    if _finding_unanswered(facts):
        # Once for each finding: errors that remain after a fresh snapshot need a person.
        return _run(facts, "reconciliation found errors in the delivery; bigsite is read again", fresh=True)
    if facts.freed is not None:
        return _run_once(facts, "portfolios that waited for an earlier date can now be delivered", "freed", facts.freed)
    if facts.refreshes is not None:
        return _run_once(facts, "a refresh was granted and no run has delivered it", "refreshes", facts.refreshes)
    if facts.held_by_rule and facts.runs and facts.runs[-1].code_version != policy.code_version:
        return _run_once(
            facts, "new code was deployed since its portfolios were held back", "code", policy.code_version
        )
    if facts.unsent and facts.sends_after is None:
        return _run(facts, "delivered, but not sent to its destination")
    if facts.unsent:
        return _wait_to_send(facts)
    return _say(facts, Action.NOTHING, "delivered; some portfolios are held back" if facts.held_back else "delivered")


def _failed(facts: DateFacts, last: RunFact, now: dt.datetime, policy: Policy) -> Decision:
    cause = last.cause or Cause(CauseKind.UNKNOWN, "unknown")
    if not cause.kind.retried:
        if source_changed(facts):
            return _run(facts, f"stopped by {cause.error}; bigsite changed since", fresh=_must_read(facts))
        if policy.code_version != last.code_version:
            return _run(facts, f"stopped by {cause.error}; new code was deployed since")
        if facts.released_at is not None and (last.ended_at is None or facts.released_at > last.ended_at):
            return _run(facts, "a person approved its removals")
        if facts.schema_agrees and cause.error in SCHEMA_ERRORS:
            return _again(facts, now, policy, f"stopped by {cause.error}; bigsite's schema keeps its contract again")
        return _say(facts, Action.GIVE_UP, f"{cause.error} ({cause.kind}), which a retry cannot fix", cause)
    if cause.kind is CauseKind.NOT_READY:
        next_check = _after_pause(last, dt.timedelta(minutes=NOT_READY_MINUTES) * policy.pace, now)
        if now < next_check:
            return _say(facts, Action.WAIT, "bigsite's end of day is not complete", cause, not_before=next_check)
        return _run(facts, "checking bigsite's end of day again", cause=cause, fresh=_must_read(facts))
    if facts.sends_after is not None and cause.error == _NOT_SENT and not source_changed(facts):
        return _wait_to_send(facts)
    # A superseded run starts from the beginning; any other continues from the failed step.
    selection = last.remaining if cause.kind is not CauseKind.STALE and not _must_read(facts) else ()
    return _again(facts, now, policy, f"{cause.error} ({cause.kind})", selection=selection)


def _wait_to_send(facts: DateFacts) -> Decision:
    # An attempt would only fail, and leave fewer for when the destination answers again.
    return _say(facts, Action.WAIT, f"delivered; the files of {facts.sends_after} are sent first")


def _again(
    facts: DateFacts, now: dt.datetime, policy: Policy, reason: str, *, selection: tuple[str, ...] = ()
) -> Decision:
    # Another attempt, if one is left and due.
    attempts = _attempts_in_a_row(facts)
    cause = facts.runs[-1].cause
    unknown = cause is not None and cause.kind is CauseKind.UNKNOWN
    limit = min(policy.max_attempts, MAX_UNKNOWN_ATTEMPTS) if unknown else policy.max_attempts
    if len(attempts) >= limit:
        return _say(facts, Action.GIVE_UP, f"{reason}: tried {len(attempts)} times", cause)
    wait = backoff(facts.feed, facts.business_date, len(attempts)) * policy.pace
    not_before = _after_pause(facts.runs[-1], wait, now)
    if now < not_before:
        return _say(facts, Action.WAIT, f"{reason}: next attempt soon", cause, not_before=not_before)
    return _run(facts, reason, fresh=_must_read(facts), selection=selection, cause=cause)


def backoff(feed: str, day: dt.date, attempts: int) -> dt.timedelta:
    """Return the wait after ``attempts`` attempts: growing, and spread over dates and feeds.

    The spread comes from a hash, not from chance, so that two daemons wait for the same instant.
    """
    minutes = BACKOFF_MINUTES[max(0, min(attempts, len(BACKOFF_MINUTES)) - 1)]
    spread = int.from_bytes(hashlib.sha256(f"{feed} {day} {attempts}".encode()).digest()[:4], "big") / 2**32
    return dt.timedelta(minutes=minutes * (1 + spread / 4))


def decide_all(
    facts: Iterable[DateFacts],
    now: dt.datetime,
    policy: Policy,
    *,
    bigsite_up: bool | None = None,
) -> list[Decision]:
    """Decide on all dates together, ordered by feed and date.

    A date waits while an earlier one of its feed is not delivered, since dates are published in order. While a shared
    dependency is down, one run at a time probes it. ``bigsite_up``: the sensor's own probe. False starts no run, None
    means that it did not probe.
    """
    ordered = sorted(facts, key=lambda date: (date.feed, date.business_date))
    decisions: list[Decision] = []
    blocked_by: dict[str, dt.date] = {}
    for date in ordered:
        decision = decide(date, now, policy)
        earlier = blocked_by.get(date.feed)
        if earlier is not None and decision.action in (Action.RUN, Action.WAIT, Action.GIVE_UP) and not date.delivered:
            decision = _say(date, Action.WAIT, f"waits for {earlier.isoformat()}, which has not been delivered")
        if not date.delivered and date.due_at <= now:
            blocked_by.setdefault(date.feed, date.business_date)
        decisions.append(decision)
    return _hold_while_down(ordered, decisions, bigsite_up)


def _hold_while_down(facts: Sequence[DateFacts], decisions: list[Decision], bigsite_up: bool | None) -> list[Decision]:
    down = _found_down(facts)
    if bigsite_up is not None:
        down -= {Dependency.BIGSITE}
    if bigsite_up is False:
        return [_hold(decision, "bigsite does not answer; it is probed again") for decision in decisions]
    if not down:
        return decisions
    names = " and ".join(sorted(down))
    probing = any(decision.action is Action.LEAVE for decision in decisions)
    result: list[Decision] = []
    for decision in decisions:
        result.append(_hold(decision, f"{names} is down; another run is probing it") if probing else decision)
        probing = probing or decision.action is Action.RUN
    return result


def _hold(decision: Decision, reason: str) -> Decision:
    if decision.action is not Action.RUN:
        return decision
    return Decision(decision.feed, decision.business_date, Action.WAIT, reason, cause=decision.cause)


def _found_down(facts: Sequence[DateFacts]) -> set[Dependency]:
    # The dependency that was down in the latest ended run of any date and feed. A later success means that it is up.
    ended = [(run.ended_at, run) for date in facts for run in date.runs if run.ended_at is not None]
    if not ended:
        return set()
    _, latest = max(ended, key=lambda pair: pair[0])
    if latest.state is RunState.FAILED and latest.cause is not None and latest.cause.dependency is not None:
        return {latest.cause.dependency}
    return set()


def another_attempt(
    last: RunFact | None, attempts: int, job: str, day: dt.date, settings: Settings, now: dt.datetime
) -> bool | None:
    """Decide on another attempt at a job that follows a delivery: True for one now, None for later, False for none.

    ``last`` is the latest of ``attempts`` runs of ``job`` for ``day``. While it is in progress, None is returned. The
    causes are the same as for repair. ``now`` is UTC.
    """
    if last is None:
        return True
    if last.state is RunState.RUNNING or last.retried_by_dagster:
        return None
    if last.state is RunState.CANCELED:
        return False
    cause = last.cause or Cause(CauseKind.UNKNOWN, "unknown")
    hopeless = cause.kind is CauseKind.UNKNOWN and attempts >= MAX_UNKNOWN_ATTEMPTS
    if hopeless or not cause.kind.retried:
        return last.code_version != settings.code_version
    wait = backoff(job, day, attempts) * settings.repair_pace
    return True if now >= _after_pause(last, wait, now) else None


def _after_pause(last: RunFact, pause: dt.timedelta, now: dt.datetime) -> dt.datetime:
    # A run that ended in the future ended before the clock was set back: how long ago is unknown.
    ended = last.ended_at or now
    return now if ended - now > pause else ended + pause


def source_changed(facts: DateFacts) -> bool:
    """Return True if bigsite changed rows of the date since the snapshot of the feed's latest attempt."""
    if facts.source_changed_at is None:
        return False
    return facts.snapshot_at is None or facts.source_changed_at > facts.snapshot_at


def _must_read(facts: DateFacts) -> bool:
    # False if the newest landed snapshot already includes the change.
    return _finding_unanswered(facts) or (
        source_changed(facts)
        and (
            facts.landed_at is None
            or (facts.source_changed_at is not None and facts.source_changed_at > facts.landed_at)
        )
    )


def _finding_unanswered(facts: DateFacts) -> bool:
    # True until a run for reconciliation's finding has read bigsite.
    return facts.finding is not None and not any(
        run.finding == facts.finding and (run.state is not RunState.FAILED or run.snapshot_id is not None)
        for run in facts.runs
    )


def _attempts_in_a_row(facts: DateFacts) -> list[RunFact]:
    # Unsuccessful attempts since this morning's start. A readiness check costs no attempt.
    attempts: list[RunFact] = []
    for fact in reversed(facts.runs):
        ended = fact.state is RunState.FAILED or (fact.state is RunState.SUCCEEDED and not facts.delivered)
        if not ended or (fact.cause is not None and fact.cause.kind is CauseKind.NOT_READY):
            break
        if facts.budget_from is not None and fact.ended_at is not None and fact.ended_at < facts.budget_from:
            break
        attempts.append(fact)
    return attempts


def _run(
    facts: DateFacts, reason: str, *, fresh: bool = False, selection: tuple[str, ...] = (), cause: Cause | None = None
) -> Decision:
    # One request for each state: daemons that see the same last run use the same key.
    last = facts.runs[-1].run_id if facts.runs else "none"
    return Decision(
        facts.feed,
        facts.business_date,
        Action.RUN,
        reason,
        attempt=len(facts.runs) + 1,
        fresh_snapshot=fresh,
        selection=selection,
        run_key=f"repair-{facts.feed}-{facts.business_date.isoformat()}-after-{last}",
        cause=cause,
        finding=facts.finding if fresh else None,
    )


def _run_once(facts: DateFacts, reason: str, kind: str, of: str) -> Decision:
    # Keyed by the portfolios, not by the last run: a repetition would change nothing.
    return dataclasses.replace(
        _run(facts, reason), run_key=f"repair-{facts.feed}-{facts.business_date.isoformat()}-{kind}-{of}"
    )


def _say(
    facts: DateFacts,
    action: Action,
    reason: str,
    cause: Cause | None = None,
    *,
    not_before: dt.datetime | None = None,
) -> Decision:
    return Decision(facts.feed, facts.business_date, action, reason, not_before=not_before, cause=cause)
