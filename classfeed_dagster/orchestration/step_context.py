"""Helpers of every step: business date, correlation id, log context, duration."""

from __future__ import annotations

import datetime as dt
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import structlog

from classfeed_dagster.errors import ClassfeedError
from classfeed_dagster.orchestration.metadata_values import without_zeros
from classfeed_dagster.orchestration.step_usage import measured
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.tags import CORRELATION_TAG, executed_again

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
