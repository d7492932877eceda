"""Runs whose process was killed: noticed at once, marked failed, and no later run waits for them."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.local.processes import ProcessIdentity
from classfeed_dagster.orchestration import run_recovery
from classfeed_dagster.orchestration.run_recovery import (
    ABANDONED,
    POOL,
    PoolBusyError,
    PoolHolder,
    background_recovery,
    pool_holders,
    recover_dead_runs,
    wait_for_pool,
)
from classfeed_dagster.tags import OWNER_TAG, PARENT_TAG, PROCESS_TAG

# A run that holds the pool's slot within its step, until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
import time_machine
from dagster import job, op
from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.local.processes import ProcessIdentity
from classfeed_dagster.tags import OWNER_TAG, FEED_TAG, PARTITION_TAG
@op(pool="bigsite")
def landing():
    print("holding", flush=True)
    time.sleep(600)
@job
def small(): landing()
if sys.argv[2] == "clock behind":
    time_machine.travel(time.time() - 3600).start()
with open_instance(Path(sys.argv[1])) as instance:
    tags = {FEED_TAG: "class_super", PARTITION_TAG: "2023-01-03"}
    if sys.argv[2] == "tag":
        tags[OWNER_TAG] = str(ProcessIdentity.current())
    small.execute_in_process(instance=instance, tags=tags)
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with open_instance(tmp_path) as instance:
        yield instance


tagged = pytest.mark.parametrize(
    "holder", ["tag", pytest.param("event", marks=pytest.mark.nightly)], indirect=True
)  # fmt: skip


@pytest.fixture(params=["tag", "event", "clock behind"])
def holder(
    instance: DagsterInstance, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """Start a process whose run holds the pool, known by its run's tag or its run's first event.

    With "clock behind", the machine's clock is set forward by an hour after the run's start.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "holding\n"
        yield process
    process.kill()
    process.wait()


def status(instance: DagsterInstance) -> DagsterRunStatus:
    (run,) = instance.get_runs()
    return run.status


def test_holder_is_awaited_while_it_lives_and_failed_once_killed(
    instance: DagsterInstance, holder: subprocess.Popen[str]
) -> None:
    lines: list[str] = []
    with pytest.raises(PoolBusyError, match=r"read by class_super 2023-01-03 .*gave up after 1 s"):
        wait_for_pool(instance, 1, lines.append)
    (announcement,) = lines
    assert "waiting for class_super 2023-01-03" in announcement
    assert "since 20" in announcement
    assert recover_dead_runs(instance) == []
    assert status(instance) is DagsterRunStatus.STARTED

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began, later = time.monotonic(), list[str]()
    wait_for_pool(instance, 600, later.append)
    assert time.monotonic() - began < 30  # not the monitoring's half an hour
    assert (later, status(instance)) == ([], DagsterRunStatus.FAILURE)
    assert pool_holders(instance) == []
    assert recover_dead_runs(instance) == []  # once


@tagged
def test_holder_is_announced_where_looking_takes_longer_than_the_wait(
    instance: DagsterInstance, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with time_machine.travel(dt.datetime(2023, 1, 4, tzinfo=dt.UTC), tick=False) as clock:

        def look(_: DagsterInstance) -> list[str]:
            clock.shift(5)
            return []

        monkeypatch.setattr(run_recovery, "recover_dead_runs", look)
        monkeypatch.setattr(time, "monotonic", time.time)
        with pytest.raises(PoolBusyError):
            wait_for_pool(instance, 1, lines.append)
    assert len(lines) == 1


@tagged
def test_holder_that_dies_later_is_noticed_beside_a_run(
    instance: DagsterInstance, holder: subprocess.Popen[str]
) -> None:
    with background_recovery(instance):
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 60
        while pool_holders(instance) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert pool_holders(instance) == []
    assert status(instance) is DagsterRunStatus.FAILURE


@tagged
def test_ended_run_gives_its_slot_back(instance: DagsterInstance, holder: subprocess.Popen[str]) -> None:
    (run,) = instance.get_runs()
    instance.report_run_canceled(run)
    wait_for_pool(instance, 0, lambda _: None)
    assert pool_holders(instance) == []


def test_ended_run_waits_for_the_pool_no_more(instance: DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots(POOL, 1)
    living, ended = (
        create_run_for_test(instance, "small", status=status, tags={OWNER_TAG: str(ProcessIdentity.current())})
        for status in (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELED)
    )
    for run in (living, ended):
        storage.claim_concurrency_slot(POOL, run.run_id, "landing")
    assert ended.run_id in {step.run_id for step in storage.get_concurrency_info(POOL).pending_steps}
    recover_dead_runs(instance)
    info = storage.get_concurrency_info(POOL)
    waiting = {step.run_id for step in info.pending_steps}
    assert waiting | {slot.run_id for slot in info.claimed_slots} == {living.run_id}


@pytest.mark.parametrize("tag", [OWNER_TAG, PROCESS_TAG])
def test_reexecution_of_a_dead_processs_run_is_not_dead(instance: DagsterInstance, tag: str) -> None:
    # Dagster copies all tags of a run to its re-execution.
    own, parent = ProcessIdentity.current(), "a-run-of-another-process"
    dead = ProcessIdentity(own.host, own.pid, "another:1")
    tags = {tag: f"{parent} {dead}" if tag == PROCESS_TAG else str(dead), PARENT_TAG: parent}
    again = create_run_for_test(instance, "small", tags=tags, status=DagsterRunStatus.STARTED)
    assert recover_dead_runs(instance) == []
    assert PoolHolder.of(instance, again.run_id).owner is None


def test_reexecution_whose_own_process_died_is_dead(instance: DagsterInstance) -> None:
    own = ProcessIdentity.current()
    again = create_run_for_test(instance, "small", tags={PARENT_TAG: "x"}, status=DagsterRunStatus.STARTED)
    dead = ProcessIdentity(own.host, own.pid, "another:1")
    instance.add_run_tags(again.run_id, {PROCESS_TAG: f"{again.run_id} {dead}"})
    assert recover_dead_runs(instance) == [again.run_id]


@pytest.mark.parametrize("owner", ["dead", "none"])
def test_run_that_was_created_and_never_started_is_marked_failed(instance: DagsterInstance, owner: str) -> None:
    own = ProcessIdentity.current()
    tags = {OWNER_TAG: str(ProcessIdentity(own.host, own.pid, "another:1"))} if owner == "dead" else {}
    created = create_run_for_test(instance, "small", tags=tags)
    living = create_run_for_test(instance, "small", tags={OWNER_TAG: str(own)})
    assert recover_dead_runs(instance) == ([created.run_id] if owner == "dead" else [])
    with time_machine.travel(dt.datetime.now(dt.UTC) + ABANDONED, tick=True):
        recover_dead_runs(instance)
    assert {run.run_id: run.status for run in instance.get_runs()} == {
        created.run_id: DagsterRunStatus.FAILURE,
        living.run_id: DagsterRunStatus.NOT_STARTED,
    }


def test_processes_of_other_machines_and_other_starts_are_told_apart() -> None:
    own = ProcessIdentity.current()
    assert ProcessIdentity.parse(str(own)) == own
    assert not own.dead
    assert ProcessIdentity(own.host, own.pid, "another:1").dead  # the number was given to another process
    assert ProcessIdentity(own.host, 4_000_000_000, own.started).dead
    assert not ProcessIdentity("elsewhere", own.pid, "another:1").dead
    assert ProcessIdentity.parse("nonsense") is None


def test_zombie_process_counts_as_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    from classfeed_dagster.local.processes import start_of

    identity = ProcessIdentity(ProcessIdentity.current().host, child.pid, start_of(child.pid) or "")
    assert not identity.dead
    child.kill()
    deadline = time.monotonic() + 10
    while not identity.dead and time.monotonic() < deadline:
        time.sleep(0.05)
    assert identity.dead  # and no process has collected it yet
    child.communicate()
