"""Exact arithmetic: the market value against Python's decimal, at any size the types allow."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from classfeed_dagster.domains.columns import MONEY, PRICE, UNITS
from classfeed_dagster.domains.exact import fitting, money_product, total

_WIDE = Context(prec=60)
_LARGEST = Decimal("9999999999999999.99")

units = st.decimals(-(10**14) + 1, 10**14 - 1, places=6)
prices = st.decimals(0, 10**12 - 1, places=6)


def _product(pairs: list[tuple[Decimal | None, Decimal | None]]) -> list[Decimal | None]:
    frame = pl.DataFrame(pairs, schema={"units": UNITS, "price": PRICE}, orient="row")
    value = frame.select(money_product(pl.col("units"), pl.col("price")).alias("value"))["value"]
    assert value.dtype == MONEY
    return value.to_list()


@settings(deadline=None)
@given(units, prices)
@example(Decimal("1.5"), Decimal("0.03"))  # 0.045: half to even would say 0.04
@example(Decimal("-1.5"), Decimal("0.03"))
@example(Decimal("99999999999999.999999"), Decimal("999999999999.999999"))
@example(Decimal("-99999999999999.999999"), Decimal("999999999999.999999"))
@example(Decimal("99999999999999.999900"), Decimal(100))  # the largest money there is
@example(Decimal("99999999999999.999950"), Decimal(100))  # and half a cent more
@example(Decimal("-0.000001"), Decimal("0.000001"))
def test_market_value_rounds_half_away_from_zero(units: Decimal, price: Decimal) -> None:
    exact = _WIDE.multiply(units, price).quantize(Decimal("0.01"), ROUND_HALF_UP, _WIDE)  # half up: away from zero
    expected = exact if abs(exact) <= _LARGEST else None
    assert _product([(units, price)]) == [expected]


def test_market_value_of_null_is_null() -> None:
    assert _product([(None, Decimal(1)), (Decimal(1), None), (Decimal(0), Decimal(5))]) == [None, None, Decimal("0.00")]


@settings(deadline=None)
@given(st.lists(st.decimals(-(10**15), 10**15, places=2), max_size=30))
def test_total_is_the_exact_sum(values: list[Decimal]) -> None:
    assert total(pl.Series(values, dtype=MONEY)) == sum(values, Decimal("0.00"))


def test_total_keeps_the_decimals_of_its_column() -> None:
    assert str(total(pl.Series([], dtype=UNITS))) == "0.000000"
    assert str(total(pl.Series([Decimal("1.5")], dtype=MONEY))) == "1.50"


def test_number_that_does_not_fit_is_null() -> None:
    wide = pl.DataFrame({"sum": [Decimal(10) ** 15, Decimal(10) ** 17]}, schema={"sum": pl.Decimal(38, 2)})
    assert wide.select(fitting(pl.col("sum"), MONEY))["sum"].to_list() == [Decimal(10) ** 15, None]
