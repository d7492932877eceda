"""The recipient's side of a rehearsal: load the deliveries as Class does, and add them up.

Class loads each portfolio's movements, replaces the content of a re-issued business date, restarts from a FULL extract
and deletes a removed portfolio. It compares the sum of the loaded movements with the stated balance. This module
repeats that arithmetic, so that a rehearsal proves the central invariant from delivered bytes only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

_SUM = pl.Decimal(38, 6)
# Income has the units on which it was paid, which do not move.
_INCOME_TYPES = ("DIVIDEND", "DISTRIBUTION", "INTEREST_INCOME")
_SECURITY = pl.coalesce(pl.col("isin"), pl.col("security_code"))  # a code may change, an ISIN stays


@dataclass(frozen=True, slots=True)
class DeliveredPage:
    """One delivered page, in the order of delivery, as frames by name (see the domains' declarations)."""

    business_date: dt.date
    revision: int
    frames: Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Books:
    """Recipient's view at one date: units and cash summed from movements, and the balances stated to it.

    ``units``: portfolio_number, exchange, security, loaded, stated. ``cash``: portfolio_number, account_number,
    currency, loaded, stated. A side that is absent is zero.
    """

    as_at: dt.date
    units: pl.DataFrame
    cash: pl.DataFrame

    @property
    def portfolios(self) -> list[str]:
        """Return every portfolio with loaded or stated content, ordered."""
        numbers = pl.concat([self.units["portfolio_number"], self.cash["portfolio_number"]])
        return numbers.unique().sort().to_list()

    def unbalanced(self) -> pl.DataFrame:
        """Return rows where loaded and stated differ: portfolio_number, kind, subject, loaded, stated."""
        units = self.units.select(
            "portfolio_number", pl.lit("units").alias("kind"), pl.col("security").alias("subject"), "loaded", "stated"
        )
        cash = self.cash.select(
            "portfolio_number", pl.lit("cash").alias("kind"), pl.col("currency").alias("subject"), "loaded", "stated"
        )
        return pl.concat([units, cash]).filter(pl.col("loaded") != pl.col("stated"))


def load(pages: Iterable[DeliveredPage], as_at: dt.date) -> Books:
    """Return the recipient's books as at ``as_at`` after loading ``pages`` in order.

    Movements count by their transaction date, on or before ``as_at``. Holdings and balances are those of the latest
    revision of the portfolio that states them for ``as_at``.
    """
    accounts: list[pl.DataFrame] = []
    parts: dict[str, list[pl.DataFrame]] = {
        "movement_transactions": [],
        "investment_holdings": [],
        "account_balances": [],
    }
    for order, page in enumerate(pages):
        stamp = (pl.lit(page.business_date).alias("business_date"), pl.lit(order).alias("order"))
        accounts.append(page.frames["accounts"].select("portfolio_number", "consent", "extract", *stamp))
        for name, frames in parts.items():
            frames.append(page.frames[name].with_columns(*stamp))
    if not accounts:
        raise ValueError("nothing was delivered, so there is nothing to add up")
    counted = _counted(pl.concat(accounts))

    def current(name: str) -> pl.DataFrame:
        return pl.concat(parts[name]).join(counted, on=["portfolio_number", "business_date", "order"], how="semi")

    movements = current("movement_transactions").filter(pl.col("transaction_date") <= as_at)
    holdings = current("investment_holdings").filter(pl.col("as_at_date") == as_at)
    balances = current("account_balances").filter(pl.col("as_at_date") == as_at)
    return Books(as_at, _units(movements, holdings), _cash(movements, balances))


def _counted(accounts: pl.DataFrame) -> pl.DataFrame:
    # The current (portfolio, business date) contents: the latest revision of each, from the last FULL extract on,
    # unless the portfolio was removed after it.
    latest = accounts.sort("order").unique(["portfolio_number", "business_date"], keep="last", maintain_order=True)
    full = (
        latest.filter(pl.col("extract") == "FULL")
        .group_by("portfolio_number")
        .agg(pl.col("business_date").max().alias("full_date"))
    )
    removed = (
        latest.filter(pl.col("consent") == "REMOVED")
        .group_by("portfolio_number")
        .agg(pl.col("business_date").max().alias("removed_date"))
    )
    return (
        latest.join(full, on="portfolio_number", how="left")
        .join(removed, on="portfolio_number", how="left")
        .filter(pl.col("business_date") >= pl.col("full_date"))
        .filter(pl.col("removed_date").is_null() | (pl.col("removed_date") < pl.col("full_date")))
        .select("portfolio_number", "business_date", "order")
    )


def _units(movements: pl.DataFrame, holdings: pl.DataFrame) -> pl.DataFrame:
    key = ["portfolio_number", "exchange", "security"]
    loaded = (
        movements.filter(pl.col("units").is_not_null() & ~pl.col("transaction_type").is_in(_INCOME_TYPES))
        .with_columns(_SECURITY.alias("security"))
        .group_by(key)
        .agg(pl.col("units").cast(_SUM).sum().alias("loaded"))
    )
    stated = (
        holdings.with_columns(_SECURITY.alias("security"))
        .group_by(key)
        .agg(pl.col("units").cast(_SUM).sum().alias("stated"))
    )
    return _side_by_side(loaded, stated, key)


def _cash(movements: pl.DataFrame, balances: pl.DataFrame) -> pl.DataFrame:
    key = ["portfolio_number", "account_number", "currency"]
    loaded = (
        movements.filter(pl.col("amount").is_not_null())
        .group_by(key)
        .agg(pl.col("amount").cast(_SUM).sum().alias("loaded"))
    )
    stated = balances.group_by(key).agg(pl.col("ledger_balance").cast(_SUM).sum().alias("stated"))
    return _side_by_side(loaded, stated, key)


def _side_by_side(loaded: pl.DataFrame, stated: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    zero = pl.lit("0.000000").cast(_SUM)
    return (
        loaded.join(stated, on=key, how="full", coalesce=True)
        .with_columns(pl.col("loaded").fill_null(zero), pl.col("stated").fill_null(zero))
        .sort(key)
    )
