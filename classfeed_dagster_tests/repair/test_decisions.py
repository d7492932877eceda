"""Decisions from facts: what each state of affairs leads to, and what no state ever does."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.repair.causes import Cause, CauseKind, Dependency
from classfeed_dagster.repair.decisions import (
    Action,
    DateFacts,
    Decision,
    Policy,
    RunFact,
    RunState,
    backoff,
    decide,
    decide_all,
)

DAY = dt.date(2026, 3, 2)
DUE = dt.datetime(2026, 3, 2, 19, tzinfo=dt.UTC)
HOUR, MINUTE = dt.timedelta(hours=1), dt.timedelta(minutes=1)
POLICY = Policy(code_version="1")
DOWN = Cause(CauseKind.TRANSIENT, "StoreError", Dependency.STORE)
DRIFT = Cause(CauseKind.DATA, "SchemaDriftError")
NOT_READY = Cause(CauseKind.NOT_READY, "SourceNotReadyError")


def facts(**given: object) -> DateFacts:
    base = DateFacts("class_super", DAY, DUE, DUE + 3 * HOUR, delivered=False)
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]  # a test's keywords


def failed(cause: Cause, minutes: int = 0, number: int = 1, **given: object) -> RunFact:
    fact = RunFact(f"run-{number}", RunState.FAILED, DUE + minutes * MINUTE, cause, "1")
    return dataclasses.replace(fact, **given)  # type: ignore[arg-type]  # a test's keywords


def action(given: DateFacts, after: dt.timedelta = HOUR, policy: Policy = POLICY) -> Action:
    return decide(given, DUE + after, policy).action


def test_date_waits_for_its_schedule_and_is_started_without_it() -> None:
    assert action(facts(), -MINUTE) is Action.NOTHING
    assert action(facts(), 14 * MINUTE) is Action.WAIT
    assert action(facts(), 15 * MINUTE) is Action.RUN


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (RunFact("a", RunState.RUNNING), Action.LEAVE),
        (failed(Cause(CauseKind.TRANSIENT, "worker died"), retried_by_dagster=True), Action.LEAVE),
        (RunFact("a", RunState.CANCELED, DUE), Action.WAIT),
        (RunFact("a", RunState.SUCCEEDED, DUE), Action.RUN),
        (RunFact("a", RunState.SUCCEEDED, DUE, idle=True), Action.RUN),
        (failed(DOWN), Action.RUN),
        (failed(NOT_READY), Action.RUN),
        (failed(NOT_READY, 55), Action.WAIT),
        (failed(DRIFT), Action.GIVE_UP),
        (failed(DRIFT, code_version="0"), Action.RUN),
        (RunFact("a", RunState.FAILED, DUE), Action.RUN),  # its cause was not found
    ],
)
def test_last_run_decides_on_the_date(run: RunFact, expected: Action) -> None:
    assert action(facts(runs=[run])) is expected


@pytest.mark.parametrize("cause", [DOWN, NOT_READY])
def test_run_of_a_day_to_come_is_retried_now(cause: Cause) -> None:
    # The machine's clock was a day ahead while the run failed.
    assert action(facts(runs=[failed(cause, minutes=24 * 60)])) is Action.RUN
    assert action(facts(runs=[failed(cause, minutes=61)])) is Action.WAIT  # clocks of two machines differ a little


def test_delivered_date_is_repaired_only_after_a_source_change() -> None:
    delivered = facts(delivered=True, snapshot_at=DUE, landed_at=DUE, runs=[RunFact("a", RunState.SUCCEEDED, DUE)])
    assert decide(delivered, DUE + HOUR, POLICY).reason == "delivered"
    hold = dataclasses.replace(delivered, held_back=2)
    assert decide(hold, DUE + HOUR, POLICY).reason == "delivered; some portfolios are held back"
    assert action(dataclasses.replace(hold, source_changed_at=DUE)) is Action.NOTHING
    changed = dataclasses.replace(hold, source_changed_at=DUE + MINUTE)
    assert decide(changed, DUE + HOUR, POLICY).fresh_snapshot
    # Another feed has read bigsite since: what it landed will do.
    landed = decide(dataclasses.replace(changed, landed_at=DUE + 2 * MINUTE), DUE + HOUR, POLICY)
    assert (landed.action, landed.fresh_snapshot) == (Action.RUN, False)
    freed = decide(dataclasses.replace(hold, freed="abc"), DUE + HOUR, POLICY)
    assert (freed.action, freed.run_key) == (Action.RUN, "repair-class_super-2026-03-02-freed-abc")
    refresh = decide(dataclasses.replace(hold, refreshes="abc"), DUE + HOUR, POLICY)
    assert (refresh.action, refresh.run_key) == (Action.RUN, "repair-class_super-2026-03-02-refreshes-abc")
    old = [RunFact("a", RunState.SUCCEEDED, DUE, code_version="0")]
    assert action(dataclasses.replace(hold, runs=old)) is Action.NOTHING  # they wait for an earlier date
    deployed = decide(dataclasses.replace(hold, held_by_rule=True, runs=old), DUE + HOUR, POLICY)
    assert (deployed.action, deployed.run_key) == (
        Action.RUN,
        f"repair-class_super-2026-03-02-code-{POLICY.code_version}",
    )
    current = [RunFact("a", RunState.SUCCEEDED, DUE, code_version=POLICY.code_version)]
    assert action(dataclasses.replace(hold, held_by_rule=True, runs=current)) is Action.NOTHING
    never_read = dataclasses.replace(changed, snapshot_at=None, landed_at=None)
    assert decide(never_read, DUE + HOUR, POLICY).fresh_snapshot


def test_failed_reissue_of_a_delivered_date_is_retried() -> None:
    unfinished = facts(delivered=True, snapshot_at=DUE, landed_at=DUE, runs=[failed(DOWN, remaining=("a/b",))])
    decision = decide(unfinished, DUE + HOUR, POLICY)
    assert (decision.action, decision.selection) == (Action.RUN, ("a/b",))


def test_stale_or_changed_source_is_not_resumed() -> None:
    overtaken = failed(Cause(CauseKind.STALE, "MixedSnapshotsError"), remaining=("a/b",))
    assert decide(facts(runs=[overtaken]), DUE + HOUR, POLICY).selection == ()
    changed = facts(runs=[failed(DOWN, remaining=("a/b",))], source_changed_at=DUE, snapshot_at=DUE - HOUR)
    decision = decide(changed, DUE + HOUR, POLICY)
    assert (decision.selection, decision.fresh_snapshot) == ((), True)


def test_permanent_failure_runs_again_once_something_changed() -> None:
    stopped = facts(runs=[failed(DRIFT)], snapshot_at=DUE - HOUR, landed_at=DUE - HOUR)
    assert action(stopped) is Action.GIVE_UP
    assert decide(dataclasses.replace(stopped, source_changed_at=DUE), DUE + HOUR, POLICY).fresh_snapshot
    assert action(dataclasses.replace(stopped, released_at=DUE + MINUTE)) is Action.RUN
    assert action(dataclasses.replace(stopped, released_at=DUE - MINUTE)) is Action.GIVE_UP
    assert action(stopped, policy=Policy(code_version="2")) is Action.RUN


def test_attempts_are_bounded_in_a_window_and_begin_anew_with_the_next() -> None:
    runs = [failed(DOWN, 10 * number, number) for number in range(5)]
    assert action(facts(runs=runs), 5 * HOUR) is Action.GIVE_UP
    assert action(facts(runs=runs[:4]), 5 * HOUR) is Action.RUN
    assert action(facts(runs=runs, budget_from=DUE + 24 * HOUR), 24 * HOUR) is Action.RUN
    unknown = Cause(CauseKind.UNKNOWN, "KeyError")
    assert action(facts(runs=[failed(unknown, 0, 1)])) is Action.RUN
    assert action(facts(runs=[failed(unknown, 0, 1), failed(unknown, 9, 2)])) is Action.GIVE_UP
    # Looking whether the source is ready costs nothing.
    assert action(facts(runs=[*runs, failed(NOT_READY, 60), failed(DOWN, 61)]), 5 * HOUR) is Action.RUN


def test_switched_off_feed_is_checked_again_and_never_given_up() -> None:
    idle = [RunFact(str(n), RunState.SUCCEEDED, DUE + n * MINUTE, idle=True) for n in range(5)]
    assert action(facts(runs=idle), 5 * HOUR) is Action.WAIT
    assert action(facts(runs=idle, budget_from=DUE + 24 * HOUR), 24 * HOUR) is Action.RUN


def test_successes_that_deliver_nothing_are_bounded_too() -> None:
    fruitless = [RunFact(str(n), RunState.SUCCEEDED, DUE + n * MINUTE) for n in range(5)]
    assert action(facts(runs=fruitless), 5 * HOUR) is Action.GIVE_UP


def week(*each: DateFacts) -> list[DateFacts]:
    return [
        dataclasses.replace(item, business_date=DAY + dt.timedelta(days=at), due_at=DUE, deadline=DUE)
        for at, item in enumerate(each)
    ]


def test_date_waits_for_the_one_before() -> None:
    first, second, third = decide_all(week(facts(), facts(), facts(delivered=True)), DUE + HOUR, POLICY)
    assert first.action is Action.RUN
    assert (second.action, second.reason) == (Action.WAIT, "waits for 2026-03-02, which has not been delivered")
    assert third.action is Action.NOTHING


def test_date_waiting_for_an_unrepaired_date_is_given_up_once() -> None:
    first, second = decide_all(week(facts(waits_for=dt.date(2026, 2, 2)), facts()), DUE + HOUR, POLICY)
    assert (first.action, second.action) == (Action.GIVE_UP, Action.WAIT)


def test_unsent_date_waits_for_the_one_before_unless_bigsite_changed() -> None:
    not_sent = failed(Cause(CauseKind.TRANSIENT, "NotSentError"))
    for runs in ((), (not_sent,), (not_sent,) * 5):
        unsent = facts(delivered=True, unsent=1, runs=runs, sends_after=DAY - dt.timedelta(days=3), snapshot_at=DUE)
        assert action(unsent) is Action.WAIT
        changed = dataclasses.replace(unsent, source_changed_at=DUE + MINUTE)
        assert action(changed) is (Action.GIVE_UP if len(runs) == 5 else Action.RUN)
    assert action(dataclasses.replace(unsent, runs=(failed(DOWN),))) is Action.RUN  # a re-issue that failed
    other = failed(Cause(CauseKind.CONFIGURATION, "DestinationRefusedError"))
    assert action(dataclasses.replace(unsent, runs=(other,))) is Action.GIVE_UP


def test_dependency_down_is_probed_by_one_run() -> None:
    feeds = [facts(feed=name, runs=[failed(DOWN)]) for name in ("a", "b", "c")]
    assert [decision.action for decision in decide_all(feeds, DUE + HOUR, POLICY)] == [
        Action.RUN,
        Action.WAIT,
        Action.WAIT,
    ]
    probing = [*feeds, facts(feed="d", runs=[RunFact("x", RunState.RUNNING)])]
    assert [decision.action for decision in decide_all(probing, DUE + HOUR, POLICY)][:3] == [Action.WAIT] * 3
    up_again = [*feeds, facts(feed="d", delivered=True, runs=[RunFact("x", RunState.SUCCEEDED, DUE + HOUR)])]
    assert [decision.action for decision in decide_all(up_again, DUE + 2 * HOUR, POLICY)][:3] == [Action.RUN] * 3


def test_bigsite_is_asked_by_the_sensor_itself() -> None:
    cause = Cause(CauseKind.TRANSIENT, "OperationalError", Dependency.BIGSITE)
    feeds = [facts(feed=name, runs=[failed(cause)]) for name in ("a", "b")]
    assert {decision.action for decision in decide_all(feeds, DUE + HOUR, POLICY, bigsite_up=False)} == {Action.WAIT}
    assert {decision.action for decision in decide_all(feeds, DUE + HOUR, POLICY, bigsite_up=True)} == {Action.RUN}
    assert [decision.action for decision in decide_all(feeds, DUE + HOUR, POLICY)] == [Action.RUN, Action.WAIT]


def test_backoff_grows_and_is_deterministic() -> None:
    waits = [backoff("class_super", DAY, attempts) for attempts in range(1, 7)]
    assert waits[:4] == sorted(waits[:4])
    for minutes, wait in zip((2, 5, 15, 30, 30, 30), waits, strict=True):
        assert minutes * MINUTE <= wait <= minutes * MINUTE * 5 / 4
    assert waits[0] == backoff("class_super", DAY, 1)
    assert 2 * MINUTE <= backoff("class_super", DAY, 0) <= 3 * MINUTE
    assert waits[0] != backoff("class_cash", DAY, 1)


instants = st.integers(0, 48 * 60).map(lambda minutes: DUE + minutes * MINUTE)
causes = st.sampled_from(
    [DOWN, DRIFT, NOT_READY, Cause(CauseKind.UNKNOWN, "KeyError"), Cause(CauseKind.STALE, "StaleBuildError"), None]
)
runs = st.lists(
    st.builds(
        RunFact,
        st.uuids().map(str),
        st.sampled_from(RunState),
        instants,
        causes,
        st.sampled_from(["1", "0"]),
        st.booleans(),
        st.sampled_from([(), ("a/b",)]),
        st.booleans(),
    ),
    max_size=7,
)
everything = st.lists(
    st.builds(
        DateFacts,
        feed=st.sampled_from(["a", "b"]),
        business_date=st.integers(0, 9).map(lambda days: DAY + dt.timedelta(days=days)),
        due_at=instants,
        deadline=instants,
        delivered=st.booleans(),
        runs=runs,
        held_back=st.integers(0, 3),
        held_by_rule=st.booleans(),
        snapshot_at=st.none() | instants,
        landed_at=st.none() | instants,
        source_changed_at=st.none() | instants,
        freed=st.none() | st.just("f"),
        released_at=st.none() | instants,
        waits_for=st.none() | st.just(DAY - dt.timedelta(days=3)),
        budget_from=st.none() | instants,
    ),
    max_size=8,
    unique_by=lambda item: (item.feed, item.business_date),
)


@given(everything, instants, st.sampled_from([None, True, False]))
def test_decisions_hold_for_any_facts(given_facts: list[DateFacts], now: dt.datetime, up: bool | None) -> None:
    decisions = decide_all(given_facts, now, POLICY, bigsite_up=up)
    assert decide_all(reversed(given_facts), now, POLICY, bigsite_up=up) == decisions
    by_date = {(given_fact.feed, given_fact.business_date): given_fact for given_fact in given_facts}
    assert len(decisions) == len(by_date)
    running: list[Decision] = [decision for decision in decisions if decision.action is Action.RUN]
    keys = [process.run_key for process in running]
    assert len(set(keys)) == len(keys)
    assert None not in keys
    assert not (running and up is False)
    for item in running:
        known = by_date[item.feed, item.business_date]
        assert known.due_at <= now
        assert all(run.state is not RunState.RUNNING for run in known.runs)
        assert not (known.runs and known.runs[-1].state is RunState.CANCELED and not known.delivered)
        # Nothing is started out of order, and what is read anew is read whole.
        earlier = [f for f in given_facts if f.feed == item.feed and f.business_date < item.business_date]
        assert known.delivered or all(f.delivered or f.due_at > now for f in earlier)
        assert not (item.fresh_snapshot and item.selection)
    for item in decisions:
        assert item.reason
        assert (item.not_before is None) or item.not_before > now


@pytest.mark.parametrize("error", ["SchemaDriftError", "SchemaUnreadableError", "UndefinedColumn"])
def test_date_stopped_by_schema_runs_again_once_the_contract_is_kept(error: str) -> None:
    stopped = facts(runs=[failed(Cause(CauseKind.DATA, error))])
    assert action(stopped) is Action.GIVE_UP
    corrected = dataclasses.replace(stopped, schema_agrees=True)
    decision = decide(corrected, DUE + HOUR, POLICY)
    assert (decision.action, decision.selection) == (Action.RUN, ())
    assert decision.reason == f"stopped by {error}; bigsite's schema keeps its contract again"


def test_agreeing_schema_does_not_retry_other_failures() -> None:
    assert action(facts(runs=[failed(Cause(CauseKind.DATA, "GateRefusedError"))], schema_agrees=True)) is Action.GIVE_UP


def test_date_failing_with_a_correct_schema_is_given_up() -> None:
    runs = [failed(DRIFT, minute, minute) for minute in range(5)]
    assert action(facts(runs=runs, schema_agrees=True), 10 * HOUR) is Action.GIVE_UP


def test_pace_shortens_every_waiting_time() -> None:
    fast = Policy(code_version="1", pace=0.1)
    assert action(facts(), 2 * MINUTE, fast) is Action.RUN
    assert action(facts(runs=[failed(DOWN)]), MINUTE, fast) is Action.RUN
    assert action(facts(runs=[failed(DOWN)]), MINUTE) is Action.WAIT
    assert action(facts(runs=[failed(NOT_READY)]), 2 * MINUTE, fast) is Action.RUN
    assert action(facts(runs=[failed(NOT_READY)]), 2 * MINUTE) is Action.WAIT


FOUND = {"delivered": True, "snapshot_at": DUE, "landed_at": DUE, "finding": "f1"}
DELIVERY = RunFact("a", RunState.SUCCEEDED, DUE, snapshot_id="s1")


def test_finding_of_a_delivered_date_reads_bigsite_again_once() -> None:
    first = decide(facts(**FOUND, runs=[DELIVERY]), DUE + HOUR, POLICY)
    assert (first.action, first.fresh_snapshot, first.finding) == (Action.RUN, True, "f1")
    answer = RunFact("b", RunState.SUCCEEDED, DUE + HOUR, snapshot_id="s2", finding="f1")
    assert action(facts(**FOUND, runs=[DELIVERY, answer])) is Action.NOTHING
    another = {**FOUND, "finding": "f2"}
    assert decide(facts(**another, runs=[DELIVERY, answer]), DUE + 2 * HOUR, POLICY).finding == "f2"


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.CANCELED])
def test_finding_whose_run_ended_is_not_asked_again(state: RunState) -> None:
    answer = RunFact("b", state, DUE, finding="f1")
    assert action(facts(**FOUND, runs=[DELIVERY, answer])) is Action.NOTHING


def test_finding_whose_run_failed_before_reading_is_read_again() -> None:
    answer = failed(DOWN, number=2, finding="f1", remaining=("class_super/delivery",))
    again = decide(facts(**FOUND, runs=[DELIVERY, answer]), DUE + HOUR, POLICY)
    assert (again.action, again.fresh_snapshot, again.selection, again.finding) == (Action.RUN, True, (), "f1")
    read = dataclasses.replace(answer, snapshot_id="s2")
    resumed = decide(facts(**FOUND, runs=[DELIVERY, read]), DUE + HOUR, POLICY)
    assert (resumed.fresh_snapshot, resumed.selection) == (False, ("class_super/delivery",))


@given(st.lists(st.sampled_from([None, "f1", "f2"]), max_size=6), st.sampled_from([None, "f1", "f2"]))
def test_finding_is_answered_at_most_once_whatever_the_runs(answers: list[str | None], finding: str | None) -> None:
    runs = [
        RunFact(str(at), RunState.SUCCEEDED, DUE, snapshot_id="s", finding=answer) for at, answer in enumerate(answers)
    ]
    decision = decide(facts(**{**FOUND, "finding": finding}, runs=runs), DUE + HOUR, POLICY)
    assert (decision.action is Action.RUN) == (finding is not None and finding not in answers)
