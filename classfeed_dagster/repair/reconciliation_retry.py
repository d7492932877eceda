"""When reconciling a delivered date is tried again after a failure: by the same table of causes as repair.

A delivery waits for nothing here. What was proven stays proven; what failed is tried until it is through, less and less
often, unless its cause can't pass by itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from classfeed_dagster.orchestration.run_history import PARTITION_TAG, run_fact
from classfeed_dagster.repair.causes import Cause, Kind
from classfeed_dagster.repair.decisions import MAX_UNKNOWN_ATTEMPTS, RunState, backoff
from classfeed_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance, RunRecord


def another_attempt(
    instance: DagsterInstance, attempts: Sequence[RunRecord], settings: Settings, now: dt.datetime
) -> bool | None:
    """After ``attempts`` at one delivery, oldest first: True for one more now, None for later, False for none.

    None also while the last is under way. ``now`` is UTC.
    """
    if not attempts:
        return True
    last = attempts[-1]
    fact = run_fact(instance, last, now)
    if fact.state is RunState.RUNNING or fact.retried_by_dagster:
        return None
    if fact.state is RunState.CANCELED:
        return False
    cause = fact.cause or Cause(Kind.UNKNOWN, "unknown")
    hopeless = cause.kind is Kind.UNKNOWN and len(attempts) >= MAX_UNKNOWN_ATTEMPTS
    if hopeless or not cause.kind.retried:
        return fact.code_version != settings.code_version
    day = dt.date.fromisoformat(last.dagster_run.tags[PARTITION_TAG])
    wait = backoff(last.dagster_run.job_name, day, len(attempts)) * settings.repair_pace
    return True if now >= (fact.ended_at or now) + wait else None
