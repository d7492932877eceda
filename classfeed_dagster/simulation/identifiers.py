"""Identifiers that are valid but never issued: correct check digits in unused ranges.

Numbers of a kind differ for different ``number``; the tests validate them with ``python-stdnum``.
"""

from __future__ import annotations

import datetime as dt

from classfeed_dagster.errors import ConfigurationError

ID_BASE = 9_000_000_000_000_000
"""Least key that the simulation writes: far above any key that bigsite assigns."""

PORTFOLIO_PREFIX = "SW99"

LEDGER_ROWS_A_DAY = 700
_FIRST_DAY = dt.date(2010, 1, 1)

_ABN_WEIGHTS = (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)


class NumberOutOfRangeError(ConfigurationError):
    """A kind of identifier needs more numbers than its reserved range has."""

    def __init__(self, kind: str, number: int, limit: int) -> None:
        super().__init__(f"{kind} number {number} is outside the reserved range 0 to {limit - 1}: simulate fewer")


def _within(kind: str, number: int, limit: int) -> int:
    if not 0 <= number < limit:
        raise NumberOutOfRangeError(kind, number, limit)
    return number


def portfolio_number(number: int) -> str:
    """Return ``SW99`` and six digits, the range of simulated portfolios."""
    return f"{PORTFOLIO_PREFIX}{_within('portfolio', number, 10**6):06d}"


def ledger_id(number: int, day: dt.date, count: int) -> int:
    """Return the key of portfolio ``number``'s ``count``-th (from 1) ledger row on ``day``: unique, below 2**53."""
    offset = _within("ledger row", count, LEDGER_ROWS_A_DAY) + _within("portfolio", number, 10**6) * LEDGER_ROWS_A_DAY
    return ID_BASE + (day - _FIRST_DAY).days * LEDGER_ROWS_A_DAY * 10**6 + offset


def abn(number: int) -> str:
    """Return a valid ABN whose nine-digit body starts with 99, a range without company numbers.

    Rule: subtract 1 from the first digit, weight with 10, 1, 3 ... 19; the sum is a multiple of 89.
    """
    body = f"99{_within('ABN', number, 10**7):07d}"
    weighed = sum(weight * int(digit) for weight, digit in zip(_ABN_WEIGHTS[2:], body, strict=True))
    # The two leading digits ab contribute 10(a - 1) + b = ab - 10, which must cancel the rest modulo 89.
    lead = 11 + (-weighed - 1) % 89
    return f"{lead}{body}"


def isin(country: str, number: int) -> str:
    """Return an ISIN of ``country`` (two letters) from the invented series 9ZZ, with its check digit."""
    stem = f"{country}9ZZ{_within('ISIN', number, 10**6):06d}"
    digits = "".join(str(int(character, 36)) for character in stem)
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return f"{stem}{-total % 10}"


def hin(number: int) -> str:
    """Return a HIN: ``X`` and ten digits, from the range 0000, which CHESS does not issue."""
    return f"X0000{_within('HIN', number, 10**6):06d}"


def bsb(number: int) -> str:
    """Return a BSB ``999-NNN``: no bank has the prefix 999."""
    return f"999-{number % 1000:03d}"


def account_number(number: int) -> str:
    """Return nine digits with leading zeros, which are part of the number."""
    return f"000{_within('account', number, 10**6):06d}"
