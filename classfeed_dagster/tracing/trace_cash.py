"""Origin of a cash account's balance: ledger rows, landed file, document and place in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.delivery.delivery_history import deliveries_of
from classfeed_dagster.documents.document_format import BalanceKey, DocumentFormat
from classfeed_dagster.retention import NOTHING_EXPIRES, Retention
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.tracing.source_rows import cash_account
from classfeed_dagster.tracing.trace import (
    WHOLE,
    HeldBackDates,
    ReconciliationResult,
    Sighting,
    held_back_dates,
    reconciliations_of,
    sightings_of,
)


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
