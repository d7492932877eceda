"""Events that should reach every holder of a security alike: income by unit, and corporate actions.

A fault in one portfolio's row may break no rule of one portfolio. A franking credit of 0.00 is a valid amount, and a
split that was never recorded has no row. Compared with the other holders both are visible. The functions read landed
rows and hold nothing back.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping

import polars as pl

# Amounts that are in proportion to the units held. Withholding tax depends on the holder.
PROPORTIONAL = ("gross_amount", "franked_amount", "unfranked_amount", "franking_credit")
# Movements that a company decides for all holders. Plans that a holder joins, and transfers, are not among them.
CORPORATE_ACTIONS = ("SPLIT", "CONSOLIDATION", "BONUS_ISSUE", "MERGER_OUT", "RETURN_OF_CAPITAL", "DELISTING")
FEWEST_OTHERS = 3  # holders with the value or movement; fewer give no basis
_SMALLEST = "0.05"  # an expected amount below it may be zero by rounding

TABLES = ("holding_eod", "trade", "security_movement", "income")
UNEVEN_SCHEMA = {
    "portfolio_id": pl.Int64(),
    "security_id": pl.Int64(),
    "on": pl.Date(),
    "subject": pl.String(),
    "detail": pl.String(),
}
Slices = Callable[[], Iterable[Mapping[str, pl.DataFrame]]]


def silent_zeros(income: pl.DataFrame) -> pl.DataFrame:
    """Return amounts of ``income`` that are zero or null although every other holder's payment has them.

    Rows are compared by security, income type, ex-date and payment date. A zero counts if at least FEWEST_OTHERS other
    holders, and three quarters of all, have an amount that by unit gives this holder five cents or more. Reversals are
    left out. Frame: portfolio_id, security_id, on (payment date), subject, detail.
    """
    event = ["security_id", "income_type", "ex_date", "payment_date"]
    rows = income.filter(pl.col("reverses_income_id").is_null(), pl.col("units_held") > 0)
    parts = [pl.DataFrame(schema=UNEVEN_SCHEMA)]
    for name in PROPORTIONAL:
        amount = pl.col(name).fill_null(0)
        paid = amount != 0
        wide = pl.Decimal(38, 6)
        expected = pl.col("others_amount") * pl.col("units_held").cast(wide)
        least = pl.lit(_SMALLEST).str.to_decimal(scale=2).cast(wide) * pl.col("others_units")
        zeros = (
            rows.with_columns(
                pl.when(paid).then(amount.cast(wide)).sum().over(event).alias("others_amount"),
                pl.when(paid).then(pl.col("units_held").cast(wide)).sum().over(event).alias("others_units"),
                paid.sum().over(event).alias("with_amount"),
                pl.len().over(event).alias("holders"),
            )
            .filter(
                ~paid,
                pl.col("with_amount") >= FEWEST_OTHERS,
                pl.col("with_amount") * 4 >= pl.col("holders") * 3,
            )
            .filter(expected.abs() >= least)
        )
        detail = pl.format(f"{name} is zero or absent; {{}} other holders have it", "with_amount")
        parts.append(_uneven(zeros, "payment_date", pl.format("I{}", "income_id"), detail))
    return pl.concat(parts).sort("security_id", "portfolio_id", "subject", "detail")


def missed_actions(slices: Slices, window_start: dt.datetime) -> pl.DataFrame:
    """Return holders without a corporate action that bigsite recorded for other holders in the date's window.

    ``slices`` opens the landed slices anew on each call; ``window_start`` is UTC. A holder counts if it held units
    before the window: the units at the end of day less what the window's rows moved. Frame as for ``silent_zeros``.
    """
    actions = pl.concat(
        [
            part["security_movement"]
            .filter(
                pl.col("recorded_at") >= window_start,
                pl.col("movement_type").is_in(CORPORATE_ACTIONS),
                pl.col("reverses_security_movement_id").is_null(),
            )
            .select("portfolio_id", "security_id", "movement_type", "effective_date")
            for part in slices()
        ]
        or [pl.DataFrame(schema=_ACTION_SCHEMA)]
    )
    event = ["security_id", "movement_type", "effective_date"]
    touched = (
        actions.group_by(event)
        .agg(pl.col("portfolio_id").n_unique().alias("holders"))
        .filter(pl.col("holders") >= FEWEST_OTHERS)
    )
    parts = [pl.DataFrame(schema=UNEVEN_SCHEMA)]
    if touched.is_empty():
        return parts[0]
    for part in slices():
        held = _held_before(part, touched["security_id"].unique(), window_start)
        missed = held.join(touched, on="security_id").join(actions, on=["portfolio_id", *event], how="anti")
        detail = pl.format("no {} although {} other holders have it", "movement_type", "holders")
        parts.append(_uneven(missed, "effective_date", pl.col("movement_type"), detail))
    return pl.concat(parts).sort("security_id", "portfolio_id", "subject")


_ACTION_SCHEMA = {
    "portfolio_id": pl.Int64(),
    "security_id": pl.Int64(),
    "movement_type": pl.String(),
    "effective_date": pl.Date(),
}


def _held_before(tables: Mapping[str, pl.DataFrame], securities: pl.Series, start: dt.datetime) -> pl.DataFrame:
    # Returns the holders of ``securities`` with units before ``start``: portfolio_id, security_id.
    key = ["portfolio_id", "security_id"]
    wide = pl.Decimal(38, 6)

    def of_window(frame: pl.DataFrame, units: pl.Expr) -> pl.DataFrame:
        rows = frame.filter(pl.col("security_id").is_in(securities.implode()), pl.col("recorded_at") >= start)
        return rows.select(*key, units.cast(wide).alias("moved"))

    bought = pl.when(pl.col("side") == "BUY").then(pl.col("units")).otherwise(-pl.col("units"))
    moved = pl.concat(
        [
            of_window(tables["trade"], bought),
            of_window(tables["security_movement"], pl.col("units_change")),
        ]
    )
    stated = tables["holding_eod"].filter(pl.col("security_id").is_in(securities.implode()))
    balance = pl.concat(
        [stated.select(*key, pl.col("units").cast(wide)), moved.select(*key, (-pl.col("moved")).alias("units"))]
    )
    return balance.group_by(key).agg(pl.col("units").sum()).filter(pl.col("units") > 0).select(key)


def _uneven(rows: pl.DataFrame, on: str, subject: pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    return rows.select(
        "portfolio_id", "security_id", pl.col(on).alias("on"), subject.alias("subject"), detail.alias("detail")
    )
