"""References to ledger rows that the recipient was never sent, by the delivered ledger.

A row dated before the shared history is part of an opening, even if the customer shares an earlier history since. The
history that counts is that of the date that sent the row's window, or of a later extract in full.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import polars as pl

from classfeed_dagster.delivery.sent import SentDate
from classfeed_dagster.domains.columns import INSTANT
from classfeed_dagster.domains.ledger_rows import REFERENCES
from classfeed_dagster.trading_days import Window

_NAMED = {
    "portfolio_id": pl.Int64(),
    "portfolio_number": pl.String(),
    "transaction_id": pl.String(),
    "reference": pl.String(),
    "named": pl.String(),
    "dated": pl.Date(),
    "recorded_at": INSTANT,
}


def uncertain_references(
    records: pl.DataFrame, consented: pl.DataFrame, consents: pl.DataFrame, window: Window, since: dt.datetime | None
) -> pl.DataFrame:
    """Return the references of DELTA portfolios to rows that an earlier date may have sent in an opening only.

    ``since``: begin of the look-back, whose dates decide every reference to their rows. Of older rows the references
    are few: a row recorded since the grant of a consent in force that shares its date was sent as itself. That bigsite
    rewrote such a consent since is not known.
    """
    parts = [
        records.filter(pl.col(name).is_not_null(), pl.col(at) < window.start).select(
            "portfolio_id",
            "portfolio_number",
            "transaction_id",
            pl.lit(name).alias("reference"),
            pl.col(name).alias("named"),
            pl.col(on).alias("dated"),
            pl.col(at).alias("recorded_at"),
        )
        for name, (on, at) in REFERENCES.items()
        if {on, at} <= set(records.columns)
    ]
    delta = consented.filter(pl.col("extract") == "DELTA")
    earlier = pl.concat([pl.DataFrame(schema=_NAMED), *parts]).join(delta, on="portfolio_id", how="semi")
    named_here = records.select("portfolio_id", pl.col("transaction_id").alias("named"))
    earlier = earlier.join(named_here, on=("portfolio_id", "named"), how="anti")
    in_force = delta.select("portfolio_id", pl.col("consent_ids").alias("consent_id")).explode("consent_id")
    grants = in_force.join(consents.select("consent_id", "history_from", "granted_at"), on="consent_id")
    shares = pl.col("history_from").is_null() | (pl.col("history_from") <= pl.col("dated"))
    granted = (pl.col("granted_at") <= pl.col("recorded_at")) & (pl.col("recorded_at") < (since or window.start))
    certain = earlier.join(grants, on="portfolio_id").filter(shares, granted)
    return earlier.join(certain, on=("portfolio_id", "named"), how="anti")


def unsent_references(references: pl.DataFrame, dates: Iterable[tuple[SentDate, dt.datetime]]) -> pl.DataFrame:
    """Return those of ``references`` whose row no document has.

    ``dates``: the earlier dates, the latest first, each with the start of its window. They are read as far back as
    necessary. A reference is kept if a delivery has no ledger that would decide it.
    """
    unsent = [references.clear()]
    for date, start in dates:
        if references.is_empty() or (date.ledgers and not date.complete):
            break
        of_portfolios = pl.col("portfolio_id").is_in(references["portfolio_id"].unique().implode())
        with_data = of_portfolios & (pl.col("change") != "REMOVED")
        sent = date.frame("portfolios", ["portfolio_id", "extract", "history_from"], with_data)
        placed = references.join(sent, on="portfolio_id", how="left")
        counts = (pl.col("extract") == "FULL") | (pl.col("recorded_at") >= start)
        decided = (pl.col("extract").is_not_null() & counts).fill_null(value=False)
        unsent.append(placed.filter(decided, pl.col("dated") < pl.col("history_from")).select(references.columns))
        references = placed.filter(~decided).select(references.columns)
    return pl.concat(unsent)
