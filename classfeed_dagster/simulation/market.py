"""Market of the simulation: securities, prices, exchange rates and corporate events.

Prices are ``Decimal`` in the security's currency, as traded after splits. Dates are Sydney business dates.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Protocol

CENT = Decimal("0.01")
MICRO = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Security:
    """A listed security on the simulation's first day; later codes and names are events."""

    security_id: int
    exchange: str
    code: str
    isin: str
    name: str
    security_type: str
    currency: str
    listed_on: dt.date


@dataclass(frozen=True, slots=True)
class Dividend:
    """A dividend, or a trust's distribution.

    ``basis_points`` of the last close before ``ex_date`` are paid per unit on ``payment_date`` to the holders at that
    close. ``franked_percent`` of it is franked at ``tax_percent``.
    """

    security_id: int
    ex_date: dt.date
    payment_date: dt.date
    basis_points: int
    franked_percent: int
    tax_percent: int
    income_type: str
    withholding_percent: int
    offers_reinvestment: bool


@dataclass(frozen=True, slots=True)
class UnitsChange:
    """``new`` units for every ``old`` ones (SPLIT, CONSOLIDATION, BONUS_ISSUE); fractions are dropped."""

    security_id: int
    effective_on: dt.date
    movement_type: str
    new: int
    old: int


@dataclass(frozen=True, slots=True)
class CodeChange:
    """Change of the security's code and name from ``effective_on``; units do not change."""

    security_id: int
    effective_on: dt.date
    old_code: str
    new_code: str
    old_name: str
    new_name: str


@dataclass(frozen=True, slots=True)
class Delisting:
    """Delisting from ``effective_on``. A security that was taken over pays the last price, a failed one nothing."""

    security_id: int
    effective_on: dt.date
    pays: bool


@dataclass(frozen=True, slots=True)
class Merger:
    """Merger: holders get ``new`` units of ``into`` for every ``old`` ones; the security itself is delisted."""

    security_id: int
    effective_on: dt.date
    into: int
    new: int
    old: int


@dataclass(frozen=True, slots=True)
class CapitalReturn:
    """Return of capital: the company pays ``basis_points`` of the price per unit; only the cost base falls."""

    security_id: int
    effective_on: dt.date
    basis_points: int


CorporateEvent = UnitsChange | CodeChange | Delisting | Merger | CapitalReturn


class Market(Protocol):
    """Market in which simulated customers trade. Equal parameters give equal prices and events."""

    @property
    def name(self) -> str:
        """Return a stable identifier, so that a world is never continued on another market."""
        ...

    def securities(self) -> Sequence[Security]:
        """Return every security, in order of its id."""
        ...

    def price(self, security_id: int, day: dt.date) -> Decimal | None:
        """Return the trading price on ``day``; None if the security does not trade then."""
        ...

    def last_price(self, security_id: int, day: dt.date) -> Decimal:
        """Return the last price on or before ``day``, whether or not the security still trades."""
        ...

    def closes(self, day: dt.date) -> Iterable[tuple[int, Decimal]]:
        """Yield (security, close) of every security that traded on ``day``."""
        ...

    def events(self, day: dt.date) -> Sequence[CorporateEvent]:
        """Return the corporate events of ``day``, before trading."""
        ...

    def going_ex(self, day: dt.date) -> Sequence[Dividend]:
        """Return the dividends with the ex-date ``day``."""
        ...

    def rate(self, currency: str, day: dt.date) -> Decimal:
        """Return the AUD value of one unit of ``currency`` on ``day``, to six decimals."""
        ...


def to_cents(amount: Decimal) -> Decimal:
    """Round ``amount`` to the cent, half away from zero."""
    return amount.quantize(CENT, rounding=ROUND_HALF_UP)


def to_tick(price: Decimal) -> Decimal:
    """Round ``price`` to ASX's price steps: 0.1c up to 10c, 0.5c up to $2, 1c above; never zero."""
    step = Decimal("0.001") if price < Decimal("0.1") else Decimal("0.005") if price < 2 else CENT
    return max((price / step).quantize(Decimal(1), rounding=ROUND_HALF_UP), Decimal(1)) * step
