"""Figures for CloudWatch, in its embedded metric format: one JSON line on standard output a set of measurements.

No agent, no connection, no permission: the log driver carries the line, CloudWatch makes metrics of it. The names and
dimensions are fixed here, few on purpose; a portfolio, a run or a person is never a dimension.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

NAMESPACE = "classfeed"
DIMENSIONS = ("env", "feed")


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: CloudWatch's unit, and the question that it answers."""

    name: str
    unit: str
    question: str


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("documents", "Count", "How many documents were delivered?"),
        Metric("portfolios", "Count", "Of how many portfolios?"),
        Metric("rows", "Count", "With how many records?"),
        Metric("bytes", "Bytes", "How large are they?"),
        Metric("held_back", "Count", "How many portfolios are held back?"),
        Metric("breaks", "Count", "How many differences did reconciliation find?"),
        Metric("stage_seconds", "Seconds", "How long did a date take, from bigsite to delivered?"),
        Metric("repair_attempts", "Count", "How often has repair tried the date?"),
        Metric("newest_delivery_age_seconds", "Seconds", "How long ago was the newest delivery?"),
        Metric("targets_missed", "Count", "How many dates were late?"),
        Metric("deadlines_missed", "Count", "How many dates were not there by the deadline?"),
    )
}


class UnknownMetricError(ValueError):
    """No metric of this name is declared: a dashboard couldn't show it, and an alarm couldn't watch it."""


def line(
    values: Mapping[str, int | float], *, env: str, feed: str, at: dt.datetime, correlation_id: str | None = None
) -> str:
    """The log line for measurements of one feed. ``at`` is UTC. ``correlation_id`` can be searched, not plotted."""
    unknown = sorted(set(values) - set(METRICS))
    if unknown or not values:
        raise UnknownMetricError(f"not declared metrics: {', '.join(unknown) or '(none given)'}; see METRICS")
    document: dict[str, object] = {
        "_aws": {
            "Timestamp": int(at.timestamp() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [list(DIMENSIONS)],
                    "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in sorted(values)],
                }
            ],
        },
        "env": env,
        "feed": feed,
        **values,
    }
    if correlation_id is not None:
        document["correlation_id"] = correlation_id
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def emit(
    values: Mapping[str, int | float],
    *,
    env: str,
    feed: str,
    at: dt.datetime,
    correlation_id: str | None = None,
    to: TextIO | None = None,
) -> None:
    """Write the line, to standard output unless ``to`` says otherwise."""
    print(line(values, env=env, feed=feed, at=at, correlation_id=correlation_id), file=to or sys.stdout, flush=True)
