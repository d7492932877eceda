"""Toil per month and feed: runs that people launched, by reason, automatic repairs, late deliveries.

Counted from Dagster's runs and stored in the object store, because runs are deleted after a while and months are not.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, NonNegativeInt

from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.service_levels.service_levels import Judgment, Punctuality
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, read_record, to_json
from classfeed_dagster.tags import CLOCK_TAG, LAUNCHED_BY_TAG, REPAIR, RERUN_TAG, RETRY_TAG, executed_again
from classfeed_dagster.trading_days import SYDNEY

_RECENT_DAYS = 10


class Launcher(enum.StrEnum):
    """Origin of a run."""

    SCHEDULE = "schedule"
    REPAIR = "repair"  # our sensor, or Dagster itself after a crashed worker
    REHEARSAL = "rehearsal"  # the demo or the simulation, with its own clock
    PERSON = "person"


class ManualReason(enum.StrEnum):
    """Reason for which a person launched a run, as far as the runs show it."""

    FAILED = "after a failure"
    MISSED = "missed by the schedule"
    AGAIN = "run again"  # after a success: portfolios held back, or a wrong date
    RECONCILIATION = "reconciliation"
    PARITY = "parity"
    BACKFILL = "backfill"
    SUPPORT = "asked for by support"
    PART = "part of a date"  # assets chosen in the UI, without the delivery


@dataclass(frozen=True, slots=True)
class LaunchedRun:
    """One finished run of a feed for a date. Instants are UTC."""

    business_date: dt.date
    launcher: Launcher
    started_at: dt.datetime
    ended_at: dt.datetime
    succeeded: bool
    manual_reason: ManualReason | None = None  # if its tags or its job state one
    delivers: bool = True  # False: it neither delivers a date nor repairs one


class Month(StoredRecord):
    """One month of a feed. A run belongs to the month, in Sydney, in which it was started."""

    schema_version: Literal[1] = 1
    feed: str
    month: str = Field(pattern=r"^\d{4}-\d\d$")
    runs: NonNegativeInt
    failed_runs: NonNegativeInt
    automatic_repairs: NonNegativeInt = Field(description="runs started by repair, or by Dagster after a crash")
    manual_retriggers: NonNegativeInt = Field(description="runs launched by a person")
    manual_by_reason: dict[str, NonNegativeInt] = Field(default={}, description="the same, by reason")
    repaired_dates: NonNegativeInt = Field(description="dates that failed and then succeeded")
    repair_seconds: NonNegativeInt = Field(description="from first failure to success, over the repaired dates")
    late_deliveries: NonNegativeInt = Field(description="dates delivered after their deadline, or not at all")

    @property
    def mean_seconds_to_repair(self) -> int | None:
        """Mean time to repair; None if no date was repaired."""
        return self.repair_seconds // self.repaired_dates if self.repaired_dates else None


def launcher(tags: Mapping[str, str]) -> Launcher:
    """Return who launched a run, from its tags. A run without the tag of an automatic one was launched by a person."""
    if executed_again(tags):
        return Launcher.PERSON
    if tags.get(LAUNCHED_BY_TAG) == REPAIR or RETRY_TAG in tags:
        return Launcher.REPAIR
    if CLOCK_TAG in tags:
        return Launcher.REHEARSAL
    if "dagster/schedule_name" in tags or "dagster/sensor_name" in tags:
        return Launcher.SCHEDULE
    return Launcher.PERSON


def stated_reason(tags: Mapping[str, str], *, reconciliation: bool) -> ManualReason | None:
    """Return the reason that a run's tags or job state, if a person launched it; None if its history decides."""
    if launcher(tags) is not Launcher.PERSON:
        return None
    if reconciliation:
        return ManualReason.RECONCILIATION
    if executed_again(tags):
        return None
    if RERUN_TAG in tags:
        return ManualReason.SUPPORT
    return ManualReason.BACKFILL if "dagster/backfill" in tags else None


def count(feed: str, runs: Iterable[LaunchedRun], judgments: Iterable[Judgment]) -> dict[str, Month]:
    """Return the months by name, in order. ``runs``: oldest first, with those of the reconciliation job."""
    months: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(Month.model_fields.keys() - {"schema_version", "feed", "month", "manual_by_reason"}, 0)
    )
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    failing_since: dict[dt.date, dt.datetime] = {}
    dates: set[dt.date] = set()
    for run in runs:
        month = month_of(run.started_at)
        figures = months[month]
        if run.launcher is Launcher.PERSON:
            figures["manual_retriggers"] += 1
            reasons[month][run.manual_reason or _reason(run, dates, failing_since)] += 1
        if not run.delivers or run.manual_reason is ManualReason.RECONCILIATION:
            continue
        dates.add(run.business_date)
        figures["runs"] += 1
        figures["automatic_repairs"] += run.launcher is Launcher.REPAIR
        if not run.succeeded:
            figures["failed_runs"] += 1
            failing_since.setdefault(run.business_date, run.ended_at)
        elif run.business_date in failing_since:
            failed_at = failing_since.pop(run.business_date)
            figures["repaired_dates"] += 1
            figures["repair_seconds"] += max(0, int((run.ended_at - failed_at).total_seconds()))
    for judgment in judgments:
        months[month_of(judgment.due.deadline_at)]["late_deliveries"] += judgment.verdict in (
            Punctuality.LATE,
            Punctuality.MISSING,
        )
    return {
        name: Month(feed=feed, month=name, manual_by_reason=dict(sorted(reasons[name].items())), **months[name])
        for name in sorted(months)
    }


def _reason(run: LaunchedRun, dates: Collection[dt.date], failing_since: Mapping[dt.date, dt.datetime]) -> ManualReason:
    if run.business_date in failing_since:
        return ManualReason.FAILED
    # The first runs of an old date are no longer stored: it counts as already run.
    recent = (run.started_at.astimezone(SYDNEY).date() - run.business_date).days <= _RECENT_DAYS
    return ManualReason.MISSED if recent and run.business_date not in dates else ManualReason.AGAIN


def keep(store: ObjectStore, feed: Feed, months: Mapping[str, Month], since: dt.datetime) -> Sequence[Month]:
    """Store the complete months, which begin after ``since`` (UTC); return all stored months."""
    whole_from = month_of(since)
    for name, month in months.items():
        key = f"toil/{feed.name}/{name}.json"
        if name > whole_from or not store.exists(key):
            store.put(key, to_json(month))
    return stored_months(store, feed.name)


def stored_months(store: ObjectStore, feed: str) -> list[Month]:
    """Return the stored months of a feed, in order."""
    return [read_record(store, Month, key) for key in store.list(f"toil/{feed}/")]


def month_of(instant: dt.datetime) -> str:
    """Return the month of an instant in Sydney, as ``YYYY-MM``."""
    return f"{instant.astimezone(SYDNEY):%Y-%m}"
