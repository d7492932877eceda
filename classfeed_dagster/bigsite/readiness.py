"""Readiness of bigsite's end of day for a business date, checked before and during the snapshot."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from classfeed_dagster.bigsite import queries
from classfeed_dagster.bigsite.source_connection import ReadOnlyTransaction
from classfeed_dagster.errors import NotReadyError


class SourceNotReadyError(NotReadyError):
    """bigsite's end of day for the business date is missing or incomplete. Nothing was landed; retry later."""

    def __init__(self, business_date: dt.date, reason: str, counts: dict[str, int]) -> None:
        listed = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
        super().__init__(
            f"bigsite is not ready for {business_date.isoformat()}: {reason}{f' ({listed})' if listed else ''}. "
            "Nothing was landed. Wait for bigsite's end-of-day job, then run this date again."
        )
        self.business_date = business_date
        self.counts = counts


@dataclass(slots=True)
class EndOfDay:
    """Counts of a business date's end of day. A row is missing if the ledgers imply it."""

    business_date: dt.date
    holdings: int = 0
    holdings_missing: int = 0
    balances: int = 0
    balances_missing: int = 0
    portfolios: set[int] = field(default_factory=set)  # with something missing

    def require_any(self, bigsite: ReadOnlyTransaction) -> None:
        """Raise SourceNotReadyError if the date has no row at all."""
        statement = sa.text(queries.READINESS).bindparams(business_date=self.business_date)
        if not any(bigsite.rows(statement)[0]):
            counts = {"holding_rows": 0, "balance_rows": 0}
            raise SourceNotReadyError(self.business_date, "its end of day has not been written", counts)

    def watch(self, table: str, batch: pa.RecordBatch) -> None:
        """Count a batch's present and missing rows if its table belongs to the end of day."""
        import pyarrow.compute as pc  # imported here: slow, and commands that read no rows do not need it

        if table == queries.HOLDING.table:
            absent = pc.is_null(batch.column("units"))
            # What a later correction undid altogether has no row and is not missing.
            undone = pc.equal(batch.column("ledger_units"), pc.negate(batch.column("later_units")))
            self.holdings_missing += self._missing(batch, pc.and_(absent, pc.invert(undone)))
            self.holdings += batch.num_rows - batch.filter(pc.and_(absent, undone)).num_rows
        elif table == queries.CASH_BALANCE.table:
            is_open = batch.column("open_on_date")
            self.balances_missing += self._missing(batch, pc.and_(pc.is_null(batch.column("updated_at")), is_open))
            self.balances += pc.sum(is_open).as_py() or 0

    def require_complete(self, portfolios: int, limit: Decimal) -> None:
        """Raise SourceNotReadyError if a table is empty, or if over ``limit`` of ``portfolios`` lack a row."""
        counts = {
            "portfolios": portfolios,
            "portfolios_incomplete": len(self.portfolios),
            "holding_rows": self.holdings - self.holdings_missing,
            "holding_rows_missing": self.holdings_missing,
            "balance_rows": self.balances - self.balances_missing,
            "balance_rows_missing": self.balances_missing,
        }
        if self.holdings_missing and self.holdings == self.holdings_missing:
            raise SourceNotReadyError(self.business_date, "its end of day has no holdings", counts)
        if self.balances_missing and self.balances == self.balances_missing:
            raise SourceNotReadyError(self.business_date, "its end of day has no cash balances", counts)
        if len(self.portfolios) > limit * portfolios:
            raise SourceNotReadyError(self.business_date, "its end of day is incomplete", counts)

    def _missing(self, batch: pa.RecordBatch, missing: pa.BooleanArray) -> int:
        portfolios: list[Any] = batch.filter(missing).column("portfolio_id").to_pylist()
        self.portfolios.update(portfolios)
        return len(portfolios)
