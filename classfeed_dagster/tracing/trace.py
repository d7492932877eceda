"""Origin of a transaction, a holding or a cash balance: source rows, landed file, document and place in it."""

from __future__ import annotations

import datetime as dt
import functools
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import polars as pl
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.landing import StoredTable, verified_file
from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.bigsite.snapshot import read_snapshot
from classfeed_dagster.delivery.delivery_history import (
    PortfolioDelivery,
    delivered_dates,
    delivered_page,
    deliveries_of,
    live_and_shadow,
)
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.documents.document_format import BalanceKey, DocumentFormat, Place, RecordKey
from classfeed_dagster.retention import NOTHING_EXPIRES, Retention
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.tracing.source_rows import SourceRow, cash_account, holding_keys, ledger_row

ACKNOWLEDGEMENT = "none: the recipient sends no acknowledgement"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One delivered document that holds the transaction."""

    delivery: PortfolioDelivery
    page_location: str
    places: Sequence[Place]
    landed_location: str
    in_landed_file: bool
    snapshot_location: str  # the description of the snapshot: its tables, files and instant
    landed_expired_on: dt.date | None = None  # by rule; the files do not exist after that


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """Breaks of the record in one reconciliation of a date that contains it."""

    business_date: dt.date
    report: str  # location of the report
    breaks: Sequence[str]  # empty: it agrees, or this reconciliation does not compare it

    @property
    def verdict(self) -> str:
        """Breaks in one line."""
        return "; ".join(self.breaks) or "no break"


@dataclass(frozen=True, slots=True)
class HeldBackDates:
    """Dates on which the portfolio is held back, each with the reason. A date that delivered it is in neither."""

    at_delivery: Sequence[tuple[dt.date, str]] = ()  # by the manifests of the dates that the trace reads
    now: Sequence[tuple[dt.date, str]] = ()  # by the latest attempt at each date

    def __bool__(self) -> bool:
        return bool(self.at_delivery or self.now)


@dataclass(frozen=True, slots=True)
class Trace:
    """Path of a transaction from bigsite to the documents."""

    transaction_id: str
    source: SourceRow | None
    travels_on: dt.date | None  # the date whose window contains it
    sightings: Sequence[Sighting]
    held_back: HeldBackDates
    reconciliations: Sequence[ReconciliationResult] = ()  # of the dates that contain it


@dataclass(frozen=True, slots=True)
class UnitsRow:
    """One ledger row behind a holding's units."""

    transaction_id: str
    business_date: dt.date
    recorded_at: dt.datetime  # UTC
    units: Decimal  # signed


@dataclass(frozen=True, slots=True)
class HoldingTrace:
    """Path of a holding on one business date. ``stated``: the units in bigsite's end of day now; None without a row."""

    portfolio_number: str
    exchange: str
    security_code: str
    business_date: dt.date
    security_id: int
    stated: Decimal | None
    updated_at: dt.datetime | None
    rows: Sequence[UnitsRow]  # dated on or before the business date, by date and recording
    sightings: Sequence[Sighting]
    held_back: HeldBackDates
    reconciliations: Sequence[ReconciliationResult]
    price: tuple[dt.date, Decimal] | None = None  # the last close on or before the date, as in bigsite now

    @property
    def ledger(self) -> Decimal:
        """Sum of the ledger rows."""
        return sum((row.units for row in self.rows), Decimal("0.000000"))


def trace(
    engine: sa.Engine,
    store: ObjectStore,
    feed: str,
    audience: RecipientSchedule,
    transaction_id: str,
    *,
    document_format: DocumentFormat,
    retention: Retention = NOTHING_EXPIRES,
) -> Trace:
    """Trace a ledger row through the documents of one feed. NotATransactionError for any other text."""
    source = ledger_row(engine, transaction_id)
    if source is None:
        return Trace(transaction_id, None, None, (), HeldBackDates())
    table, key = source.table, source.key
    travels_on = next((day for day in audience.dates() if source.recorded_at in audience.window(day)), None)
    if travels_on is None:  # recorded before the feed began: part of the first documents' history
        travels_on = audience.first_business_date
    sightings = [
        sighting
        for day in delivered_dates(store, feed)
        if day >= travels_on
        for delivery in (
            deliveries_of(store, feed, day, source.portfolio_number)
            if LETTERS[table] in document_format.ledgers
            else ()
        )
        # A DELTA holds its own window only; any later FULL holds everything again.
        if day == travels_on or delivery.portfolio.extract == "FULL"
        for sighting in sightings_of(
            store, delivery, document_format, table, {f"{table}_id": key}, transaction_id, retention
        )
    ]
    reconciliations = [
        result
        for day in sorted({sighting.delivery.manifest.business_date for sighting in sightings})
        for result in reconciliations_of(store, feed, day, source.portfolio_number, (transaction_id, WHOLE))
    ]
    delivered = [day for day in delivered_dates(store, feed) if day >= travels_on]
    held_back = held_back_dates(store, feed, source.portfolio_number, delivered)
    return Trace(transaction_id, source, travels_on, sightings, held_back, reconciliations)


def trace_holding(
    engine: sa.Engine,
    store: ObjectStore,
    feed: str,
    number: str,
    security: tuple[str, str],
    day: dt.date,
    *,
    document_format: DocumentFormat,
    retention: Retention = NOTHING_EXPIRES,
) -> HoldingTrace:
    """Trace a portfolio's holding of a security (exchange, code as on ``day``). NotAHoldingError if there is none."""
    exchange, code = security
    with engine.connect() as connection:
        portfolio_id, security_id = holding_keys(connection, number, security, day)
        eod = tables.holding_eod.c
        stated = connection.execute(
            sa.select(eod.units, eod.updated_at).where(
                eod.portfolio_id == portfolio_id, eod.security_id == security_id, eod.as_at_date == day
            )
        ).one_or_none()
        rows = [UnitsRow(*row) for row in connection.execute(_units_behind(portfolio_id, security_id, day))]
        close = tables.security_price.c
        price = connection.execute(
            sa.select(close.price_date, close.close_price)
            .where(close.security_id == security_id, close.price_date <= day)
            .order_by(close.price_date.desc())
            .limit(1)
        ).one_or_none()
    owned = {"portfolio_id": portfolio_id, "security_id": security_id}
    sightings = [
        sighting
        for delivery in deliveries_of(store, feed, day, number)
        for sighting in sightings_of(
            store, delivery, document_format, "holding_eod", owned, (number, exchange, code), retention
        )
    ]
    return HoldingTrace(
        number,
        exchange,
        code,
        day,
        security_id,
        stated[0] if stated else None,
        stated[1].astimezone(dt.UTC) if stated else None,
        [replace(row, recorded_at=row.recorded_at.astimezone(dt.UTC)) for row in rows],
        sightings,
        held_back_dates(store, feed, number, [day]),
        reconciliations_of(store, feed, day, number, (f"{exchange} {code}", WHOLE)),
        (price[0], price[1]) if price else None,
    )


def _units_behind(portfolio_id: int, security_id: int, day: dt.date) -> sa.Select[Any]:
    trade, moved = tables.trade.c, tables.security_movement.c
    signed = sa.case((trade.side == "BUY", trade.units), else_=-trade.units)
    parts = [
        sa.select(
            sa.func.concat(LETTERS[table.name], key).label("id"),
            date.label("on_date"),
            table.c.recorded_at.label("recorded_at"),
            units.label("units"),
        ).where(table.c.portfolio_id == portfolio_id, table.c.security_id == security_id, date <= day)
        for table, key, date, units in (
            (tables.trade, trade.trade_id, trade.trade_date, signed),
            (tables.security_movement, moved.security_movement_id, moved.effective_date, moved.units_change),
        )
    ]
    both = sa.union_all(*parts).subquery()
    return sa.select(both).order_by(both.c.on_date, both.c.recorded_at, both.c.id)


def held_back_dates(store: ObjectStore, feed: str, number: str, days: Iterable[dt.date]) -> HeldBackDates:
    """Return the dates on which a portfolio is held back. ``days``: the dates whose manifests are read."""
    # A date that any revision delivered is not held back.
    view = live_and_shadow(store, feed)
    at_delivery: list[tuple[dt.date, str]] = []
    for day in days:
        state = delivered_state(view, feed, day)
        entries = [entry for manifest in state.deliveries for entry in manifest.held_back if entry.number == number]
        if entries and number not in state.portfolios:
            at_delivery.append((day, entries[-1].reason))
    now = [
        (record.business_date, record.held_back.reason)
        for record in held(store, feed)
        if record.number == number and not deliveries_of(store, feed, record.business_date, number)
    ]
    return HeldBackDates(at_delivery, now)


WHOLE = "held back"  # subject of a break about a whole portfolio that was not sent


def reconciliations_of(
    store: ObjectStore, feed: str, day: dt.date, number: str, subjects: Collection[str]
) -> list[ReconciliationResult]:
    """Return the reconciliations of a date, each with the breaks of these subjects of a portfolio."""
    return [
        ReconciliationResult(
            day, store.location(key), _breaks(store, f"{key.rpartition('/')[0]}/breaks.parquet", number, subjects)
        )
        for key in store.list(f"reconciliation/{feed}/{day.isoformat()}/")
        if key.endswith("/report.html")
    ]


def _breaks(store: ObjectStore, key: str, number: str, subjects: Collection[str]) -> list[str]:
    if not store.exists(key):  # the attempt was stopped between its report and its breaks
        return []
    with store.local_file(key) as path:
        of_record = (pl.col("portfolio_number") == number) & pl.col("subject").is_in(list(subjects))
        columns = ["kind", "field", "ours", "theirs", "cause"]
        rows = pl.scan_parquet(path, glob=False).filter(of_record).select(columns).collect().to_dicts()
    return [
        f"{row['kind']}{f' in {field}' if (field := row['field']) else ''}: "
        f"ours {row['ours'] or '(none)'}, theirs {row['theirs'] or '(none)'} ({row['cause']})"
        for row in rows
    ]


def sightings_of(
    store: ObjectStore,
    delivery: PortfolioDelivery,
    document_format: DocumentFormat,
    table: str,
    row: Mapping[str, int],
    key: RecordKey,
    retention: Retention,
) -> list[Sighting]:
    """Return the documents of a delivery that contain a record; empty if none does."""
    view = live_and_shadow(store, delivery.manifest.feed)
    with delivered_page(view, delivery.page) as path:
        places = document_format.locate(path, key)
    if not places:
        return []
    page = view.location(delivery.page.key)
    row_filter = functools.reduce(operator.and_, [pl.col(name) == value for name, value in row.items()])
    taken = delivery.manifest.snapshot
    described = store.location(taken.descriptor_key)
    try:
        snapshot = read_snapshot(store, taken.descriptor_key, taken.descriptor_sha256)
        landed, present = _landed(store, snapshot.tables[table], row_filter, list(row))
    except ObjectNotFoundError:
        expired = retention.expired_on(taken.descriptor_key, taken.snapshot_at)
        if expired is None:
            raise
        return [Sighting(delivery, page, places, described, False, described, expired)]
    return [Sighting(delivery, page, places, store.location(landed), present, described)]


def _landed(store: ObjectStore, table: StoredTable, row_filter: pl.Expr, columns: list[str]) -> tuple[str, bool]:
    # The table's file that contains the row; the last file and False if none does.
    for file in table.files:
        with verified_file(store, file) as path:
            if pl.scan_parquet(path, glob=False).filter(row_filter).select(columns).head(1).collect().height:
                return file.key, True
    return table.files[-1].key, False


@dataclass(frozen=True, slots=True)
class AmountRow:
    """One cash transaction behind a balance."""

    transaction_id: str
    business_date: dt.date
    recorded_at: dt.datetime  # UTC
    amount: Decimal  # signed


@dataclass(frozen=True, slots=True)
class CashTrace:
    """Path of a cash balance on one business date. It has no account number: that is personal data.

    ``stated``: the ledger balance in bigsite's end of day now; None without a row.
    """

    portfolio_number: str
    cash_account_id: int
    currency: str
    business_date: dt.date
    stated: Decimal | None
    updated_at: dt.datetime | None
    rows: Sequence[AmountRow]  # dated on or before the business date, by date and recording
    sightings: Sequence[Sighting]
    held_back: HeldBackDates
    reconciliations: Sequence[ReconciliationResult]

    @property
    def ledger(self) -> Decimal:
        """Sum of the ledger rows."""
        return sum((row.amount for row in self.rows), Decimal("0.00"))


def trace_cash(
    engine: sa.Engine,
    store: ObjectStore,
    feed: str,
    number: str,
    account: str,
    day: dt.date,
    *,
    document_format: DocumentFormat,
    retention: Retention = NOTHING_EXPIRES,
) -> CashTrace:
    """Trace a portfolio's cash balance. ``account``: a currency or a ``cash_account_id``. NotACashAccountError."""
    from classfeed_dagster.reconciliation.break_classifier import account_digest  # a transaction's trace needs none

    eod, ledger = tables.cash_balance_eod.c, tables.cash_transaction.c
    with engine.connect() as connection:
        account_id, account_number, currency = cash_account(connection, number, account)
        stated = connection.execute(
            sa.select(eod.ledger_balance, eod.updated_at).where(
                eod.cash_account_id == account_id, eod.as_at_date == day
            )
        ).one_or_none()
        columns = (ledger.cash_transaction_id, ledger.transaction_date, ledger.recorded_at, ledger.amount)
        dated = (ledger.cash_account_id == account_id, ledger.transaction_date <= day)
        rows = connection.execute(sa.select(*columns).where(*dated).order_by(*columns[1:3], columns[0])).all()
    letter, key = LETTERS["cash_transaction"], BalanceKey(number, account_number, currency)
    owned = {"cash_account_id": account_id}
    return CashTrace(
        number,
        account_id,
        currency,
        day,
        stated[0] if stated else None,
        stated[1].astimezone(dt.UTC) if stated else None,
        [AmountRow(f"{letter}{row[0]}", row[1], row[2].astimezone(dt.UTC), row[3]) for row in rows],
        [
            sighting
            for delivery in deliveries_of(store, feed, day, number)
            for sighting in sightings_of(
                store, delivery, document_format, "cash_balance_eod", owned, key, retention
            )
        ],
        held_back_dates(store, feed, number, [day]),
        reconciliations_of(store, feed, day, number, (f"{account_digest(number, account_number)} {currency}", WHOLE)),
    )  # fmt: skip
