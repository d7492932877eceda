"""Exact decimal arithmetic: products of scaled 128-bit integers, since Polars' own products round half to even.

No value is ever a float. A decimal's physical value is an integer: the value times ten to the power of its scale.
"""

from __future__ import annotations

from decimal import Decimal

import polars as pl

_CENT = Decimal("0.01")
_PRODUCT_TO_CENTS = 10**10  # 6 + 6 decimals down to 2
_MONEY_LIMIT = 10**18  # Decimal(18, 2) holds fewer cents than this


def scaled(column: pl.Expr) -> pl.Expr:
    """Return a decimal column as scaled integers: 1.50 of scale 2 is 150. Never overflows."""
    return column.to_physical().cast(pl.Int128)


def money_product(units: pl.Expr, price: pl.Expr) -> pl.Expr:
    """Return ``units`` (6 decimals) x ``price`` (6 decimals), rounded half away from zero to cents; null on overflow.

    The product of 20 and 18 digits is less than 2**127, so it is always exact.
    """
    product = scaled(units) * scaled(price)
    cents = (product.abs() + _PRODUCT_TO_CENTS // 2) // _PRODUCT_TO_CENTS * product.sign()
    fitting = pl.when(cents.abs() < _MONEY_LIMIT).then(cents).otherwise(None).cast(pl.Int64)
    return (fitting.cast(pl.Decimal(38, 0)) * pl.lit(_CENT, dtype=pl.Decimal(38, 2))).cast(pl.Decimal(18, 2))


def fitting(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return ``column`` as ``dtype``, null where a value does not fit. A rule holds such portfolios back."""
    return column.cast(dtype, strict=False)


def total(column: pl.Series) -> Decimal:
    """Return the exact sum of a decimal column, with the column's own decimals; zero for an empty column."""
    dtype = column.dtype
    scale = dtype.scale if isinstance(dtype, pl.Decimal) else 0
    summed = column.cast(pl.Decimal(38, scale)).sum()
    return Decimal(summed).quantize(Decimal(1).scaleb(-scale))
