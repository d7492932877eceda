"""Steps after delivery: reconcile with the source, load the warehouse, reconcile with the data team. Dagster-free.

Each step can be repeated: breaks are stored once, a load replaces its date, a report belongs to its attempt.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel

from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.reconciliation.data_team import reconcile_data_team
from classfeed_dagster.reconciliation.figures import Figure
from classfeed_dagster.reconciliation.report import write_report
from classfeed_dagster.reconciliation.result import Reconciliation
from classfeed_dagster.reconciliation.source import reconcile_source
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.trading_days import SYDNEY, next_business_day
from classfeed_dagster.warehouse.breaks import Saved, kept_breaks, run_history, save_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.load import Loaded, load_delivery
from classfeed_dagster.warehouse.records import Side

# Time at which the data team's figures for a date are due: Sydney time on the next business day.
DATA_TEAM_DUE = dt.time(9, 0)
_PLOTTED_DATES = 30


class ReconciliationSummary(BaseModel, frozen=True):
    """Result of one side's reconciliation of a date, and the reconciled delivery."""

    build_id: str  # of the latest reconciled delivery
    revision: int
    errors: int
    warnings: int
    breaks: int
    unexplained: int  # breaks for which the data shows no likely cause
    report: str  # its key in the object store
    attempt: str


@dataclass(frozen=True)
class PostDelivery:
    """One attempt at reconciling a delivered business date of a feed. ``now``: a rehearsal's clock."""

    runtime: Runtime
    feed: Feed
    audience: RecipientSchedule
    day: dt.date
    correlation_id: str
    now: dt.datetime | None = None

    @cached_property
    def instant(self) -> dt.datetime:
        """Return the current time, UTC."""
        return utc_now(self.now)

    def source(self) -> Reconciliation:
        """Reconcile the delivered files with the landing and with bigsite, which is queried independently."""
        return reconcile_source(
            self.runtime.store,
            self.runtime.engine,
            self.feed.name,
            self.day,
            f"{self.correlation_id}-source",
            audience=self.audience.key,
            previous=self.audience.previous(self.day),
        )

    def load(self) -> Loaded:
        """Load the date's deliveries into the star schema, replacing an earlier load of the date."""
        with open_warehouse(self.runtime.settings) as connection:
            return load_delivery(connection, self.runtime.store, self.feed.name, self.day, self.feed.format)

    def data_team(self) -> Reconciliation:
        """Reconcile metrics of the delivered files with the data team's metrics."""
        due = dt.datetime.combine(next_business_day(self.day), DATA_TEAM_DUE, tzinfo=SYDNEY).astimezone(dt.UTC)
        with open_warehouse(self.runtime.settings) as connection:
            return reconcile_data_team(
                connection,
                self.runtime.store,
                self.feed.name,
                self.day,
                f"{self.correlation_id}-data-team",
                at=self.instant,
                due=due,
                table=self.runtime.settings.data_team_table,
            )

    def keep(self, reconciliation: Reconciliation) -> tuple[ReconciliationSummary, Saved]:
        """Store the breaks, resolve those that have disappeared, write the report, and return the summary."""
        with open_warehouse(self.runtime.settings) as connection:
            saved = save_breaks(
                connection,
                self.feed.name,
                reconciliation.side,
                self.day,
                reconciliation.breaks,
                at=self.instant,
                attempt=reconciliation.attempt,
                metrics=reconciliation.metrics(),
            )
            kept = kept_breaks(connection, feed=self.feed.name, only_open=True)
            history = self._history(
                run_history(connection, self.feed.name, "portfolios_held_back"), reconciliation.side
            )
        report = write_report(self.runtime.store, [reconciliation], kept=kept, history=[history])
        latest = delivered_state(self.runtime.store, self.feed.name, self.day).latest
        if latest is None:
            raise AssertionError("a date without a delivery was reconciled")
        summary = ReconciliationSummary(
            build_id=latest.build_id,
            revision=latest.revision,
            errors=reconciliation.errors,
            warnings=reconciliation.warnings,
            breaks=len(reconciliation.breaks),
            unexplained=reconciliation.metrics()["unexplained"],
            report=report,
            attempt=reconciliation.attempt,
        )
        self.runtime.save_reference(f"{self.feed.name}/{reconciliation.side.value}_reconciliation", self.day, summary)
        return summary, saved

    def _history(self, history: Sequence[tuple[dt.date, str, int]], side: Side) -> Figure:
        """Return a figure of the portfolios held back on the last reconciled dates, up to this one."""
        rows = [(day.isoformat(), count) for day, of, count in history if of == side.value and day <= self.day]
        return Figure("portfolios held back, by date", tuple(rows[-_PLOTTED_DATES:]), over_time=True)
