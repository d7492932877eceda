"""Toil: how often people had to do what the machine should, per month and feed. The aim is no manual re-trigger.

Counted from Dagster's runs, and kept in the object store, since runs are deleted after a while and months are not.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt

from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.service_levels.service_levels import Judgment, Punctuality
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, from_json, to_json
from classfeed_dagster.tags import LAUNCHED_BY_TAG, REPAIR
from classfeed_dagster.trading_days import SYDNEY

if TYPE_CHECKING:
    pass


class Launcher(enum.StrEnum):
    """Who started a run."""

    SCHEDULE = "schedule"
    REPAIR = "repair"  # our sensor, or Dagster itself after a crashed worker
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class LaunchedRun:
    """One finished run of a feed for a date. Instants are UTC."""

    business_date: dt.date
    launcher: Launcher
    started_at: dt.datetime
    ended_at: dt.datetime
    succeeded: bool


class Month(StoredRecord):
    """One month of a feed. A run belongs to the month, in Sydney, in which it was started."""

    schema_version: Literal[1] = 1
    feed: str
    month: str = Field(pattern=r"^\d{4}-\d\d$")
    runs: NonNegativeInt
    failed_runs: NonNegativeInt
    automatic_repairs: NonNegativeInt = Field(description="runs started by repair, or by Dagster after a crash")
    manual_retriggers: NonNegativeInt = Field(description="runs started by a person for a date that had failed")
    repaired_dates: NonNegativeInt = Field(description="dates that failed and then succeeded")
    repair_seconds: NonNegativeInt = Field(description="from first failure to success, over the repaired dates")
    late_deliveries: NonNegativeInt = Field(description="dates delivered after their deadline, or not at all")

    @property
    def mean_seconds_to_repair(self) -> int | None:
        """Mean time to repair; None if nothing was."""
        return self.repair_seconds // self.repaired_dates if self.repaired_dates else None


def launcher(tags: Mapping[str, str]) -> Launcher:
    """Who started a run, from its tags. What no machine has signed, a person started."""
    if tags.get(LAUNCHED_BY_TAG) == REPAIR or "dagster/retry_number" in tags:
        return Launcher.REPAIR
    if "dagster/schedule_name" in tags or "dagster/sensor_name" in tags:
        return Launcher.SCHEDULE
    return Launcher.PERSON


def count(feed: str, runs: Iterable[LaunchedRun], judged: Iterable[Judgment]) -> dict[str, Month]:
    """Months by name, in order. ``runs``: oldest first."""
    months: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(Month.model_fields.keys() - {"schema_version", "feed", "month"}, 0)
    )
    failing_since: dict[dt.date, dt.datetime] = {}
    for run in runs:
        figures = months[_month(run.started_at)]
        figures["runs"] += 1
        figures["automatic_repairs"] += run.launcher is Launcher.REPAIR
        figures["manual_retriggers"] += run.launcher is Launcher.PERSON and run.business_date in failing_since
        if not run.succeeded:
            figures["failed_runs"] += 1
            failing_since.setdefault(run.business_date, run.ended_at)
        elif run.business_date in failing_since:
            failed_at = failing_since.pop(run.business_date)
            figures["repaired_dates"] += 1
            figures["repair_seconds"] += max(0, int((run.ended_at - failed_at).total_seconds()))
    for one in judged:
        months[_month(one.due.deadline_at)]["late_deliveries"] += one.verdict in (
            Punctuality.LATE,
            Punctuality.MISSING,
        )
    return {name: Month(feed=feed, month=name, **months[name]) for name in sorted(months)}


def keep(store: ObjectStore, feed: Feed, counted: Mapping[str, Month], since: dt.datetime) -> Sequence[Month]:
    """Store the months that were counted whole (those that begin after ``since``, UTC); all that are on record."""
    whole_from = _month(since)
    for name, month in counted.items():
        key = f"toil/{feed.name}/{name}.json"
        if name > whole_from or not store.exists(key):
            store.put(key, to_json(month))
    return [from_json(Month, store.read(key), store.location(key)) for key in store.list(f"toil/{feed.name}/")]


def _month(instant: dt.datetime) -> str:
    return f"{instant.astimezone(SYDNEY):%Y-%m}"
