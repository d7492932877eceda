"""Run history of a feed's business dates from Dagster: state, cause of failure, remaining assets, checks, launcher.

Only public methods of the instance are used. The events of a finished run never change, so a process reads them once.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dagster import AssetCheckSeverity, DagsterEventType, DagsterInstance, DagsterRun, RunRecord, RunsFilter
from dagster import DagsterRunStatus as Status

from classfeed_dagster.orchestration.asset_keys import FEED_ASSETS, LANDING
from classfeed_dagster.orchestration.run_date import error_chain
from classfeed_dagster.repair.causes import Cause, CauseKind, classify
from classfeed_dagster.repair.decisions import RunFact, RunState
from classfeed_dagster.repair.observations import CheckOutcome, ObservedRun, RunEvents, RunReader
from classfeed_dagster.service_levels.toil import LaunchedRun, Launcher, ManualReason, launcher, stated_reason
from classfeed_dagster.tags import (
    CODE_VERSION_TAG,
    FINDING_TAG,
    PARTITION_TAG,
    feed_job_name,
    parity_job_name,
    reconciliation_job_name,
)

# Time after which a run that was created but not queued is ignored.
STALLED = dt.timedelta(minutes=15)
# Time for which Dagster's announced retry of a crashed run is believed. Dagster retries within seconds or, on a busy
# machine, never: it checks a failure once, and may read the run's state from just before its end.
PROMISED = dt.timedelta(minutes=3)
FINISHED = (Status.SUCCESS, Status.FAILURE)
_KEPT = 2000
_FINISHED: dict[str, RunEvents] = {}


def runs_by_date(instance: DagsterInstance, dates: Collection[dt.date]) -> Mapping[dt.date, Sequence[RunRecord]]:
    """Return every run of any job for the dates, oldest first, with one query."""
    runs: dict[dt.date, list[RunRecord]] = defaultdict(list)
    if dates:
        of_dates = RunsFilter(tags={PARTITION_TAG: sorted(day.isoformat() for day in dates)})
        for record in instance.get_run_records(of_dates, ascending=True):
            runs[dt.date.fromisoformat(record.dagster_run.tags[PARTITION_TAG])].append(record)
    return runs


def run_reader(instance: DagsterInstance) -> RunReader:
    """Return the reader of runs that repair and alerts use, over this instance."""

    def read(feed: str, dates: Collection[dt.date], now: dt.datetime) -> dict[dt.date, list[ObservedRun]]:
        return {
            day: [
                ObservedRun(run_fact(instance, record, now), record.dagster_run.status in FINISHED)
                for record in records
                if is_of_feed(record.dagster_run, feed)
            ]
            for day, records in runs_by_date(instance, dates).items()
        }

    return read


def is_of_feed(run: DagsterRun, feed: str) -> bool:
    """Return True for a run of the feed's job, and for a run of the feed's delivery launched otherwise in the UI."""
    if run.job_name == feed_job_name(feed):
        return True
    return any(key.path == [feed, "delivery"] for key in run.asset_selection or ())


def business_date_of(run: DagsterRun) -> dt.date | None:
    """Return the business date of a run; None if its partition is missing or, in a tag of a person, not a date."""
    try:
        return dt.date.fromisoformat(run.tags.get(PARTITION_TAG, ""))
    except ValueError:
        return None


def run_fact(instance: DagsterInstance, record: RunRecord, now: dt.datetime) -> RunFact:
    """Return the state of one run, as needed by repair."""
    run = record.dagster_run
    version, finding = run.tags.get(CODE_VERSION_TAG, ""), run.tags.get(FINDING_TAG)
    ended = None if record.end_time is None else dt.datetime.fromtimestamp(record.end_time, dt.UTC)
    if run.status is Status.NOT_STARTED and now - record.create_timestamp > STALLED:
        # Its creator died before queueing it, so it will never start.
        abandoned = Cause(CauseKind.TRANSIENT, "never started")
        return RunFact(
            run.run_id, RunState.FAILED, record.create_timestamp + STALLED, abandoned, version, finding=finding
        )
    if run.status in (Status.SUCCESS, Status.CANCELED):
        state = RunState.SUCCEEDED if run.status is Status.SUCCESS else RunState.CANCELED
        events = events_of(instance, run.run_id)
        idle = run.status is Status.SUCCESS and bool(events.remaining)
        return RunFact(
            run.run_id, state, ended, code_version=version, idle=idle, snapshot_id=events.snapshot_id, finding=finding
        )
    if run.status is not Status.FAILURE:
        return RunFact(run.run_id, RunState.RUNNING, code_version=version, finding=finding)
    events = events_of(instance, run.run_id)
    promised = run.tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in run.tags
    return RunFact(
        run.run_id,
        RunState.FAILED,
        ended,
        classify(events.errors),
        version,
        retried_by_dagster=promised and ended is not None and abs(now - ended) < PROMISED,
        remaining=events.remaining,
        snapshot_id=events.snapshot_id,
        finding=finding,
    )


def events_of(instance: DagsterInstance, run_id: str) -> RunEvents:
    """Return the events of a finished run, read once a process."""
    if run_id not in _FINISHED:
        if len(_FINISHED) >= _KEPT:
            _FINISHED.clear()
        _FINISHED[run_id] = _read(instance, run_id)
    return _FINISHED[run_id]


def _read(instance: DagsterInstance, run_id: str) -> RunEvents:
    errors: tuple[tuple[str, str], ...] = ()
    failed_step: str | None = None
    planned: set[str] = set()
    materialized: set[str] = set()
    checks_planned: set[tuple[str, str]] = set()
    checks: dict[tuple[str, str], CheckOutcome] = {}
    snapshot: str | None = None
    kinds = {
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    for record in instance.get_records_for_run(run_id, of_type=kinds).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        data: Any = event.event_specific_data
        match event.event_type:
            case DagsterEventType.STEP_FAILURE if failed_step is None:  # the others follow from the first
                failed_step, errors = event.step_key, tuple(error_chain(data.error))
            case DagsterEventType.RUN_FAILURE if failed_step is None and data is not None:
                errors = tuple(error_chain(data.error))
            case DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                planned.add(data.asset_key.to_user_string())
            case DagsterEventType.ASSET_MATERIALIZATION:
                materialization = data.materialization
                materialized.add(materialization.asset_key.to_user_string())
                if materialization.asset_key.path[0] == LANDING and "snapshot" in materialization.metadata:
                    snapshot = str(materialization.metadata["snapshot"].value)
            case DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
                checks_planned.add((data.asset_key.to_user_string(), data.check_name))
            case DagsterEventType.ASSET_CHECK_EVALUATION:
                asset = data.asset_key.to_user_string()
                total = data.metadata.get("total_offenders") or data.metadata.get("findings")
                checks[asset, data.check_name] = CheckOutcome(
                    asset,
                    data.check_name,
                    data.passed,
                    data.severity is AssetCheckSeverity.ERROR,
                    data.description or "",
                    int(total.value) if total is not None else 0,
                )
            case _:
                pass
    unevaluated = checks_planned - checks.keys()
    return RunEvents(
        errors,
        failed_step,
        tuple(sorted((planned - materialized) | {asset for asset, _ in unevaluated if asset in planned})),
        tuple(checks[key] for key in sorted(checks)),
        tuple(sorted(unevaluated)),
        snapshot,
    )


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
