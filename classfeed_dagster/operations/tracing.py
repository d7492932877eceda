"""Where does this number come from? A transaction's way: source row, landed file, document, and the place in it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.look import PortfolioDelivery, delivered_dates, deliveries_of, wherever
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.documents.locate import Place, locate
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.movement_transactions import DATES, LETTERS
from classfeed_dagster.store import ObjectStore

_LEDGER_ROW = re.compile(r"([TSIC])(\d{1,19})\Z")
_TABLES = {letter: table for table, letter in LETTERS.items()}


class NotATransactionError(ValueError):
    """The text is no transaction id of the documents."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:40]!r} is not the id of a ledger row: T, S, I or C and the ledger's own number, as in T1042. "
            "(Opening records sum many rows: trace those.)"
        )


@dataclass(frozen=True, slots=True)
class SourceRow:
    """The row in bigsite, as it stands there now."""

    table: str
    key: int
    portfolio_number: str
    business_date: dt.date  # the day that it counts for
    recorded_at: dt.datetime  # UTC


@dataclass(frozen=True, slots=True)
class Sighting:
    """One delivered document that holds the transaction."""

    delivery: PortfolioDelivery
    page_location: str
    places: Sequence[Place]
    landed_location: str
    in_landed_file: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """A transaction's way, as far as it has gone."""

    transaction_id: str
    source: SourceRow | None
    travels_on: dt.date | None  # the date whose window holds it
    sightings: Sequence[Sighting]
    held_back: Sequence[tuple[dt.date, str]]  # dates on which the portfolio is held back, and why


def trace(
    engine: sa.Engine,
    store: ObjectStore,
    feed: str,
    audience: Audience,
    transaction_id: str,
    *,
    ledgers: Collection[str] = frozenset(LETTERS.values()),
) -> Trace:
    """Follow a ledger row through one feed. NotATransactionError for anything that is no transaction id.

    ``ledgers``: the letters of those that the feed's format carries; rows of others are in none of its documents.
    """
    match = _LEDGER_ROW.match(transaction_id)
    if match is None:
        raise NotATransactionError(transaction_id)
    table, key = _TABLES[match[1]], int(match[2])
    source = _source_row(engine, table, key)
    if source is None:
        return Trace(transaction_id, None, None, (), ())
    travels_on = next((day for day in audience.dates() if source.recorded_at in audience.window(day)), None)
    if travels_on is None:  # recorded before the feed began: part of the first documents' history
        travels_on = audience.first_business_date
    sightings = [
        sighting
        for day in delivered_dates(store, feed)
        if day >= travels_on
        for delivery in (deliveries_of(store, feed, day, source.portfolio_number) if match[1] in ledgers else ())
        # A DELTA holds its own window only; any later FULL holds everything again.
        if day == travels_on or delivery.portfolio.extract == "FULL"
        for sighting in _sightings(store, delivery, table, key, transaction_id)
    ]
    waiting = [
        (record.business_date, record.held_back.reason)
        for record in held(store, feed)
        if record.number == source.portfolio_number
    ]
    return Trace(transaction_id, source, travels_on, sightings, waiting)


def _source_row(engine: sa.Engine, table: str, key: int) -> SourceRow | None:
    ledger = tables.metadata.tables[f"{tables.SCHEMA}.{table}"]
    owner = ledger
    joined: sa.FromClause = ledger
    if "portfolio_id" not in ledger.c:
        joined = ledger.join(tables.cash_account, ledger.c.cash_account_id == tables.cash_account.c.cash_account_id)
        owner = tables.cash_account
    joined = joined.join(tables.portfolio, tables.portfolio.c.portfolio_id == owner.c.portfolio_id)
    question = (
        sa.select(tables.portfolio.c.portfolio_number, ledger.c[DATES[table]], ledger.c.recorded_at)
        .select_from(joined)
        .where(ledger.c[f"{table}_id"] == key)
    )
    with engine.connect() as connection:
        row = connection.execute(question).one_or_none()
    return None if row is None else SourceRow(table, key, row[0], row[1], row[2].astimezone(dt.UTC))


def _sightings(
    store: ObjectStore, delivery: PortfolioDelivery, table: str, key: int, transaction_id: str
) -> list[Sighting]:
    view = wherever(store, delivery.manifest.feed)
    with view.local_file(delivery.page.key) as path:
        places = locate(path, transaction_id)
    if not places:
        return []
    snapshot = Snapshot.model_validate_json(store.read(delivery.manifest.snapshot.descriptor_key))
    landed = snapshot.tables[table].key
    with store.local_file(landed) as path:
        present = pq.read_table(path, columns=[f"{table}_id"], filters=[(f"{table}_id", "==", key)]).num_rows > 0
    page = view.location(delivery.page.key)
    return [Sighting(delivery, page, places, store.location(landed), present)]
