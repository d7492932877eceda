"""Metrics in CloudWatch's embedded format, one JSON line on standard output a set, and over OpenTelemetry if it is on.

The log driver transports the line and CloudWatch extracts the metrics, without agent, connection or permission. Names
and dimensions are fixed and few: a portfolio, a run or a person is never a dimension.

The owner's numbers have unit and question by their metric, and in addition source, aggregation and target. The
infrastructure imports this module without the data path's libraries, and draws the targets in the dashboard.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TextIO

from classfeed_dagster import telemetry
from classfeed_dagster.errors import CodeFaultError

NAMESPACE = "classfeed"
_UCUM = {
    "Count": "",
    "Bytes": "By",
    "Seconds": "s",
    "Percent": "%",
    "None": "",
}  # OpenTelemetry's units by CloudWatch's
DIMENSIONS = ("env", "feed")
STAGE = "stage"  # step of a run: an additional dimension of its duration
PROJECT = "project"  # in place of a feed


@dataclass(frozen=True, slots=True)
class ServiceMetric:
    """Metric with CloudWatch's unit and the question that it answers.

    ``added_up``: a figure of an event, summed over a period. Any other is a state, measured at every tick, whose worst
    value counts. ``of_owner``: a number of the owner's row, written once a day. ``by_feed``: False for a number of the
    whole project, whose dimension ``feed`` is ``PROJECT``.
    """

    name: str
    unit: str
    question: str
    added_up: bool = False
    by_stage: bool = False
    of_owner: bool = False
    by_feed: bool = True


def _owner(name: str, unit: str, question: str, *, by_feed: bool = True) -> ServiceMetric:
    return ServiceMetric(name, unit, question, of_owner=True, by_feed=by_feed)


METRICS: Mapping[str, ServiceMetric] = {
    metric.name: metric
    for metric in (
        ServiceMetric("documents", "Count", "How many documents were delivered?", added_up=True),
        ServiceMetric("portfolios", "Count", "How many portfolios do they contain?", added_up=True),
        ServiceMetric("rows", "Count", "How many records do they contain?", added_up=True),
        ServiceMetric("bytes", "Bytes", "How large are they?", added_up=True),
        ServiceMetric("held_back", "Count", "How many portfolios lack data because of a rule or an earlier date?"),
        ServiceMetric("held_back_rule", "Count", "How many portfolios are held back by a rule?"),
        ServiceMetric("held_back_waiting", "Count", "How many portfolios only wait for an earlier date?"),
        ServiceMetric("held_back_consent_ended", "Count", "How many portfolios are excluded by ended consent?"),
        ServiceMetric("held_back_oldest_seconds", "Seconds", "For how long has the oldest lacked data?"),
        ServiceMetric("breaks", "Count", "How many errors did reconciliation find?"),
        ServiceMetric("date_seconds", "Seconds", "How long did a date take from bigsite's snapshot to delivery?"),
        ServiceMetric("stage_seconds", "Seconds", "How long did each step take?", by_stage=True),
        ServiceMetric("repair_attempts", "Count", "How often has repair tried the latest date?"),
        ServiceMetric("newest_delivery_age_seconds", "Seconds", "How long ago was the newest delivery?"),
        ServiceMetric("overdue_seconds", "Seconds", "How long is the oldest missing date past its deadline?"),
        ServiceMetric("expected_late_seconds", "Seconds", "How late will the date be, if it takes the median time?"),
        ServiceMetric("targets_missed", "Count", "How many dates of the last day were late?"),
        ServiceMetric("deadlines_missed", "Count", "How many dates of the last day missed the deadline?"),
        _owner("manual_retriggers", "Count", "How many unplanned runs did people launch in the month?"),
        _owner("on_time_percent", "Percent", "How many of the month's dates met their deadline?"),
        _owner("median_date_seconds", "Seconds", "How long did a date of the month take?"),
        _owner("pipeline_seconds", "Seconds", "How long do build and deployment take?", by_feed=False),
        _owner("open_tech_debt", "Count", "How many tech-debt tickets are open?", by_feed=False),
        _owner("open_bugfixes", "Count", "How many bugfix tickets are open?", by_feed=False),
        _owner("review_to_merge_seconds", "Seconds", "How long from first review to merge?", by_feed=False),
        _owner("coverage_percent", "Percent", "How much of the code do tests execute?", by_feed=False),
        _owner("mutation_percent", "Percent", "How many planted faults do tests notice?", by_feed=False),
        _owner("compute_seconds", "Seconds", "How much processor time does a date cost?"),
        _owner("store_requests", "Count", "How many object-store requests does a date cost?"),
        _owner("store_bytes", "Bytes", "How many bytes does a date move to and from the object store?"),
        _owner("snowflake_credits", "None", "How many Snowflake credits does a date cost?"),
    )
}


class UnknownMetricError(CodeFaultError):
    """A metric is not declared, so that no dashboard or alarm could use it."""


def line(
    values: Mapping[str, int | float],
    *,
    env: str,
    feed: str,
    at: dt.datetime,
    correlation_id: str | None = None,
    stage: str | None = None,
) -> str:
    """Return the log line for measurements of a feed, or of one ``stage`` of its run.

    ``at`` is UTC. ``correlation_id`` can be searched, not plotted.
    """
    unknown = sorted(set(values) - set(METRICS))
    if unknown or not values:
        raise UnknownMetricError(f"Undeclared metrics {', '.join(unknown) or '(none given)'}: declare them in METRICS")
    if any(METRICS[name].by_stage is not (stage is not None) for name in values):
        raise UnknownMetricError(
            f"Metrics {', '.join(sorted(values))} cannot share a line: emit those by stage separately"
        )
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
    """Write the line to ``to``, by default standard output; send the same values to the collector, if there is one."""
    text = line(values, env=env, feed=feed, at=at, correlation_id=correlation_id, stage=stage)
    print(text, file=to or sys.stdout, flush=True)
    attributes = {"env": env, "feed": feed} | ({} if stage is None else {STAGE: stage})
    for name, value in values.items():
        metric = METRICS[name]
        telemetry.measure(
            name,
            value,
            attributes,
            unit=_UCUM[metric.unit],
            description=metric.question,
            added_up=metric.added_up,
        )


class Aggregate(enum.StrEnum):
    """Aggregation of a month's observations into one figure."""

    LATEST = "latest"
    SUM = "sum"
    MEDIAN = "median"  # with the 95th percentile
    MEDIAN_OF_DATES = "median of dates"  # a date's attempts are added up first
    PERCENT = "percent"  # share of observations that are 1


@dataclass(frozen=True, slots=True)
class OwnerNumber:
    """One number of the owner.

    Attributes:
        metric: its metric, with unit and question.
        title: name for people.
        source: source of its observations: ``toil``, or the part of their keys after the month.
        observed: name of the value in an observation.
        target: limit; None if none is agreed, or if each observation states its own (``pipeline_target_seconds``).
        stated_target: the latter in words.
        at_least: True if the target is a minimum.
        about: origin of the number, for people.
    """

    metric: str
    title: str
    source: str
    observed: str
    aggregate: Aggregate
    about: str
    target: Decimal | None = None
    at_least: bool = False
    stated_target: str = ""

    @property
    def declared(self) -> ServiceMetric:
        """Metric of the number."""
        return METRICS[self.metric]

    def met(self, value: Decimal, target: Decimal | None) -> bool | None:
        """Return True if ``value`` meets ``target``; None without a target."""
        if target is None:
            return None
        return value >= target if self.at_least else value <= target


_FORGE = "nightly, from the forge by label"
_RUNS = "in the steps of its runs; median of the month"

NUMBERS: Mapping[str, OwnerNumber] = {
    number.metric: number
    for number in (
        OwnerNumber(
            "manual_retriggers", "Unplanned manual re-triggers", "toil", "", Aggregate.SUM,
            "runs that people launched, from Dagster, without backfills", Decimal(0),
        ),
        OwnerNumber(
            "on_time_percent", "Deliveries on time", "punctuality", "on_time", Aggregate.PERCENT,
            "business dates of live feeds delivered by the deadline", Decimal(100), at_least=True,
        ),
        # From the start at 06:00 to the target at 07:00.
        OwnerNumber(
            "median_date_seconds", "Time of a date", "performance", "date_seconds", Aggregate.MEDIAN,
            "from bigsite's snapshot to the first delivery", Decimal(3600),
        ),
        OwnerNumber(
            "pipeline_seconds", "Build and deployment", "pipeline", "pipeline_seconds", Aggregate.MEDIAN,
            "work of the jobs up to production, without waiting", stated_target="30 % below the old pipeline",
        ),
        OwnerNumber(
            "open_tech_debt", "Open tech-debt tickets", "forge", "open_tech_debt", Aggregate.LATEST, _FORGE, Decimal(20)
        ),
        OwnerNumber(
            "open_bugfixes", "Open bugfix tickets", "forge", "open_bugfixes", Aggregate.LATEST, _FORGE, Decimal(5)
        ),
        OwnerNumber(
            "review_to_merge_seconds", "Review to merge", "forge", "review_to_merge_seconds", Aggregate.LATEST,
            "median of the pull requests merged in 30 days, from the first review by another person", Decimal(172_800),
        ),
        OwnerNumber(
            "coverage_percent", "Coverage", "pipeline", "coverage_percent", Aggregate.LATEST,
            "lines and branches, from the pipeline on main", Decimal(96), at_least=True,
        ),
        OwnerNumber(
            "mutation_percent", "Mutation score", "mutation", "mutation_percent", Aggregate.LATEST,
            "planted faults that tests notice, nightly", Decimal(90), at_least=True,
        ),
        OwnerNumber(
            "compute_seconds", "Processor time of a date", "cost", "compute_seconds", Aggregate.MEDIAN_OF_DATES, _RUNS
        ),
        OwnerNumber(
            "store_requests", "Object-store requests of a date", "cost", "store_requests", Aggregate.MEDIAN_OF_DATES,
            _RUNS,
        ),
        OwnerNumber(
            "store_bytes", "Object-store bytes of a date", "cost", "store_bytes", Aggregate.MEDIAN_OF_DATES, _RUNS
        ),
        OwnerNumber(
            "snowflake_credits", "Snowflake credits of a date", "credits", "snowflake_credits",
            Aggregate.MEDIAN_OF_DATES, "attributed to the date's statements by QUERY_TAG, without idle time",
        ),
    )
}  # fmt: skip
