"""Identities: under which numbers a portfolio or cash account was sent, and where a new number contradicts them."""

from __future__ import annotations

import datetime as dt

import polars as pl

from classfeed_dagster.ledger.files import CASH_POSITION, IDENTITIES

PORTFOLIO, ACCOUNT = "PORTFOLIO", "ACCOUNT"
_KEY = ["kind", "key_id", "known_as"]


def identities_of(portfolios: pl.DataFrame, stated: pl.DataFrame, day: dt.date) -> pl.DataFrame:
    """Return the identities in a delivery: of its portfolios, announced removals aside, and of their accounts."""
    rows = [
        portfolios.filter(pl.col("change") != "REMOVED").select(
            pl.lit(PORTFOLIO).alias("kind"),
            pl.col("portfolio_id").alias("key_id"),
            "portfolio_id",
            pl.col("portfolio_number").alias("known_as"),
        ),
        stated.filter(pl.col("kind") == CASH_POSITION).select(
            pl.lit(ACCOUNT).alias("kind"), "key_id", "portfolio_id", "known_as"
        ),
    ]
    return IDENTITIES.conform(pl.concat(rows).with_columns(pl.lit(day).alias("first_sent_on")))


def merge_identities(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Return ``before`` and what ``now`` adds to it."""
    added = now.join(before, on=_KEY, how="anti")
    return IDENTITIES.conform(pl.concat([before, added]).unique(_KEY, keep="first", maintain_order=True))


def contradictions(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of ``now`` that contradict ``before``, with ``was`` and ``conflict``.

    ``conflict`` is CHANGED where the same key was last sent under another number, ``was``, and REUSED where the number
    was sent for another key. An account's BSB may be added where none was sent.
    """
    last = before.sort("first_sent_on", maintain_order=True).unique(["kind", "key_id"], keep="last")
    changed = (
        now.join(last.select("kind", "key_id", pl.col("known_as").alias("was")), on=["kind", "key_id"], how="inner")
        .filter(~_same(pl.col("was"), pl.col("known_as")))
        .with_columns(pl.lit("CHANGED").alias("conflict"))
    )
    others = before.select("kind", "known_as", pl.col("key_id").alias("_other")).unique()
    reused = (
        now.join(others, on=["kind", "known_as"], how="inner")
        .filter(pl.col("_other") != pl.col("key_id"))
        .with_columns(pl.col("known_as").alias("was"), pl.lit("REUSED").alias("conflict"))
        .drop("_other")
        .unique()
    )
    return pl.concat([changed, reused], how="diagonal").sort("kind", "key_id", "conflict")


def _same(was: pl.Expr, known_as: pl.Expr) -> pl.Expr:
    # "/number/currency" was sent without a BSB.
    without_bsb = was.str.starts_with("/") & known_as.str.ends_with(was)
    return (was == known_as) | without_bsb
