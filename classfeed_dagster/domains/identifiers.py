"""Validation of identifiers: the form of HINs, BSBs and security codes, and the check digits of ABNs and ISINs."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from stdnum import isin as stdnum_isin
from stdnum.au import abn as stdnum_abn

HIN = "^X[0-9]{10}$"
ISIN = "^[A-Z]{2}[A-Z0-9]{9}[0-9]$"
BSB = "^[0-9]{3}-[0-9]{3}$"
EXCHANGE = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
SECURITY_CODE = "^[A-Z0-9.]{1,12}$"


def abn_is_valid(number: str) -> bool:
    """Return True for eleven digits whose weighted sum is a multiple of 89 (Australian Business Register)."""
    return len(number) == 11 and number.isascii() and number.isdigit() and bool(stdnum_abn.is_valid(number))


def isin_is_valid(number: str) -> bool:
    """Return True for a country, nine characters and a check digit (ISO 6166), in capitals and without blanks."""
    return number == number.strip().upper() and bool(stdnum_isin.is_valid(number))


def fails(values: pl.Series, is_valid: Callable[[str], bool]) -> pl.Series:
    """Return True where a value is present and invalid. Each distinct value is validated once."""
    wrong = [value for value in values.drop_nulls().unique().to_list() if not is_valid(value)]
    return values.is_in(wrong).fill_null(value=False)
