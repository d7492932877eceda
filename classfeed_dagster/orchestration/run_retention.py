"""Deletes old runs and their event logs from Dagster's storage, which nothing else does. Ticks: see dagster.yaml.

What must last is not in Dagster: manifests, verdicts, quarantine, toil and service levels are in the object store.
"""

from __future__ import annotations

import datetime as dt

from dagster import DagsterInstance, RunsFilter
from dagster import DagsterRunStatus as Status

_BATCH = 200


def purge_runs(instance: DagsterInstance, before: dt.datetime, *, at_most: int = 5000) -> int:
    """Delete finished runs created before ``before`` (UTC), oldest first; how many. Unfinished ones stay."""
    finished = RunsFilter(statuses=[Status.SUCCESS, Status.FAILURE, Status.CANCELED], created_before=before)
    deleted = 0
    while deleted < at_most:
        runs = instance.get_run_records(finished, limit=min(_BATCH, at_most - deleted), ascending=True)
        if not runs:
            break
        for record in runs:
            instance.delete_run(record.dagster_run.run_id)
            deleted += 1
    return deleted
