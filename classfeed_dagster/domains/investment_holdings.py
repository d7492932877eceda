"""The ``investment_holdings`` domain: each portfolio's holdings as at the business date, valued at the last close."""

from __future__ import annotations

import polars as pl

from classfeed_dagster.domains.columns import INVESTMENT_HOLDINGS, UNITS
from classfeed_dagster.domains.exact import fitting, money_product
from classfeed_dagster.domains.ledger_rows import LEDGER_HOLDINGS, complete, landed_since
from classfeed_dagster.domains.securities import last_closes, with_security
from classfeed_dagster.domains.slice import Slice

ON_A_HIN = "ASX"  # only CHESS holdings are registered under a HIN


def end_of_day_holdings(part: Slice) -> pl.DataFrame:
    """Return the landed holdings with security, last close, settled units and market value on the business date.

    Holdings that bigsite's end of day lacks are included, with null ``units``. ``settled_units`` and
    ``market_value`` are null where they have more digits than the document's numbers.
    """
    today = pl.lit(part.business_date)
    return (
        with_security(part.rows("holding_eod"), part.tables, today)
        .join(last_closes(part.tables, today), on="security_id", how="left")
        .with_columns(
            fitting(pl.col("units").cast(pl.Decimal(38, 6)) - pl.col("unsettled_units"), UNITS).alias("settled_units"),
            money_product(pl.col("units"), pl.col("price")).alias("market_value"),
        )
    )


def unvaluable() -> pl.Expr:
    """Return an expression that is true for a stated holding with a figure too large for the document."""
    too_large = pl.col("settled_units").is_null() | (pl.col("market_value").is_null() & pl.col("price").is_not_null())
    return pl.col("units").is_not_null() & too_large


def undone() -> pl.Expr:
    """Return an expression that is true for a holding without a row that later corrections undid altogether."""
    later = pl.col("ledger_units") + pl.col("later_units")
    return pl.col("units").is_null() & (later == 0).fill_null(False)


def investment_holdings(part: Slice) -> dict[str, pl.DataFrame]:
    """Return INVESTMENT_HOLDINGS, the stated ones including those that fell to zero today, and LEDGER_HOLDINGS."""
    hins = part.tables["portfolio"].select("portfolio_id", "hin")
    every = end_of_day_holdings(part)
    holdings = (
        every.filter(pl.col("units").is_not_null() & ~unvaluable())
        .join(hins, on="portfolio_id", how="left")
        .with_columns(
            pl.when(pl.col("exchange") == ON_A_HIN).then("hin").alias("hin"),
            pl.lit(part.business_date).alias("as_at_date"),
            pl.col("security_currency").alias("currency"),
        )
    )
    stated = holdings.with_columns(
        pl.col("units").alias("stated"), landed_since(holdings, "later_units").alias("unsent")
    )
    if "later_units" in every.columns:
        nothing = pl.lit(0).cast(UNITS).alias("stated")
        gone = every.filter(undone()).with_columns(nothing, pl.col("later_units").alias("unsent"))
        stated = pl.concat([stated, gone], how="diagonal_relaxed")
    return {
        INVESTMENT_HOLDINGS.name: INVESTMENT_HOLDINGS.conform(holdings),
        LEDGER_HOLDINGS.name: complete(LEDGER_HOLDINGS, stated),
    }
