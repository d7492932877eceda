"""Retry of a failed reconciliation: by its cause, with growing waits, and not without a chance of success."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from classfeed_dagster.repair.causes import Cause, CauseKind, Dependency
from classfeed_dagster.repair.decisions import RunFact, RunState, another_attempt
from classfeed_dagster.settings import Settings

ENDED = dt.datetime(2026, 3, 2, 20, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
AWAY = Cause(CauseKind.TRANSIENT, "OperationalError", Dependency.SNOWFLAKE)


def verdict(fact: RunFact, attempts: int, after: dt.timedelta, version: str = "1") -> bool | None:
    last, day = fact if attempts else None, dt.date(2026, 3, 2)
    job = "class_super_reconciliation_job"
    return another_attempt(last, attempts, job, day, Settings(code_version=version), ENDED + after)


def failed(cause: Cause | None, **given: Any) -> RunFact:
    return RunFact("r", RunState.FAILED, ENDED, cause, "1", **given)


def test_unreconciled_delivery_is_reconciled_now() -> None:
    assert verdict(failed(AWAY), 0, MINUTE) is True


@pytest.mark.parametrize(("attempts", "soon", "late"), [(1, 1, 3), (2, 4, 7), (3, 14, 19), (40, 29, 38)])
def test_transient_cause_is_retried_with_growing_waits(attempts: int, soon: int, late: int) -> None:
    assert verdict(failed(AWAY), attempts, soon * MINUTE) is None
    assert verdict(failed(AWAY), attempts, late * MINUTE) is True


@pytest.mark.parametrize(
    ("fact", "attempts", "version", "expected"),
    [
        (RunFact("r", RunState.RUNNING), 1, "1", None),
        (failed(Cause(CauseKind.TRANSIENT, "worker died"), retried_by_dagster=True), 1, "1", None),
        (RunFact("r", RunState.CANCELED, ENDED), 1, "1", False),
        (failed(Cause(CauseKind.DATA, "DagsterAssetCheckFailedError")), 1, "1", False),
        (failed(Cause(CauseKind.DATA, "DagsterAssetCheckFailedError")), 1, "2", True),  # new code was deployed
        (failed(None), 1, "1", True),
        (failed(None), 2, "1", False),
        (RunFact("r", RunState.SUCCEEDED, ENDED), 1, "1", True),  # of a part of the job
    ],
)
def test_last_attempt_decides_on_the_next(fact: RunFact, attempts: int, version: str, expected: bool | None) -> None:
    assert verdict(fact, attempts, dt.timedelta(hours=3), version) is expected
