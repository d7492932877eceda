"""Ledger rows that a date's snapshot did not see, and the later deliveries of the feed that send them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from classfeed_dagster.reconciliation.delivered import (
    Revision,
    business_dates,
    carried_ids,
    excluded_by_switch,
    read_revisions,
)
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.records import MOVEMENTS
from classfeed_dagster.trading_days import cutoff, next_business_day

if TYPE_CHECKING:
    from classfeed_dagster.store import ObjectStore


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A ledger row, with the facts that determine its window and its end of day."""

    transaction_id: str
    source_row: str
    dated: dt.date
    recorded_at: dt.datetime
    reverses: str | None
    value: Decimal  # units of a holding, or the amount in a balance
    settles: dt.date | None
    xmin: int
    movement_type: str | None = None


@dataclass(frozen=True, slots=True)
class Travel:
    """The delivery that sends a row, as text. ``sent``: it has the row."""

    text: str
    sent: bool = False


Visible = Callable[[LedgerRow, Revision], bool]


class LaterDeliveries:
    """Deliveries after a business date, read on demand."""

    def __init__(
        self,
        store: ObjectStore,
        feed: str,
        day: dt.date,
        layout: DocumentLayout = EPI,
    ) -> None:
        self._store = store
        self._feed = feed
        self._day = day
        self._layout = layout
        self._ledgers = {
            letter for kind in layout.kinds if kind.name == MOVEMENTS.name for letter in kind.ledgers
        }  # with records in the feed
        self._dates: list[dt.date] | None = None
        self._revisions: dict[dt.date, tuple[Revision, ...]] = {}
        self._ids: dict[dt.date, Mapping[str, frozenset[str]]] = {}
        self._numbers: frozenset[str] = frozenset()

    def watch(self, numbers: Iterable[str]) -> None:
        """Set the portfolios whose records are read, so that each page is read once."""
        self._numbers = frozenset(numbers)

    def travel(self, number: str, row: LedgerRow, *, before_history: bool, saw: Visible) -> Travel | None:
        """Return the delivery that sent or will send the row; None if a delivery lost it."""
        if row.transaction_id[0] not in self._ledgers:
            return Travel("the feed has no record of it")
        ended: Travel | None = None
        for day in self._later():
            revisions = [revision for revision in self._revisions_of(day) if number in revision.portfolios]
            if not revisions:
                continue
            # The latest revision has the records of the date. A later snapshot than the first one's may see a row that
            # another date has sent meanwhile.
            first, revision = revisions[0], revisions[-1]
            if revision.portfolios[number].get("change") == "REMOVED":
                ended = Travel(f"not sent: the portfolio's consent ended, announced on {day.isoformat()}")
                continue
            ids = self._carried(day).get(number, frozenset())
            if row.transaction_id in ids:
                return Travel(f"sent with {day.isoformat()}", sent=True)
            if excluded_by_switch(row.transaction_id, row.movement_type, revision.flags):
                return Travel(f"left out of {day.isoformat()} by the feed's switches")
            if before_history and (row.transaction_id[0] == "I" or any(name[:1] == "O" for name in ids)):
                return Travel(f"dated before the shared history: in the openings of {day.isoformat()}")
            if row.recorded_at < revision.recorded_before and saw(row, first):
                return ended
        if ended is not None:
            return ended
        known = max([self._day, *self._later()])
        due = next_business_day(known)
        while row.recorded_at >= cutoff(due):
            due = next_business_day(due)
        return Travel(f"to be sent with {due.isoformat()}")

    def _later(self) -> list[dt.date]:
        if self._dates is None:
            self._dates = [day for day in business_dates(self._store, self._feed) if day > self._day]
        return self._dates

    def _revisions_of(self, day: dt.date) -> tuple[Revision, ...]:
        if day not in self._revisions:
            self._revisions[day] = read_revisions(self._store, self._feed, day)
        return self._revisions[day]

    def _carried(self, day: dt.date) -> Mapping[str, frozenset[str]]:
        if day not in self._ids:
            self._ids[day] = carried_ids(self._store, self._revisions_of(day), self._numbers, self._layout)
        return self._ids[day]
