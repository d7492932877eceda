"""Identifiers that people and registries check: shapes, and check digits where the scheme has them.

HINs and BSBs have no public check digit, so only their shape can be judged; ABNs and ISINs have one.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from stdnum import isin as stdnum_isin
from stdnum.au import abn as stdnum_abn

HIN = "^X[0-9]{10}$"
BSB = "^[0-9]{3}-[0-9]{3}$"
SECURITY_CODE = "^[A-Z0-9.]{1,12}$"


def abn_is_valid(number: str) -> bool:
    """Eleven digits whose weighted sum is a multiple of 89 (Australian Business Register)."""
    return len(number) == 11 and number.isascii() and number.isdigit() and bool(stdnum_abn.is_valid(number))


def isin_is_valid(number: str) -> bool:
    """Country, nine characters and a check digit (ISO 6166). Capitals only, without blanks, as documents need it."""
    return number == number.strip().upper() and bool(stdnum_isin.is_valid(number))


def fails(values: pl.Series, is_valid: Callable[[str], bool]) -> pl.Series:
    """True where a value is present and not valid. Each distinct value is judged once."""
    wrong = [value for value in values.drop_nulls().unique().to_list() if not is_valid(value)]
    return values.is_in(wrong).fill_null(value=False)
