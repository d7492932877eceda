"""After delivery, without Dagster: prove it against the source, load it into the warehouse, compare with the data team.

Each step can be repeated: breaks are kept once, a load replaces its date, a report belongs to its attempt.
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
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.trading_days import SYDNEY, next_business_day
from classfeed_dagster.warehouse.breaks import Saved, kept_breaks, run_history, save_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.load import Loaded, load_delivery
from classfeed_dagster.warehouse.records import Side

# When the data team's figures for a date should be there: Sydney time on the next business day.
DATA_TEAM_DUE = dt.time(9, 0)
_PLOTTED_DATES = 30


class ReconciliationSummary(BaseModel, frozen=True):
    """What one side's reconciliation of a date found, and of which delivery."""

    build_id: str  # of the latest delivery that was reconciled
    revision: int
    errors: int
    warnings: int
    breaks: int
    unexplained: int  # breaks for which the data shows no likely cause
    report: str  # its key in the object store
    attempt: str


@dataclass(frozen=True)
class PostDelivery:
    """One delivered business date of a feed, and one attempt at proving it. ``now``: a rehearsal's clock."""

    runtime: Runtime
    feed: Feed
    audience: RecipientSchedule
    day: dt.date
    correlation_id: str
    now: dt.datetime | None = None

    @cached_property
    def instant(self) -> dt.datetime:
        """Now, UTC."""
        return self.now or dt.datetime.now(dt.UTC)

    def source(self) -> Reconciliation:
        """The delivered files against the landing and bigsite, asked again by SQL of its own."""
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
        """Put what was delivered into the star schema, in place of what stood there for the date."""
        with open_warehouse(self.runtime.settings) as connection:
            return load_delivery(connection, self.runtime.store, self.feed.name, self.day, self.feed.format)

    def data_team(self) -> Reconciliation:
        """Our metrics, from the delivered files, against the data team's."""
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

    def keep(self, found: Reconciliation) -> tuple[ReconciliationSummary, Saved]:
        """Keep the breaks in the warehouse, resolve those that are gone, write the report; what to remember of it."""
        with open_warehouse(self.runtime.settings) as connection:
            saved = save_breaks(
                connection,
                self.feed.name,
                found.side,
                self.day,
                found.breaks,
                at=self.instant,
                attempt=found.attempt,
                metrics=found.metrics(),
            )
            kept = kept_breaks(connection, feed=self.feed.name, only_open=True)
            history = self._history(run_history(connection, self.feed.name, "portfolios_held_back"), found.side)
        report = write_report(self.runtime.store, [found], kept=kept, history=[history])
        latest = delivered_state(self.runtime.store, self.feed.name, self.day).latest
        if latest is None:
            raise AssertionError("a date was reconciled that has no delivery")
        assured = ReconciliationSummary(
            build_id=latest.build_id,
            revision=latest.revision,
            errors=found.errors,
            warnings=found.warnings,
            breaks=len(found.breaks),
            unexplained=found.metrics()["unexplained"],
            report=report,
            attempt=found.attempt,
        )
        self.runtime.save_reference(f"{self.feed.name}/{found.side.value}_reconciliation", self.day, assured)
        return assured, saved

    def _history(self, history: Sequence[tuple[dt.date, str, int]], side: Side) -> Figure:
        """Portfolios held back over the last dates that were proven, up to this one."""
        rows = [(day.isoformat(), held) for day, of, held in history if of == side.value and day <= self.day]
        return Figure("portfolios held back, by date", tuple(rows[-_PLOTTED_DATES:]), over_time=True)
