"""Work after a delivery, without Dagster: reconcile it, verify its files, load the warehouse, ask the data team.

Each step can be repeated: breaks are kept once, a load replaces its date, a report belongs to its attempt. Live and
shadow deliveries are treated alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.state import DeliveredState, delivered_state
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.feed_run.switches import FeedFlags, chosen_format
from classfeed_dagster.feed_run.verify_date import verification_breaks
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.reconciliation.data_team import reconcile_data_team
from classfeed_dagster.reconciliation.report import write_report
from classfeed_dagster.reconciliation.result import Figure, Reconciliation
from classfeed_dagster.reconciliation.source import reconcile_source
from classfeed_dagster.retention import retention_of
from classfeed_dagster.runtime import Runtime, utc_now
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import SYDNEY, next_business_day
from classfeed_dagster.warehouse.breaks import BreakChanges, run_history, save_breaks, stored_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import Connection
from classfeed_dagster.warehouse.load import LoadResult, TableContent, changed_tables, content_of, load_delivery
from classfeed_dagster.warehouse.records import Side

# Due time of the data team's figures for a date: Sydney time on the next business day.
DATA_TEAM_DUE = dt.time(9, 0)
_PLOTTED_DATES = 30


class ReconciliationSummary(BaseModel, frozen=True):
    """Outcome of one side's reconciliation of a delivery. ``stopped``: it has no verdict."""

    build_id: str  # of the latest delivery that was reconciled
    revision: int
    errors: int
    warnings: int
    breaks: int
    unexplained: int  # breaks for which the data shows no likely cause
    report: str  # its key in the object store
    attempt: str
    finding: str | None = None  # identity of the errors; absent from verdicts of older versions
    stopped: str | None = None  # the kind of error that ended it before a verdict


class LoadedContent(BaseModel, frozen=True):
    """Content of the warehouse's tables for a date, as they were loaded, and the delivery that they hold."""

    build_id: str
    tables: dict[str, TableContent]


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
        """Return the current instant, UTC."""
        return utc_now(self.now)

    @cached_property
    def store(self) -> ObjectStore:
        """Return the view of the store with the feed's live and shadow deliveries."""
        return live_and_shadow(self.runtime.store, self.feed.name)

    @property
    def delivered(self) -> DeliveredState:
        """Return the date's current deliveries."""
        return delivered_state(self.store, self.feed.name, self.day)

    @property
    def format(self) -> DocumentFormat:
        """Return the format of the latest delivery, which a switch may have selected."""
        latest = self.delivered.latest
        if latest is None or not latest.flags:
            return self.feed.format
        return chosen_format(self.feed, FeedFlags.from_recorded(self.feed.name, latest.flags))

    def source(self) -> Reconciliation:
        """Reconcile the delivered files with the landing and with bigsite, and verify them against their chain."""
        with self._verdict(Side.SOURCE) as attempt:
            result = reconcile_source(
                self.store,
                self.runtime.engine,
                self.feed.name,
                self.day,
                attempt,
                audience=self.audience.key,
                previous=self.audience.previous(self.day),
                layout=self.feed.layout_of(self.format),
                retention=retention_of(self.runtime.settings.env),
            )
            subjects = {entry.subject for entry in result.breaks}
            problems = verification_breaks(self.store, self.feed.name, self.day, self.format)
            further = tuple(entry for entry in problems if entry.subject not in subjects)
            # With a rehearsal's clock both sides have its instant; otherwise that of bigsite's answer.
            asked_at = result.asked_at if self.now is None else self.instant
            return dataclasses.replace(result, breaks=(*result.breaks, *further), asked_at=asked_at)

    def load(self) -> LoadResult:
        """Load the delivery into the star schema, replacing the date's rows."""
        with self._warehouse() as connection:
            loaded = load_delivery(connection, self.store, self.feed.name, self.day, self.format)
            content = content_of(connection, self.feed.name, self.day)
        self.runtime.save_reference(
            f"{self.feed.name}/warehouse", self.day, LoadedContent(build_id=loaded.build_id, tables=content)
        )
        return loaded

    def warehouse_changes(self) -> list[str]:
        """Return the tables whose rows changed after they were loaded for the latest delivery."""
        known = self.runtime.find_reference(f"{self.feed.name}/warehouse", self.day, LoadedContent)
        latest = self.delivered.latest
        if known is None or latest is None or known.build_id != latest.build_id:
            return []  # not loaded yet, or by an older version
        with self._warehouse() as connection:
            return changed_tables(known.tables, content_of(connection, self.feed.name, self.day))

    def data_team(self) -> Reconciliation:
        """Compare our metrics, from the delivered files, with the data team's."""
        due = dt.datetime.combine(next_business_day(self.day), DATA_TEAM_DUE, tzinfo=SYDNEY).astimezone(dt.UTC)
        with self._verdict(Side.DATA_TEAM) as attempt, self._warehouse() as connection:
            return reconcile_data_team(
                connection,
                self.store,
                self.feed.name,
                self.day,
                attempt,
                at=self.instant,
                due=due,
                table=self.runtime.settings.data_team_table,
                layout=self.feed.layout_of(self.format),
            )

    def _warehouse(self) -> contextlib.AbstractContextManager[Connection]:
        tag = {"feed": self.feed.name, "date": self.day.isoformat(), "correlation_id": self.correlation_id}
        return open_warehouse(self.runtime.settings, tag)

    @contextlib.contextmanager
    def _verdict(self, side: Side, result: Reconciliation | None = None) -> Iterator[str]:
        """Yield the attempt's id. After an error, store that there is no verdict, with what ``result`` found."""
        attempt = f"{self.correlation_id}-{side.value.replace('_', '-')}" if result is None else result.attempt
        try:
            yield attempt
        except Exception as error:
            with contextlib.suppress(Exception):  # the first error is the one to report
                latest = self.delivered.latest
                if latest is not None:
                    report = "" if result is None else write_report(self.runtime.store, [result])
                    stopped = _summary(latest, attempt, result, report, type(error).__name__)
                    self.runtime.save_reference(side.reference(self.feed.name), self.day, stopped)
            raise

    def keep(self, result: Reconciliation) -> tuple[ReconciliationSummary, BreakChanges]:
        """Store the breaks in the warehouse, resolve missing ones, and write the report; return the summary.

        If the warehouse fails, the stored verdict has the errors, so that they alert, and why it is none.
        """
        with self._verdict(result.side, result), self._warehouse() as connection:
            saved = save_breaks(
                connection,
                self.feed.name,
                result.side,
                self.day,
                result.breaks,
                at=self.instant,
                attempt=result.attempt,
                metrics=result.metrics(),
            )
            open_breaks = stored_breaks(connection, feed=self.feed.name, only_open=True)
            history = self._history(run_history(connection, self.feed.name, "portfolios_held_back"), result.side)
        report = write_report(self.runtime.store, [result], kept=open_breaks, history=[history])
        latest = self.delivered.latest
        if latest is None:
            raise AssertionError("a date was reconciled that has no delivery")
        summary = _summary(latest, result.attempt, result, report)
        self.runtime.save_reference(result.side.reference(self.feed.name), self.day, summary)
        return summary, saved

    def _history(self, history: Sequence[tuple[dt.date, str, int]], side: Side) -> Figure:
        """Return the portfolios held back over the last reconciled dates, up to this one."""
        rows = [
            (day.isoformat(), count) for day, compared, count in history if compared == side.value and day <= self.day
        ]
        return Figure("portfolios held back, by date", tuple(rows[-_PLOTTED_DATES:]), over_time=True)


def _summary(
    latest: Manifest, attempt: str, result: Reconciliation | None, report: str, stopped: str | None = None
) -> ReconciliationSummary:
    return ReconciliationSummary(
        build_id=latest.build_id,
        revision=latest.revision,
        errors=result.errors if result else 0,
        warnings=result.warnings if result else 0,
        breaks=len(result.breaks) if result else 0,
        unexplained=result.metrics()["unexplained"] if result else 0,
        report=report,
        attempt=attempt,
        finding=result.finding if result else None,
        stopped=stopped,
    )
