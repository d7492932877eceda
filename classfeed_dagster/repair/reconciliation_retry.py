"""When reconciling a delivered date is tried again after a failure: by the same table of causes as repair.

A delivery waits for nothing here. What was proven stays proven; what failed is tried until it is through, less and less
often, unless its cause can't pass by itself.
"""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.repair.causes import Cause, CauseKind
from classfeed_dagster.repair.decisions import MAX_UNKNOWN_ATTEMPTS, RunFact, RunState, backoff
from classfeed_dagster.settings import Settings


def another_attempt(
    last: RunFact | None, attempts: int, job: str, day: dt.date, settings: Settings, now: dt.datetime
) -> bool | None:
    """Decide on another attempt at reconciling one delivery: True for one now, None for later, False for none.

    ``last`` is the latest of ``attempts`` runs of ``job`` for ``day``. None is also returned while it is under way.
    ``now`` is UTC.
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
    return True if now >= (last.ended_at or now) + wait else None
