"""Recovery of runs whose process was killed: find them by their owner, mark them failed, free their pool slots.

A killed process leaves its run "started" and its pool slot claimed. Dagster's monitoring ends such a run only after its
timeout, and only while a daemon runs.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from classfeed_dagster.errors import NotReadyError
from classfeed_dagster.local.processes import ProcessIdentity
from classfeed_dagster.tags import FEED_TAG, OWNER_TAG, PARENT_TAG, PARTITION_TAG, PROCESS_TAG

POOL = "bigsite"
_UNDER_WAY = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
# Time after which a run that was created but not queued counts as abandoned. Repair ignores it before (STALLED).
ABANDONED = dt.timedelta(hours=1)
_ENDED = frozenset({DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED})
_POLL_SECONDS = 1.0


class PoolBusyError(NotReadyError):
    """Another run kept the pool for longer than the waiting time."""

    def __init__(self, holder: PoolHolder, seconds: float) -> None:
        super().__init__(
            f"bigsite is being read by {holder}: gave up after {seconds:.0f} s. Wait for that run, or terminate it in "
            "the UI, then run the date again; --wait sets the seconds."
        )


@dataclass(frozen=True, slots=True)
class PoolHolder:
    """Run that holds a slot of the pool."""

    run_id: str
    feed: str
    partition: str
    since: dt.datetime | None
    owner: ProcessIdentity | None

    @classmethod
    def of(cls, instance: DagsterInstance, run_id: str) -> Self:
        """Return the holder with the facts that the instance stores."""
        record = instance.get_run_record_by_id(run_id)
        if record is None:
            return cls(run_id, "", "", None, None)
        tags = record.dagster_run.tags
        since = None if record.start_time is None else dt.datetime.fromtimestamp(record.start_time, dt.UTC)
        owner = _owner(record.dagster_run)
        return cls(run_id, tags.get(FEED_TAG, "a run"), tags.get(PARTITION_TAG, ""), since, owner)

    def __str__(self) -> str:
        process = "" if self.owner is None else f", process {self.owner.pid} on {self.owner.host}"
        since = "" if self.since is None else f", since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.feed} {self.partition} (run {self.run_id[:8]}{process}{since})"


def recover_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs of dead processes failed, free the slots of ended runs, and return the ids of the marked runs.

    Only runs of this machine are checked. Safe to repeat, and to run concurrently.
    """
    marked = []
    for record in instance.get_run_records(RunsFilter(statuses=_UNDER_WAY)):
        run = record.dagster_run
        if _is_dead(run, record.create_timestamp):
            instance.report_run_failed(run, "The process of this run was killed. Run the date again.")
            marked.append(run.run_id)
    storage = instance.event_log_storage
    for key in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(key)
        for run_id in {slot.run_id for slot in info.claimed_slots} | {step.run_id for step in info.pending_steps}:
            holder = instance.get_run_by_id(run_id)
            if holder is None or holder.status in _ENDED:
                storage.free_concurrency_slots_for_run(run_id)
    return marked


def pool_holders(instance: DagsterInstance) -> list[PoolHolder]:
    """Return the runs that hold the pool's slots, if none is free."""
    storage = instance.event_log_storage
    if POOL not in storage.get_concurrency_keys():
        return []
    info = storage.get_concurrency_info(POOL)
    if len(info.claimed_slots) < info.slot_count:
        return []
    return [PoolHolder.of(instance, slot.run_id) for slot in info.claimed_slots]


def wait_for_pool(instance: DagsterInstance, seconds: float, announce: Callable[[str], None]) -> None:
    """Return once a slot of the pool is free. Dead holders are removed immediately; PoolBusyError after ``seconds``.

    The time begins at the first sight of a holder. ``announce`` receives each new holder.
    """
    deadline, announced = math.inf, ""
    while True:
        recover_dead_runs(instance)
        holders = pool_holders(instance)
        if not holders:
            return
        deadline = min(deadline, time.monotonic() + seconds)
        if time.monotonic() >= deadline:
            raise PoolBusyError(holders[0], seconds)
        if (text := str(holders[0])) != announced:
            announce(f"waiting for {text}, which is reading bigsite")
            announced = text
        time.sleep(_POLL_SECONDS)


@contextmanager
def background_recovery(instance: DagsterInstance) -> Iterator[None]:
    """Recover dead runs during the block: a run may be killed after this one began to wait for it."""
    stop = threading.Event()

    def recover() -> None:
        while not stop.wait(5 * _POLL_SECONDS):
            if len(pool_holders(instance)) > 0:
                recover_dead_runs(instance)

    thread = threading.Thread(target=recover, name="run recovery", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _owner(run: DagsterRun) -> ProcessIdentity | None:
    # A re-execution has its parent's tags until it starts.
    run_id, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
    if run_id == run.run_id:
        return ProcessIdentity.parse(process)
    return None if PARENT_TAG in run.tags else ProcessIdentity.parse(run.tags.get(OWNER_TAG, ""))


def _is_dead(run: DagsterRun, created: dt.datetime) -> bool:
    owner = _owner(run)
    if owner is not None:
        return owner.dead
    return run.status is DagsterRunStatus.NOT_STARTED and dt.datetime.now(dt.UTC) - created > ABANDONED
