"""What to do about each due business date, decided from facts alone. Pure: no clock, no store, no Dagster.

Level-triggered: whatever was missed before (a tick, a restart, a killed worker), the same facts lead to the same
decision. The repair sensor gathers the facts and carries the decisions out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from classfeed_dagster.repair.causes import SCHEMA_ERRORS, Cause, CauseKind, Dependency

# Minutes before attempt 2, 3, 4, ...; up to a quarter more is spread.
BACKOFF_MINUTES = (2, 5, 15, 30)
NOT_READY_MINUTES = 10
MAX_UNKNOWN_ATTEMPTS = 2


class RunState(enum.StrEnum):
    """How a run of a date stands."""

    RUNNING = "running"  # queued, starting or started
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"  # by a person: nobody starts it again but a person


@dataclass(frozen=True, slots=True)
class RunFact:
    """One run of a feed for a date. Instants are UTC."""

    run_id: str
    state: RunState
    ended_at: dt.datetime | None = None
    cause: Cause | None = None
    code_version: str = ""
    retried_by_dagster: bool = False  # Dagster itself will start it again (a crashed worker)
    remaining: tuple[str, ...] = ()  # of a failed run: the assets from the failed step on
    idle: bool = False  # it succeeded by finding nothing to do: the feed is switched off
    snapshot_id: str | None = None  # what it read bigsite as, if it got that far
    finding: str | None = None  # the reconciliation's finding for which it was started


@dataclass(frozen=True, slots=True)
class DateFacts:
    """What is known of one due business date of a feed. Instants are UTC."""

    feed: str
    business_date: dt.date
    due_at: dt.datetime  # when the morning's run starts
    deadline: dt.datetime
    delivered: bool
    runs: Sequence[RunFact] = ()  # oldest first
    held_back: int = 0
    # What the feed's latest attempt worked from, and the newest that is landed (another feed may have taken it).
    snapshot_at: dt.datetime | None = None
    landed_at: dt.datetime | None = None
    source_changed_at: dt.datetime | None = None  # latest change of what this date is sent from, or holds back
    freed: str | None = None  # names the set of held back portfolios for which the earlier date has gone since
    released_at: dt.datetime | None = None  # a person released a jump
    waits_for: dt.date | None = None  # an earlier date, older than those that are repaired, that was not delivered
    finding: str | None = None  # identity of the errors that reconciling the latest delivery found
    schema_agrees: bool = False  # it was asked, since the latest run failed by it, and keeps its contract
    budget_from: dt.datetime | None = None  # attempts before this morning's start count no more


class Action(enum.StrEnum):
    """What to do about a date."""

    NOTHING = "nothing"
    LEAVE = "leave"  # something is running
    WAIT = "wait"
    RUN = "run"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one date, and why, in words that fit a tick's log and an alert."""

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
    """How patient the repair is."""

    max_attempts: int = 5
    grace: dt.timedelta = dt.timedelta(minutes=15)  # the schedule's own time before the repair steps in
    code_version: str = ""
    pace: float = 1.0  # factor on all waiting times


def decide(facts: DateFacts, now: dt.datetime, policy: Policy) -> Decision:
    """What to do about one date, looked at alone. ``now`` is UTC."""
    if now < facts.due_at:
        return _say(facts, Action.NOTHING, "not due yet")
    last = facts.runs[-1] if facts.runs else None
    if any(fact.state is RunState.RUNNING for fact in facts.runs):
        return _say(facts, Action.LEAVE, "a run is under way")
    if last is not None and last.retried_by_dagster:
        return _say(facts, Action.LEAVE, "its worker died; Dagster starts it again")
    if last is not None and last.state is RunState.FAILED:
        # Of a delivered date too: then a re-issue has not got through yet.
        return _failed(facts, last, now, policy)
    if facts.delivered:
        return _delivered(facts)
    if facts.waits_for is not None:
        return _say(facts, Action.GIVE_UP, f"waits for {facts.waits_for.isoformat()}, which nothing repairs any more")
    if last is None:
        starts = facts.due_at + policy.grace * policy.pace
        if now < starts:
            return _say(facts, Action.WAIT, "its schedule starts it", not_before=starts)
        return _run(facts, "it was never started")
    if last.state is RunState.CANCELED:
        return _say(facts, Action.WAIT, "a person canceled its run: it waits until a person starts it")
    if last.idle:
        decision = _again(facts, now, policy, "its last run found the feed switched off")
        if decision.action is Action.GIVE_UP:  # nothing is wrong: look again every morning
            return _say(facts, Action.WAIT, "the feed is switched off; looked at again in the morning")
        return decision
    # The run was of a part of the job, or its manifest is gone: a whole run finds out.
    return _again(facts, now, policy, "its last run delivered nothing")


def _delivered(facts: DateFacts) -> Decision:
    if _source_changed(facts):
        return _run(facts, "bigsite changed rows that this date holds back or was sent from", fresh=_must_read(facts))
    if _finding_unanswered(facts):
        # Once for each finding: errors that a fresh snapshot leaves are for people.
        return _run(facts, "reconciliation found errors in what was delivered; bigsite is read again", fresh=True)
    if facts.freed is not None:
        # Keyed by who was freed, not by the last run: if they don't go now, asking again would change nothing.
        decision = _run(facts, "portfolios that waited for an earlier date may go now")
        return dataclasses.replace(
            decision, run_key=f"repair-{facts.feed}-{facts.business_date.isoformat()}-freed-{facts.freed}"
        )
    return _say(facts, Action.NOTHING, "delivered, some held back until mended" if facts.held_back else "delivered")


def _failed(facts: DateFacts, last: RunFact, now: dt.datetime, policy: Policy) -> Decision:
    cause = last.cause or Cause(CauseKind.UNKNOWN, "unknown")
    if not cause.kind.retried:
        if _source_changed(facts):
            return _run(facts, f"stopped by {cause.error}; bigsite changed since", fresh=_must_read(facts))
        if policy.code_version != last.code_version:
            return _run(facts, f"stopped by {cause.error}; new code was deployed since")
        if facts.released_at is not None and (last.ended_at is None or facts.released_at > last.ended_at):
            return _run(facts, "a person released it")
        if facts.schema_agrees and cause.error in SCHEMA_ERRORS:
            return _again(facts, now, policy, f"stopped by {cause.error}; bigsite's schema keeps its contract again")
        return _say(facts, Action.GIVE_UP, f"{cause.error} ({cause.kind}), which trying again can't mend", cause)
    if cause.kind is CauseKind.NOT_READY:
        look_again = (last.ended_at or now) + dt.timedelta(minutes=NOT_READY_MINUTES) * policy.pace
        if now < look_again:
            return _say(facts, Action.WAIT, "bigsite's end of day is not there yet", cause, not_before=look_again)
        return _run(facts, "looking whether bigsite's end of day is there", cause=cause, fresh=_must_read(facts))
    # What was overtaken needs everything again; what merely failed goes on from the failed step.
    selection = last.remaining if cause.kind is not CauseKind.STALE and not _must_read(facts) else ()
    return _again(facts, now, policy, f"{cause.error} ({cause.kind})", selection=selection)


def _again(
    facts: DateFacts, now: dt.datetime, policy: Policy, reason: str, *, selection: tuple[str, ...] = ()
) -> Decision:
    # One more attempt after those without success, if there are any left and its time has come.
    attempts = _attempts_in_a_row(facts)
    cause = facts.runs[-1].cause
    unknown = cause is not None and cause.kind is CauseKind.UNKNOWN
    limit = min(policy.max_attempts, MAX_UNKNOWN_ATTEMPTS) if unknown else policy.max_attempts
    if len(attempts) >= limit:
        return _say(facts, Action.GIVE_UP, f"{reason}: tried {len(attempts)} times", cause)
    wait = backoff(facts.feed, facts.business_date, len(attempts)) * policy.pace
    not_before = (facts.runs[-1].ended_at or now) + wait
    if now < not_before:
        return _say(facts, Action.WAIT, f"{reason}: next attempt soon", cause, not_before=not_before)
    return _run(facts, reason, fresh=_must_read(facts), selection=selection, cause=cause)


def backoff(feed: str, day: dt.date, attempts: int) -> dt.timedelta:
    """How long to wait after ``attempts`` attempts: growing, spread over dates and feeds, the same each time.

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
    """What to do about all dates together, ordered by feed and date.

    A date waits while an earlier one of its feed is not delivered (publishing is in order, design). While something
    that everybody relies on is down, one run at a time probes it. ``bigsite_up`` is what the sensor's own question to
    bigsite found: False starts nothing at all, None means that it did not ask.
    """
    ordered = sorted(facts, key=lambda one: (one.feed, one.business_date))
    decisions: list[Decision] = []
    blocked_by: dict[str, dt.date] = {}
    for one in ordered:
        decision = decide(one, now, policy)
        earlier = blocked_by.get(one.feed)
        if earlier is not None and decision.action in (Action.RUN, Action.WAIT, Action.GIVE_UP) and not one.delivered:
            decision = _say(one, Action.WAIT, f"waits for {earlier.isoformat()}, which has not been delivered")
        if not one.delivered and one.due_at <= now:
            blocked_by.setdefault(one.feed, one.business_date)
        decisions.append(decision)
    return _hold_while_down(ordered, decisions, bigsite_up)


def _hold_while_down(facts: Sequence[DateFacts], decisions: list[Decision], bigsite_up: bool | None) -> list[Decision]:
    down = _found_down(facts)
    if bigsite_up is not None:
        down -= {Dependency.BIGSITE}
    if bigsite_up is False:
        return [_hold(one, "bigsite does not answer; it is asked again") for one in decisions]
    if not down:
        return decisions
    names = " and ".join(sorted(down))
    probing = any(decision.action is Action.LEAVE for decision in decisions)
    result: list[Decision] = []
    for decision in decisions:
        held = _hold(decision, f"{names} is down; another run is probing it") if probing else decision
        probing = probing or decision.action is Action.RUN
        result.append(held)
    return result


def _hold(decision: Decision, reason: str) -> Decision:
    if decision.action is not Action.RUN:
        return decision
    return Decision(decision.feed, decision.business_date, Action.WAIT, reason, cause=decision.cause)


def _found_down(facts: Sequence[DateFacts]) -> set[Dependency]:
    # What the latest run to end, of any date and feed, found down. A success since then means that it is up again.
    ended = [(fact.ended_at, fact) for one in facts for fact in one.runs if fact.ended_at is not None]
    if not ended:
        return set()
    _, latest = max(ended, key=lambda pair: pair[0])
    if latest.state is RunState.FAILED and latest.cause is not None and latest.cause.dependency is not None:
        return {latest.cause.dependency}
    return set()


def _source_changed(facts: DateFacts) -> bool:
    # Since the snapshot that the feed's latest attempt worked from.
    if facts.source_changed_at is None:
        return False
    return facts.snapshot_at is None or facts.source_changed_at > facts.snapshot_at


def _must_read(facts: DateFacts) -> bool:
    # Whether bigsite must be read anew, or the newest landed snapshot already has the change.
    return _finding_unanswered(facts) or (
        _source_changed(facts)
        and (
            facts.landed_at is None
            or (facts.source_changed_at is not None and facts.source_changed_at > facts.landed_at)
        )
    )


def _finding_unanswered(facts: DateFacts) -> bool:
    # Whether no run that was started for the reconciliation's finding has read bigsite yet.
    return facts.finding is not None and not any(
        run.finding == facts.finding and (run.state is not RunState.FAILED or run.snapshot_id is not None)
        for run in facts.runs
    )


def _attempts_in_a_row(facts: DateFacts) -> list[RunFact]:
    # Those that came to nothing since this morning's start; looking whether bigsite is ready costs no attempt.
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
    # One request for each state of affairs: whoever sees the same last run asks under the same key.
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


def _say(
    facts: DateFacts,
    action: Action,
    reason: str,
    cause: Cause | None = None,
    *,
    not_before: dt.datetime | None = None,
) -> Decision:
    return Decision(facts.feed, facts.business_date, action, reason, not_before=not_before, cause=cause)
