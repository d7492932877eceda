"""Observed facts of due dates and their runs, as repair and alerts read them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from classfeed_dagster.acknowledgements.inbox import FileAnswers
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.delivery.refreshes import Refresh
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.repair.decisions import DateFacts, RunFact
from classfeed_dagster.service_levels.service_levels import Delivery, Due
from classfeed_dagster.source_contract.drift import SchemaDifference


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One evaluation of a check. ``asset`` is written as a/b; ``error``: its severity is ERROR."""

    asset: str
    name: str
    passed: bool
    error: bool
    summary: str
    offenders: int


@dataclass(frozen=True, slots=True)
class RunEvents:
    """Facts from a finished run's event log."""

    errors: tuple[tuple[str, str], ...] = ()  # class name and message, from the outermost to the innermost
    failed_step: str | None = None
    remaining: tuple[str, ...] = ()  # planned assets that were not materialized, or materialized but not checked
    checks: tuple[CheckOutcome, ...] = ()
    unevaluated: tuple[tuple[str, str], ...] = ()  # planned checks, as (asset, name), without an evaluation
    snapshot_id: str | None = None


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """One run of a feed for a date. ``finished``: Dagster ended it, with success or failure."""

    fact: RunFact
    finished: bool


# Reads the runs of a feed's dates at an instant (UTC), by date, oldest first.
RunReader = Callable[[str, Collection[dt.date], dt.datetime], Mapping[dt.date, Sequence[ObservedRun]]]


@dataclass(frozen=True, slots=True)
class ObservedDate:
    """One due date: the facts for repair, and more for alerts."""

    feed: Feed
    live: bool  # delivered to customers; else in shadow or off
    due: Due
    facts: DateFacts
    deliveries: tuple[Delivery, ...]
    held: tuple[Quarantined, ...]  # still held back
    runs: tuple[ObservedRun, ...]  # oldest first
    answers: tuple[FileAnswers, ...] = ()  # of the recipient, by file
    refreshes: tuple[Refresh, ...] = ()  # granted for the date, overdue, and not delivered
    restated: bool = False  # an older date, observed only because bigsite changed it or its files are not sent


@dataclass(frozen=True, slots=True)
class Observations:
    """All due dates at one instant. ``bigsite_up``: True if bigsite answered."""

    at: dt.datetime
    dates: tuple[ObservedDate, ...]
    bigsite_up: bool
    drift: tuple[SchemaDifference, ...] | None = None  # forbids extraction; None: not checked

    @property
    def facts(self) -> list[DateFacts]:
        """Facts of all dates, as repair reads them."""
        return [date.facts for date in self.dates]
