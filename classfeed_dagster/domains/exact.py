"""Exact arithmetic on decimals: products by scaled 128-bit integers, because Polars' own rounds half to even.

No float anywhere: a decimal's physical value is the integer that its scale divides.
"""

from __future__ import annotations

from decimal import Decimal

import polars as pl

_CENT = pl.lit(Decimal("0.01"), dtype=pl.Decimal(38, 2))
_PRODUCT_TO_CENTS = 10**10  # 6 + 6 decimals down to 2
_MONEY_LIMIT = 10**18  # Decimal(18, 2) holds fewer cents than this


def scaled(column: pl.Expr) -> pl.Expr:
    """A decimal column as the integers that its scale divides: 1.50 of scale 2 is 150. Never overflows."""
    return column.to_physical().cast(pl.Int128)


def money_product(units: pl.Expr, price: pl.Expr) -> pl.Expr:
    """``units`` (6 decimals) x ``price`` (6 decimals), half away from zero to cents; null if it doesn't fit money.

    20 + 18 digits multiply to less than 2**127, so the product itself is always exact.
    """
    product = scaled(units) * scaled(price)
    cents = (product.abs() + _PRODUCT_TO_CENTS // 2) // _PRODUCT_TO_CENTS * product.sign()
    fitting = pl.when(cents.abs() < _MONEY_LIMIT).then(cents).otherwise(None).cast(pl.Int64)
    return (fitting.cast(pl.Decimal(38, 0)) * _CENT).cast(pl.Decimal(18, 2))


def fitting(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """``column`` as ``dtype``, null where it doesn't fit: such rows are found by a rule and never sent."""
    return column.cast(dtype, strict=False)


def total(column: pl.Series) -> Decimal:
    """The exact sum of a decimal column, with the column's own decimals; zero for an empty one."""
    dtype = column.dtype
    scale = dtype.scale if isinstance(dtype, pl.Decimal) else 0
    found = column.cast(pl.Decimal(38, scale)).sum()
    return Decimal(found).quantize(Decimal(1).scaleb(-scale))
