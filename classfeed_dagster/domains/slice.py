"""One slice of a snapshot for one audience: landed tables, restricted to the data that may be used.

A snapshot serves several audiences at once, so it may hold portfolios, rows and openings that one of them must
not see. Domains read tables only through this module, which restricts them to the audience.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from classfeed_dagster.bigsite.consent_change import Change
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.trading_days import Window

if TYPE_CHECKING:
    from classfeed_dagster.bigsite.unreadable_values import UnreadableValue

Tables = Mapping[str, pl.DataFrame]
NUMBER = "portfolio_number"


@dataclass(frozen=True)
class Slice:
    """Landed ``tables`` of some portfolios, and the CONSENTED_PORTFOLIOS of one audience among them."""

    tables: Tables
    audience: RecipientSchedule
    business_date: dt.date
    consented: pl.DataFrame
    late_from: dt.datetime | None = None  # the snapshot looked for rows of closed windows from here on
    unreadable: tuple[UnreadableValue, ...] = ()  # values of the snapshot that could not be landed

    @cached_property
    def window(self) -> Window:
        """Return the ``recorded_at`` window of the audience's document."""
        return self.audience.window(self.business_date)

    @cached_property
    def sending(self) -> pl.DataFrame:
        """Return the portfolios whose data is sent, without removed ones: id, number, extract, history_from."""
        kept = pl.col("change") != Change.REMOVED.value
        return self.consented.filter(kept).select("portfolio_id", NUMBER, "extract", "history_from")

    def rows(self, table: str) -> pl.DataFrame:
        """Return the table's rows of portfolios whose data is sent, with the columns of ``sending``."""
        return self.tables[table].join(self.sending, on="portfolio_id", how="inner")

    def ledger(self, table: str, date: str) -> pl.DataFrame:
        """Return the ledger rows of the audience's document; ``date`` is the column of their business date.

        FULL: rows dated on or after ``history_from`` and recorded before the cut-off. DELTA: of these, the rows
        recorded in the window. Source: design, "What is sent".
        """
        recorded = pl.col("recorded_at")
        first = min(self.window.start, self.late_from or self.window.start)
        start, end = pl.lit(first), pl.lit(self.window.end)
        return self.rows(table).filter(
            recorded < end,
            (pl.col("extract") == "FULL") | (recorded >= start),  # rows of closed windows that landed late included
            pl.col("history_from").is_null() | (pl.col(date) >= pl.col("history_from")),
        )

    def openings(self, table: str) -> pl.DataFrame:
        """Return the balances before the shared history, as summed for this audience."""
        return self.rows(table).filter(pl.col("audience") == self.audience.key)
