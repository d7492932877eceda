"""The ``account_balances`` domain: each cash account's balance as at the business date, from bigsite's end of day."""

from __future__ import annotations

import polars as pl

from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, MONEY
from classfeed_dagster.domains.ledger_rows import LEDGER_BALANCES, complete, landed_since
from classfeed_dagster.domains.slice import Slice

ACCOUNT_KEY = ("portfolio_id", "cash_account_id")


def end_of_day_cash(part: Slice) -> pl.DataFrame:
    """Return the landed balances with their ``state``.

    STATED: bigsite's end of day has the account. MISSING: the account is open, but bigsite's end of day lacks it.
    CLOSED: the account is closed and its ledger sums to zero, so its balance is zero. LATER: the account was opened
    after the date and is not sent. ASTRAY: the ledger holds cash although the account is closed or not open yet.
    """
    stated, opened = pl.col("updated_at").is_not_null(), pl.col("opened_by_date")
    empty = pl.col("ledger_cash") == 0
    return part.rows("cash_balance_eod").with_columns(
        pl.when(~opened & ~empty)
        .then(pl.lit("ASTRAY"))
        .when(~opened)
        .then(pl.lit("LATER"))
        .when(stated)
        .then(pl.lit("STATED"))
        .when(pl.col("open_on_date"))
        .then(pl.lit("MISSING"))
        .when(empty)
        .then(pl.lit("CLOSED"))
        .otherwise(pl.lit("ASTRAY"))
        .alias("state")
    )


def account_balances(part: Slice) -> dict[str, pl.DataFrame]:
    """Return ACCOUNT_BALANCES, as bigsite states them and 0.00 for accounts closed empty, and LEDGER_BALANCES."""
    accounts = part.tables["cash_account"].select(*ACCOUNT_KEY, "bsb", "account_number", "currency")
    zero = pl.lit(0).cast(MONEY)
    balances = (
        end_of_day_cash(part)
        .filter(pl.col("state").is_in(["STATED", "CLOSED"]))
        .join(accounts, on=ACCOUNT_KEY, how="inner")
        .with_columns(
            pl.lit(part.business_date).alias("as_at_date"),
            pl.col("ledger_balance").fill_null(zero),
            pl.col("available_balance").fill_null(zero),
        )
    )
    stated = balances.with_columns(
        pl.col("ledger_balance").alias("stated"), landed_since(balances, "later_cash").alias("unsent")
    )
    return {
        ACCOUNT_BALANCES.name: ACCOUNT_BALANCES.conform(balances),
        LEDGER_BALANCES.name: complete(LEDGER_BALANCES, stated),
    }
