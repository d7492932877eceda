"""The owner's numbers: unit and question by their metric, and here source, aggregation and target.

Only the standard library is imported: the infrastructure draws the targets in the dashboard.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.service_levels.metrics import METRICS, ServiceMetric


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
