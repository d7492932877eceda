"""Cost of a step, measured in the process that executes it and recorded in the run's events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import dagster as dg
from dagster._core.events import EngineEventData

from classfeed_dagster.logs import get_logger
from classfeed_dagster.service_levels.observations import Usage
from classfeed_dagster.store import store_usage


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
