"""Income and corporate actions that reach some holders of a security and not others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from classfeed_dagster.bigsite.landing import empty_tables
from classfeed_dagster.domains.holder_events import PROPORTIONAL, missed_actions, silent_zeros

EX, PAID = dt.date(2026, 2, 20), dt.date(2026, 3, 2)
START = dt.datetime(2026, 3, 1, 13, tzinfo=dt.UTC)
IN_WINDOW, BEFORE = START + dt.timedelta(hours=1), START - dt.timedelta(days=30)


def rows(table: str, *values: Mapping[str, Any]) -> pl.DataFrame:
    """Return rows of a landed table; columns that are not given are null."""
    schema = empty_tables()[table].schema
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in values], schema=schema)


def payment(portfolio: int, units: str, amount: str | None, **values: Any) -> dict[str, Any]:
    amounts = {name: None if amount is None else Decimal(amount) for name in PROPORTIONAL}
    return {
        "portfolio_id": portfolio, "income_id": 100 + portfolio, "security_id": 7, "income_type": "DIVIDEND",
        "ex_date": EX, "payment_date": PAID, "units_held": Decimal(units), **amounts, **values,
    }  # fmt: skip


def four_paid(*more: dict[str, Any]) -> pl.DataFrame:
    return rows("income", *(payment(holder, "100", "50.00") for holder in (1, 2, 3, 4)), *more)


@pytest.mark.parametrize("absent", ["0.00", None])
def test_silent_zeros_one_holder_without_an_amount_is_found(absent: str | None) -> None:
    value = None if absent is None else Decimal(absent)
    result = silent_zeros(four_paid(payment(5, "10", "5.00", franking_credit=value)))
    assert result.rows() == [(5, 7, PAID, "I105", "franking_credit is zero or absent; 4 other holders have it")]


def test_silent_zeros_values_that_may_be_zero_are_not_found() -> None:
    assert silent_zeros(four_paid()).is_empty()
    # So few units that the amount rounds to nothing.
    assert silent_zeros(four_paid(payment(5, "0.05", "0.01", franking_credit=Decimal(0)))).is_empty()
    # Unfranked for all holders, or for a quarter or more.
    unfranked = [payment(holder, "10", "5.00", franking_credit=Decimal(0)) for holder in (5, 6)]
    assert silent_zeros(four_paid(*unfranked)).is_empty()
    # Two others give no basis; another payment is another event; a reversal is not a payment.
    few = [payment(1, "100", "50.00"), payment(2, "100", "50.00"), payment(3, "100", "0.00")]
    assert silent_zeros(rows("income", *few)).is_empty()
    assert silent_zeros(four_paid(payment(5, "10", "0.00", payment_date=EX))).is_empty()
    assert silent_zeros(four_paid(payment(5, "10", "0.00", reverses_income_id=9))).is_empty()


def action(portfolio: int, kind: str = "SPLIT", recorded: dt.datetime = IN_WINDOW, **values: Any) -> dict[str, Any]:
    return {
        "portfolio_id": portfolio, "security_movement_id": portfolio, "security_id": 7, "movement_type": kind,
        "effective_date": PAID, "units_change": Decimal(100), "recorded_at": recorded, **values,
    }  # fmt: skip


def holding(portfolio: int, units: str) -> dict[str, Any]:
    return {"portfolio_id": portfolio, "security_id": 7, "units": Decimal(units)}


def bought(portfolio: int, units: str, side: str = "BUY") -> dict[str, Any]:
    return {
        "portfolio_id": portfolio, "trade_id": portfolio, "security_id": 7, "side": side, "units": Decimal(units),
        "recorded_at": IN_WINDOW,
    }  # fmt: skip


def slices(*parts: Mapping[str, Iterable[Mapping[str, Any]]]) -> Any:
    names = ("holding_eod", "trade", "security_movement")
    frames = [{name: rows(name, *part.get(name, ())) for name in names} for part in parts]
    return lambda: iter(frames)


def test_missed_actions_holder_in_another_slice_is_found() -> None:
    split = {
        "security_movement": [action(holder) for holder in (1, 2, 3)],
        "holding_eod": [holding(holder, "200") for holder in (1, 2, 3)],
    }
    row = missed_actions(slices(split, {"holding_eod": [holding(4, "100")]}), START)
    assert row.rows() == [(4, 7, PAID, "SPLIT", "no SPLIT although 3 other holders have it")]


def test_missed_actions_holders_without_units_before_are_not_found() -> None:
    split = {
        "security_movement": [action(holder) for holder in (1, 2, 3)],
        "holding_eod": [*(holding(holder, "200") for holder in (1, 2, 3)), holding(4, "100"), holding(5, "0")],
        "trade": [bought(4, "100")],
    }
    assert missed_actions(slices(split), START).is_empty()
    sold = {**split, "trade": [bought(4, "100"), bought(5, "40", side="SELL")]}
    assert missed_actions(slices(sold), START)["portfolio_id"].to_list() == [5]


def test_missed_actions_events_of_single_holders_are_not_found() -> None:
    others = {"holding_eod": [holding(holder, "200") for holder in (1, 2, 3, 4)]}
    plans = {**others, "security_movement": [action(holder, "DRP") for holder in (1, 2, 3)]}
    earlier = {**others, "security_movement": [action(holder, recorded=BEFORE) for holder in (1, 2, 3)]}
    two = {**others, "security_movement": [action(holder) for holder in (1, 2)]}
    undone = {
        **others,
        "security_movement": [action(holder, reverses_security_movement_id=8) for holder in (1, 2, 3)],
    }
    for part in (plans, earlier, two, undone):
        assert missed_actions(slices(part), START).is_empty()
    assert missed_actions(slices(), START).is_empty()
