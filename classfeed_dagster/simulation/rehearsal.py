"""A rehearsal: simulated days through the real Dagster jobs, and the proof that what was delivered is right."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classfeed_dagster import trading_days
from classfeed_dagster.operations.runs import RunReport, run_date
from classfeed_dagster.runtime import CLOCK_TAG, Runtime

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

    from classfeed_dagster.simulation.world import World

MORNING = dt.time(6, 0)


@dataclass(frozen=True, slots=True)
class Proof:
    """Something that must be true of what was delivered, and whether it is."""

    statement: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal came to."""

    feed: str
    runs: Sequence[tuple[RunReport, float]]  # with the seconds each took
    proofs: Sequence[Proof]
    held_back: Sequence[tuple[str, str]]
    store_location: str
    example_transaction: str | None

    @property
    def proven(self) -> bool:
        """True if every run delivered (or had nothing to do) and every proof holds."""
        return all(report.outcome.exit_code == 0 for report, _ in self.runs) and all(p.holds for p in self.proofs)


def morning_after(day: dt.date) -> dt.datetime:
    """When the date's run starts: 06:00 Sydney on the next business day, as UTC."""
    morning = dt.datetime.combine(trading_days.next_business_day(day), MORNING, tzinfo=trading_days.SYDNEY)
    return morning.astimezone(dt.UTC)
