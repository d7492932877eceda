"""Finished runs of a feed with the launcher of each, from Dagster's storage."""

from __future__ import annotations

import datetime as dt

from dagster import DagsterInstance, RunsFilter
from dagster import DagsterRunStatus as Status

from classfeed_dagster.orchestration.run_history import is_of_feed
from classfeed_dagster.service_levels.toil import LaunchedRun, launcher, stated_reason
from classfeed_dagster.tags import PARTITION_TAG, reconciliation_job_name


def launched_runs(instance: DagsterInstance, feed: str, since: dt.datetime) -> list[LaunchedRun]:
    """Return the feed's finished runs since ``since`` (UTC), with those of its reconciliation, oldest first."""
    wanted = RunsFilter(statuses=[Status.SUCCESS, Status.FAILURE], created_after=since)
    found: list[LaunchedRun] = []
    for record in instance.get_run_records(wanted, ascending=True):
        run, day = record.dagster_run, record.dagster_run.tags.get(PARTITION_TAG)
        reconciliation = run.job_name == reconciliation_job_name(feed)
        if day is None or record.end_time is None or not (reconciliation or is_of_feed(run, feed)):
            continue
        ended = dt.datetime.fromtimestamp(record.end_time, dt.UTC)
        found.append(
            LaunchedRun(
                dt.date.fromisoformat(day),
                launcher(run.tags),
                record.create_timestamp.astimezone(dt.UTC),
                ended,
                run.status is Status.SUCCESS,
                stated_reason(run.tags, reconciliation=reconciliation),
            )
        )
    return found
