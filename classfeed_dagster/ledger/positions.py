"""Positions: running sums of what was sent, by portfolio, security and cash account. Pure frame arithmetic.

A position of a date is the position of the date before plus the date's records. Records dated later than the date
stay apart, one row a date, until their date. A FULL extract starts the portfolio's positions anew.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from classfeed_dagster.domains.ledger_rows import UNITS_SUM
from classfeed_dagster.ledger.files import (
    CASH_POSITION,
    POSITIONS,
    STATED,
    UNITS_POSITION,
    account_name,
    security_name,
)

_KEY = ["portfolio_id", "kind", "key_id"]
# Columns of a date's positions from which the next date's are computed.
CARRIED = ("portfolio_id", "portfolio_number", "kind", "key_id", "known_as", "counts_on", "sent")


def record_sums(records: pl.DataFrame, day: dt.date) -> pl.DataFrame:
    """Return the sums of ``records`` by position and by the date on which they count."""
    moved = [
        records.filter(pl.col("units").is_not_null()).select(
            "portfolio_id",
            "portfolio_number",
            pl.lit(UNITS_POSITION).alias("kind"),
            pl.col("security_id").alias("key_id"),
            security_name().alias("known_as"),
            "transaction_date",
            pl.col("units").cast(UNITS_SUM).alias("sent"),
        ),
        records.filter(pl.col("amount").is_not_null()).select(
            "portfolio_id",
            "portfolio_number",
            pl.lit(CASH_POSITION).alias("kind"),
            pl.col("cash_account_id").alias("key_id"),
            account_name().alias("known_as"),
            "transaction_date",
            pl.col("amount").cast(UNITS_SUM).alias("sent"),
        ),
    ]
    counts_on = pl.when(pl.col("transaction_date") > day).then(pl.col("transaction_date")).alias("counts_on")
    return _summed(pl.concat(moved).with_columns(counts_on))


def roll_forward(
    previous: pl.DataFrame, records: pl.DataFrame, stated: pl.DataFrame, full: pl.Series, day: dt.date
) -> pl.DataFrame:
    """Return the positions of ``day`` of the portfolios in a delivery.

    ``previous`` are the positions of the date before. ``full`` are the ids of portfolios whose extract is FULL: what
    was sent of them before belongs to an earlier consent. Only portfolios in ``stated`` or ``records`` or carried from
    ``previous`` have rows; the caller passes the previous positions of the delivery's portfolios alone.
    """
    later = pl.when(pl.col("counts_on") > day).then(pl.col("counts_on")).alias("counts_on")
    carried = previous.filter(~pl.col("portfolio_id").is_in(full.implode())).select(CARRIED).with_columns(later)
    # The newest name of a position applies: the one that was sent last.
    sums = _summed(pl.concat([carried, record_sums(records, day)], how="diagonal"))
    statements = STATED.conform(stated).rename({"portfolio_number": "_number", "known_as": "_known_as"})
    settled = sums.filter(pl.col("counts_on").is_null()).join(statements, on=_KEY, how="full", coalesce=True)
    settled = settled.with_columns(
        pl.coalesce("_number", "portfolio_number").alias("portfolio_number"),
        pl.coalesce("_known_as", "known_as").alias("known_as"),
        pl.col("sent").fill_null(pl.lit(0).cast(UNITS_SUM)),
    ).drop("_number", "_known_as")
    dated_later = sums.filter(pl.col("counts_on").is_not_null())
    return POSITIONS.conform(pl.concat([settled, dated_later], how="diagonal"))


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(*_KEY, "counts_on", maintain_order=True).agg(
        pl.col("portfolio_number").last(), pl.col("known_as").last(), pl.col("sent").sum()
    )


def unbalanced(positions: pl.DataFrame) -> pl.DataFrame:
    """Return the positions whose sent records don't add up to what is stated, with the ``difference``.

    What bigsite recorded after the cut-off and before its end-of-day run is stated already and sent in a later
    window: it is not missing. A position with units or cash that no delivery states must be zero. A position whose
    ``unsent`` part is unknown, from a snapshot of an older release, is not judged.
    """
    stated = pl.col("stated").fill_null(pl.lit(0).cast(UNITS_SUM))
    unsent = pl.col("unsent").fill_null(pl.lit(0).cast(UNITS_SUM))
    covered = pl.col("stated").is_null() | pl.col("unsent").is_not_null()
    difference = (stated - unsent - pl.col("sent")).alias("difference")
    return (
        positions.filter(pl.col("counts_on").is_null(), covered)
        .with_columns(difference)
        .filter(pl.col("difference") != 0)
    )
