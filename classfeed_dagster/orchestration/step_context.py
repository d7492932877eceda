"""Helpers that every step uses: business date, correlation id, log context, duration."""

from __future__ import annotations

import datetime as dt
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import structlog

from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.tags import CORRELATION_TAG

StepContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext
_Step = Callable[..., Iterator[dg.MaterializeResult[None]]]


def since(started: float) -> float:
    """Seconds since ``started`` (of ``time.monotonic``), as metadata that the UI plots."""
    return round(time.monotonic() - started, 3)


def timed(made: _Step, also: Mapping[str, Any] | None = None) -> _Step:
    """A step whose materializations say how many seconds it took, which the UI plots; and ``also``, if it does not."""

    @functools.wraps(made)
    def run(*given: Any, **named: Any) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        for result in made(*given, **named):
            yield result._replace(metadata={**(also or {}), **(result.metadata or {}), "seconds": since(started)})

    return run


def current_time(runtime: Runtime) -> dt.datetime:
    """Return the set clock if there is one, else the real time; UTC."""
    return utc_now(runtime.settings.now)


def business_date(context: StepContext) -> dt.date:
    """The partition's business date: from the key, never from the partition's time window."""
    return dt.date.fromisoformat(context.partition_key)


def correlation_id(context: StepContext) -> str:
    """The attempt's name: the run's tag. A run started without one (a click in the UI) gets its run id as the tag."""
    run = context.run
    found = run.tags.get(CORRELATION_TAG)
    if found is None:
        found = run.run_id.replace("-", "")
        context.instance.add_run_tags(run.run_id, {CORRELATION_TAG: found})
    return found


def idle_observation(context: dg.AssetExecutionContext | dg.OpExecutionContext, asset: dg.AssetKey, why: str) -> None:
    """Say on ``asset`` that there is nothing to make on this date, and why: a sentence for people."""
    context.log_event(
        dg.AssetObservation(asset, partition=context.partition_key, metadata={"outcome": "NOTHING_TO_DO", "why": why})
    )


@contextmanager
def step(context: StepContext, name: str) -> Iterator[dt.date]:
    """What every step begins with: yields the business date; log lines within carry date, step and correlation id."""
    day = business_date(context)
    with structlog.contextvars.bound_contextvars(
        correlation_id=correlation_id(context),
        run_id=context.run.run_id,
        business_date=day.isoformat(),
        step=name,
    ):
        yield day
