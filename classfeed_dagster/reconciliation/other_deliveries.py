"""Independent decisions about a date by the feed's other deliveries, earlier and later ones, and by stored refreshes.

Late rows: a row that its own window's snapshot did not see is sent in the first window whose snapshot does. A document
should contain it only if no earlier delivery did; a row that was sent before is a duplicate, and remains a break. The
later deliveries state which of them sends a row that the date lacks.

References: a row was sent by the date of its window, or by a later extract in full, unless the history shared then
began later. The manifests state the extracts, and the consents landed then the histories: bigsite may have rewritten a
consent since. Of landings that expired or have a fault, the consents of bigsite do. A revision counts for the
deliveries after it.
"""

# ruff: noqa: S608  # SQL of this package's own text

from __future__ import annotations

import datetime as dt
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from classfeed_dagster.reconciliation.delivered import (
    Delivered,
    Revision,
    business_dates,
    carried_ids,
    excluded_by_switch,
    read_revisions,
)
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError
from classfeed_dagster.reconciliation.landing import Landing
from classfeed_dagster.reconciliation.record_scope import EarlyPortfolio
from classfeed_dagster.reconciliation.records import MOVEMENTS
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import cutoff, next_business_day

if TYPE_CHECKING:
    from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
    from classfeed_dagster.reconciliation.source_queries import Bigsite

_LEDGER_ID = re.compile(r"[TSIC][0-9]{1,19}\Z")


def late_arrivals(store: ObjectStore, delivered: Delivered) -> tuple[str, ...]:
    """Return the TransactionIds of a DELTA's rows that were recorded before its window and never sent before."""
    candidates = _recorded_earlier(delivered)
    if not candidates:
        return ()
    earliest = min(recorded for _, _, recorded in candidates)
    numbers = frozenset(number for number, _, _ in candidates)
    sent: set[tuple[str, str]] = set()
    for day in business_dates(store, delivered.feed):
        if day >= delivered.business_date or cutoff(day) <= earliest:
            continue
        revisions = read_revisions(store, delivered.feed, day)
        for number, ids in carried_ids(store, revisions, numbers, delivered.layout).items():
            sent |= {(number, transaction_id) for transaction_id in ids}
    return tuple(sorted({name for number, name, _ in candidates if (number, name) not in sent}))


def _recorded_earlier(delivered: Delivered) -> list[tuple[str, str, dt.datetime]]:
    # Portfolio, TransactionId and instant of the movements recorded before the window, of DELTA extracts.
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    file = delivered.files["movement_transactions"]
    start = delivered.revisions[-1].recorded_after
    with duckdb.connect() as db:
        rows = db.execute(
            f"SELECT portfolio_number, transaction_id, TRY_CAST(recorded_at AS TIMESTAMPTZ) AS at FROM "
            f"read_parquet('{file}') WHERE TRY_CAST(recorded_at AS TIMESTAMPTZ) < $start",
            {"start": start},
        ).fetchall()
    return [
        (str(number), str(name), at.astimezone(dt.UTC))
        for number, name, at in rows
        if _LEDGER_ID.match(str(name)) and _is_delta(delivered, number)
    ]


def _is_delta(delivered: Delivered, number: str) -> bool:
    return number in delivered.latest and delivered.latest[number].portfolios[number].get("extract") == "DELTA"


_Row = tuple[str, str]  # portfolio number, TransactionId


def unsent_references(
    store: ObjectStore, delivered: Delivered, expected: ExpectedRecords, bigsite: Bigsite
) -> tuple[_Row, ...]:
    """Return the rows, each with its portfolio, that records of DELTA extracts name and that no earlier date sent."""
    ledgers = "".join(kind.ledgers for kind in delivered.layout.kinds if kind.name == MOVEMENTS.name)
    named: dict[_Row, tuple[str, dt.datetime]] = {
        (str(number), str(name)): (str(dated), recorded_at.astimezone(dt.UTC))
        for number, name, dated, recorded_at in (bigsite.fetch(expected.named_rows(ledgers)) if ledgers else ())
        if _is_delta(delivered, number)
    }
    unsent: list[_Row] = []
    for day, rows in _sent_on(store, delivered, {row: recorded_at for row, (_, recorded_at) in named.items()}).items():
        histories = _histories(store, delivered, day, expected, bigsite, {number for number, _ in rows})
        for number, name in rows:
            begins, (dated, _) = histories.get(number), named[number, name]
            if begins is not None and dated < str(begins):
                unsent.append((number, name))
    return tuple(sorted(unsent))


def _histories(
    store: ObjectStore,
    delivered: Delivered,
    day: dt.date,
    expected: ExpectedRecords,
    bigsite: Bigsite,
    numbers: Collection[str],
) -> dict[str, str | None]:
    # Start of the history that the portfolios shared with the date's delivery, by number.
    import duckdb  # imported lazily: every process of Dagster imports this file, and few compare

    histories = dict(bigsite.fetch(expected.histories(cutoff(day), numbers)))
    landed = replace(expected, business_date=day, previous=None, landed=True)
    with ExitStack() as stack:
        db = stack.enter_context(duckdb.connect())
        db.execute("SET TimeZone='UTC'")
        landing = Landing(db, stack, store)
        for each in read_revisions(store, delivered.feed, day):
            of_revision = [
                number for number in numbers if number in each.portfolios and _was_sent(each, delivered, number)
            ]
            if of_revision and landing.open_consents(each, landed):
                histories |= dict(db.execute(landed.histories(cutoff(day), of_revision)).fetchall())
    return histories


def _sent_on(store: ObjectStore, delivered: Delivered, recorded: dict[_Row, dt.datetime]) -> dict[dt.date, list[_Row]]:
    # The date of each row's window, or of the last extract in full since. Rows without such a delivery are left out.
    rows: dict[dt.date, list[_Row]] = defaultdict(list)
    days = (day for day in business_dates(store, delivered.feed) if day < delivered.business_date)
    for day in sorted(days, reverse=True):
        if not recorded:
            break
        revisions = read_revisions(store, delivered.feed, day)
        if not revisions:
            continue
        extracts = {
            number: entry.get("extract")
            for each in revisions
            for number, entry in each.portfolios.items()
            if _was_sent(each, delivered, number)
        }
        start = revisions[-1].recorded_after
        for row, recorded_at in list(recorded.items()):
            extract = extracts.get(row[0])
            if extract == "FULL" or (extract == "DELTA" and recorded_at >= start):
                rows[day].append(row)
                del recorded[row]
    return rows


def _was_sent(earlier: Revision, delivered: Delivered, number: str) -> bool:
    # Whether an earlier date's revision preceded the portfolio's delivery: the earlier date may be sent again since.
    latest = delivered.latest.get(number, delivered.revisions[-1])
    return earlier.chain_position < latest.chain_position


_FULL, _EARLY = "refreshed", "early"


def in_full(store: ObjectStore, delivered: Delivered) -> tuple[str, ...]:
    """Return the portfolios with a refresh on the date that its delivery states as FULL."""
    records = [record for kind in (_FULL, _EARLY) for record in _records(store, delivered, kind)]
    on_date = {str(record["portfolio_number"]) for record in records if _date(record) == delivered.business_date}
    return tuple(
        number
        for number in sorted(on_date & delivered.latest.keys())
        if delivered.latest[number].portfolios[number].get("extract") == "FULL"
    )


def early(store: ObjectStore, delivered: Delivered, previous: dt.date | None) -> tuple[EarlyPortfolio, ...]:
    """Return the portfolios whose consents count from an earlier cut-off: on the refreshed date, and until their own.

    After the refreshed date only if the date before sent the portfolio or held it back.
    """
    records = [record for record in _records(store, delivered, _EARLY) if _date(record) <= delivered.business_date]
    known = _known(store, delivered.feed, previous) if records and previous is not None else frozenset[str]()
    sent_now = set(in_full(store, delivered)) if records else set[str]()
    counted: list[EarlyPortfolio] = []
    for record in records:
        number, day = str(record["portfolio_number"]), _date(record)
        until = dt.datetime.fromisoformat(record["consented_at"])
        carried = previous is not None and day <= previous and number in known and until > cutoff(previous)
        if carried or (day == delivered.business_date and number in sent_now):
            counted.append(EarlyPortfolio(number, cutoff(day), until))
    return tuple(counted)


def _known(store: ObjectStore, feed: str, day: dt.date) -> frozenset[str]:
    revisions = read_revisions(store, feed, day)
    sent = {number: entry for one in revisions for number, entry in one.portfolios.items()}
    with_data = (number for number, entry in sent.items() if entry.get("change") != "REMOVED")
    return frozenset((*with_data, *(number for one in revisions for number in one.held_back)))


def _records(store: ObjectStore, delivered: Delivered, kind: str) -> Iterator[dict[str, Any]]:
    for key in store.list(f"reruns/{kind}/{delivered.feed}/"):
        day = key.split("/")[3]
        if kind == _FULL and day != delivered.business_date.isoformat():
            continue
        try:
            record: dict[str, Any] = json.loads(store.read(key))
            _date(record), dt.datetime.fromisoformat(record["consented_at"]), record["portfolio_number"]
        except (ValueError, KeyError, TypeError):
            raise UnreadableDeliveryError(
                f"{store.location(key)} is not the record of a refresh: restore the object's earlier version"
            ) from None
        yield record


def _date(record: dict[str, Any]) -> dt.date:
    return dt.date.fromisoformat(record["business_date"])


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
