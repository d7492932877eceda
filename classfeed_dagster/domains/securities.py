"""Securities as known on a date: bigsite keeps today's code and name, and a list of changes."""

from __future__ import annotations

import polars as pl

from classfeed_dagster.domains import identifiers
from classfeed_dagster.domains.slice import Tables

_KEY = ["security_id", "_on"]


def with_security(rows: pl.DataFrame, tables: Tables, on: pl.Expr) -> pl.DataFrame:
    """Return ``rows`` (with security_id) with their security's code and name on the date ``on``.

    Adds exchange, security_code, security_name, isin (null if malformed), security_type and security_currency. The
    code on date T is the old code of the earliest change effective after T, else today's code.
    """
    dated = rows.with_columns(on.alias("_on"))
    changes = tables["security_code_change"].sort("effective_on")
    before = (
        dated.select(_KEY)
        .unique()
        .sort("_on")
        .join_asof(
            changes,
            left_on="_on",
            right_on="effective_on",
            by="security_id",
            strategy="forward",
            allow_exact_matches=False,  # on effective_on the security trades under its new code
            check_sortedness=False,  # sorted by date above; Polars cannot check it within groups
        )
        .select(*_KEY, "old_code", "old_name")
    )
    today = tables["security"].select(
        "security_id",
        "exchange",
        "code",
        "name",
        pl.when(pl.col("isin").str.contains(identifiers.ISIN)).then(pl.col("isin")).alias("isin"),
        "security_type",
        pl.col("currency").alias("security_currency"),
    )
    return (
        dated.join(before, on=_KEY, how="left")
        .join(today, on="security_id", how="left")
        .with_columns(
            pl.coalesce("old_code", "code").alias("security_code"),
            pl.coalesce("old_name", "name").alias("security_name"),
        )
        .drop("_on", "old_code", "old_name", "code", "name")
    )


def last_closes(tables: Tables, on: pl.Expr) -> pl.DataFrame:
    """Return each security's last close on or before the date ``on``: security_id, price, price_date."""
    return (
        tables["security_price"]
        .filter(pl.col("price_date") <= on)
        .sort("security_id", "price_date")
        .unique("security_id", keep="last", maintain_order=True)
        .select("security_id", pl.col("close_price").alias("price"), "price_date")
    )
