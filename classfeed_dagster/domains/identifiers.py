"""Validation of identifiers: the form of HINs, BSBs and security codes, and the check digits of ABNs and ISINs."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl
from stdnum import isin as stdnum_isin

HIN = "^X[0-9]{10}$"
ISIN = "^[A-Z]{2}[A-Z0-9]{9}[0-9]$"
BSB = "^[0-9]{3}-[0-9]{3}$"
EXCHANGE = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
SECURITY_CODE = "^[A-Z0-9.]{1,12}$"
_ABN = re.compile("[1-9][0-9]{10}")
_ABN_WEIGHTS = (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)


def abn_is_valid(number: str) -> bool:
    """Return True for eleven digits, the first not 0, whose weighted sum less 10 is a multiple of 89.

    As the Australian Business Register publishes it. ``stdnum`` refuses every number that begins with 10.
    """
    if _ABN.fullmatch(number) is None:
        return False
    return (sum(weight * int(digit) for weight, digit in zip(_ABN_WEIGHTS, number, strict=True)) - 10) % 89 == 0


def isin_is_valid(number: str) -> bool:
    """Return True for a country, nine characters and a check digit (ISO 6166), in capitals and without blanks."""
    return number == number.strip().upper() and bool(stdnum_isin.is_valid(number))


def fails(values: pl.Series, is_valid: Callable[[str], bool]) -> pl.Series:
    """Return True where a value is present and invalid. Each distinct value is validated once."""
    wrong = [value for value in values.drop_nulls().unique().to_list() if not is_valid(value)]
    return values.is_in(wrong).fill_null(value=False)
