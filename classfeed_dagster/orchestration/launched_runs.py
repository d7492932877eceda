"""Finished runs of a feed with the launcher of each, from Dagster's storage."""

from __future__ import annotations

import datetime as dt

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster import DagsterRunStatus as Status

from classfeed_dagster.orchestration.asset_keys import FEED_ASSETS
from classfeed_dagster.orchestration.run_history import business_date_of, is_of_feed
from classfeed_dagster.service_levels.toil import LaunchedRun, Launcher, ManualReason, launcher, stated_reason
from classfeed_dagster.tags import parity_job_name, reconciliation_job_name


def launched_runs(
    instance: DagsterInstance, feed: str, since: dt.datetime, *, shared: bool = False
) -> list[LaunchedRun]:
    """Return the feed's finished runs since ``since`` (UTC), with those of its reconciliation, oldest first.

    A run that a person canceled counts as launched. ``shared``: include runs that a person launched on assets of no
    single feed, such as the landing only. One feed counts them, so that a sum over feeds counts each run once.
    """
    ended_runs = RunsFilter(statuses=[Status.SUCCESS, Status.FAILURE, Status.CANCELED], created_after=since)
    launched: list[LaunchedRun] = []
    for record in instance.get_run_records(ended_runs, ascending=True):
        run, day = record.dagster_run, business_date_of(record.dagster_run)
        if day is None or record.end_time is None:
            continue
        by_person = launcher(run.tags) is Launcher.PERSON
        reconciliation = run.job_name == reconciliation_job_name(feed)
        if reconciliation or is_of_feed(run, feed):
            reason = stated_reason(run.tags, reconciliation=reconciliation)
            delivers = not reconciliation and run.status is not Status.CANCELED
        elif by_person and run.job_name == parity_job_name(feed):
            reason, delivers = ManualReason.PARITY, False
        elif by_person and (feeds := _feeds_of(run)) and (feed in feeds or (shared and feeds == {_NO_FEED})):
            reason, delivers = ManualReason.PART, False
        else:
            continue
        if run.status is Status.CANCELED and not by_person:
            continue
        launched.append(
            LaunchedRun(
                day,
                launcher(run.tags),
                record.create_timestamp.astimezone(dt.UTC),
                dt.datetime.fromtimestamp(record.end_time, dt.UTC),
                run.status is Status.SUCCESS,
                reason,
                delivers=delivers,
            )
        )
    return launched


_NO_FEED = ""


def _feeds_of(run: DagsterRun) -> set[str]:
    # The feeds of the assets that a person selected in the UI. A feed's assets begin with its name, its warehouse
    # tables with "warehouse" and its name; other assets belong to no single feed.
    return {
        key.path[1] if key.path[0] == "warehouse" else key.path[0] if key.path[-1] in FEED_ASSETS else _NO_FEED
        for key in run.asset_selection or ()
    }
