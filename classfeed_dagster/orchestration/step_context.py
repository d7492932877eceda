"""Helpers of every step: business date, correlation id, log context, duration, and cost in the run's events."""

from __future__ import annotations

import datetime as dt
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import dagster as dg
import structlog
from dagster._core.events import EngineEventData

from classfeed_dagster.errors import ClassfeedError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.metadata_values import without_zeros
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.service_levels.observations import Usage
from classfeed_dagster.store import store_usage
from classfeed_dagster.tags import CORRELATION_TAG, executed_again


@contextmanager
def measured(context: Any, name: str) -> Iterator[None]:
    """Record the usage of the block as an event of the run. A failure to record it never fails the step."""
    before = _usage()
    try:
        yield
    finally:
        used = _usage() - before
        try:
            _report(context, name, used)
        except Exception as error:  # the step has done its work: its cost is not worth a failed delivery
            get_logger().warning("cost of a step not recorded", error_type=type(error).__name__)


def usage_of(instance: dg.DagsterInstance, run_id: str) -> Usage:
    """Return the usage of all steps of a run."""
    total = Usage()
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        data: Any = None if event is None else event.event_specific_data
        metadata = getattr(data, "metadata", None) or {}
        if _MILLISECONDS in metadata:
            total += Usage(*(int(metadata[field].value) for field in (_MILLISECONDS, _REQUESTS, _BYTES)))
    return total


_MILLISECONDS, _REQUESTS, _BYTES = "processor_milliseconds", "object_store_requests", "object_store_bytes"


def _usage() -> Usage:
    # Processor time of all threads, and of children that have ended.
    times, store = os.times(), store_usage()
    seconds = times.user + times.system + times.children_user + times.children_system
    return Usage(round(seconds * 1000), store.requests, store.bytes)


def _report(context: Any, name: str, used: Usage) -> None:
    context.instance.report_engine_event(
        f"{name}: {Decimal(used.milliseconds) / 1000:.2f} s of processor time, {used.requests} requests to the object "
        f"store, {used.bytes} bytes",
        context.run,
        EngineEventData({_MILLISECONDS: used.milliseconds, _REQUESTS: used.requests, _BYTES: used.bytes}),
        step_key=context.op_execution_context.get_step_execution_context().step.key,
    )


StepContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext
_Step = Callable[..., Iterator[dg.MaterializeResult[None]]]


def since(started: float) -> float:
    """Return the seconds since ``started`` (of ``time.monotonic``), as metadata that the UI plots."""
    return round(time.monotonic() - started, 3)


def timed(compute: _Step) -> _Step:
    """Wrap a step so that its materializations have their duration."""

    @functools.wraps(compute)
    def run(*args: Any, **kwargs: Any) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        for result in compute(*args, **kwargs):
            yield result._replace(metadata={**without_zeros(result.metadata or {}), "seconds": since(started)})

    return run


def current_time(runtime: Runtime) -> dt.datetime:
    """Return the configured clock if set, otherwise the real time, in UTC."""
    return utc_now(runtime.settings.now)


def business_date(context: StepContext) -> dt.date:
    """Return the business date of the partition's key, never of its time window. Failure for a run without one."""
    if not context.has_partition_key:
        raise dg.Failure("The run has no business date: choose one in the launchpad, or launch a backfill for a range")
    return dt.date.fromisoformat(context.partition_key)


def correlation_id(context: StepContext) -> str:
    """Return the attempt's id from the run's tag. A run that a person launched in the UI is tagged with its run id."""
    run = context.run
    value = None if executed_again(run.tags) else run.tags.get(CORRELATION_TAG)
    if value is None:
        value = run.run_id.replace("-", "")
        if run.tags.get(CORRELATION_TAG) != value:
            context.instance.add_run_tags(run.run_id, {CORRELATION_TAG: value})
    return value


def idle_observation(context: dg.AssetExecutionContext | dg.OpExecutionContext, asset: dg.AssetKey, why: str) -> None:
    """Observe on ``asset`` that the date has no work, with the reason as a sentence."""
    context.log_event(
        dg.AssetObservation(asset, partition=context.partition_key, metadata={"outcome": "NOTHING_TO_DO", "why": why})
    )


@contextmanager
def step(context: StepContext, name: str) -> Iterator[dt.date]:
    """Begin a step: yield the business date, and add date, step and correlation id to log lines within.

    The processor time and the object store's use are recorded with the run.
    """
    day = business_date(context)
    with (
        measured(context, name),
        structlog.contextvars.bound_contextvars(
            correlation_id=correlation_id(context),
            run_id=context.run.run_id,
            business_date=day.isoformat(),
            step=name,
        ),
    ):
        try:
            yield day
        except ClassfeedError as error:
            # The UI shows the sentence of a Failure first; its cause stays attached, for repair and for the log.
            raise dg.Failure(description=str(error)) from error
