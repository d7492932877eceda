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

from classfeed_dagster.errors import CodeFaultError

NAMESPACE = "classfeed"
DIMENSIONS = ("env", "feed")
STAGE = "stage"  # of a run: one more dimension of the seconds that it took


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: CloudWatch's unit, and the question that it answers.

    ``added_up``: an event's figure, of which a period's sum makes sense. Others are a standing, measured again at
    every look, of which the worst counts.
    """

    name: str
    unit: str
    question: str
    added_up: bool = False
    by_stage: bool = False


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("documents", "Count", "How many documents were delivered?", added_up=True),
        Metric("portfolios", "Count", "Of how many portfolios?", added_up=True),
        Metric("rows", "Count", "With how many records?", added_up=True),
        Metric("bytes", "Bytes", "How large are they?", added_up=True),
        Metric("held_back", "Count", "How many portfolios lack data: for a rule, or for an earlier date?"),
        Metric("held_back_rule", "Count", "How many portfolios are held back for a rule?"),
        Metric("held_back_waiting", "Count", "How many portfolios only wait for an earlier date?"),
        Metric("held_back_consent_ended", "Count", "How many portfolios are left out because their consent ended?"),
        Metric("held_back_oldest_seconds", "Seconds", "How long has the longest lacked data?"),
        Metric("breaks", "Count", "How many differences did reconciliation find?"),
        Metric("date_seconds", "Seconds", "How long did a date take, from bigsite's snapshot to delivered?"),
        Metric("stage_seconds", "Seconds", "How long did each step take?", by_stage=True),
        Metric("repair_attempts", "Count", "How often has repair tried the latest date?"),
        Metric("newest_delivery_age_seconds", "Seconds", "How long ago was the newest delivery?"),
        Metric("overdue_seconds", "Seconds", "How long is the oldest missing date past its deadline?"),
        Metric("expected_late_seconds", "Seconds", "How late will the date be, if it takes as long as most?"),
        Metric("targets_missed", "Count", "How many dates of the last day were late?"),
        Metric("deadlines_missed", "Count", "How many dates of the last day were not there by the deadline?"),
    )
}


class UnknownMetricError(CodeFaultError):
    """No metric of this name is declared: a dashboard couldn't show it, and an alarm couldn't watch it."""


def line(
    values: Mapping[str, int | float],
    *,
    env: str,
    feed: str,
    at: dt.datetime,
    correlation_id: str | None = None,
    stage: str | None = None,
) -> str:
    """The log line for measurements of one feed, or of one ``stage`` of a run of it.

    ``at`` is UTC. ``correlation_id`` can be searched, not plotted.
    """
    unknown = sorted(set(values) - set(METRICS))
    if unknown or not values:
        raise UnknownMetricError(f"not declared metrics: {', '.join(unknown) or '(none given)'}; see METRICS")
    if any(METRICS[name].by_stage is not (stage is not None) for name in values):
        raise UnknownMetricError(f"{', '.join(sorted(values))}: some are told by stage and others aren't")
    document: dict[str, object] = {
        "_aws": {
            "Timestamp": int(at.timestamp() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [[*DIMENSIONS, STAGE] if stage is not None else list(DIMENSIONS)],
                    "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in sorted(values)],
                }
            ],
        },
        "env": env,
        "feed": feed,
        **values,
    }
    if stage is not None:
        document[STAGE] = stage
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
    stage: str | None = None,
    to: TextIO | None = None,
) -> None:
    """Write the line, to standard output unless ``to`` says otherwise."""
    text = line(values, env=env, feed=feed, at=at, correlation_id=correlation_id, stage=stage)
    print(text, file=to or sys.stdout, flush=True)
