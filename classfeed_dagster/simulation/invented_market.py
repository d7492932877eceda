"""Invented market: some thirty-five ASX securities and five American ones, with prices from layered noise.

Prices are a formula of (seed, security, day), not a walk: any day's price is known without earlier days.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

from classfeed_dagster.simulation.corporate import CorporateCalendar
from classfeed_dagster.simulation.identifiers import ID_BASE, isin
from classfeed_dagster.simulation.market import MICRO, CorporateEvent, Dividend, Security, to_cents, to_tick
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import is_business_day

US_FIRST = 900
_LISTED_ON = dt.date(2005, 1, 4)
_FUNDS = (
    ("QVX", "QUOLL AUSTRALIAN SHARES INDEX ETF", "ETF"),
    ("QWX", "QUOLL WORLD SHARES INDEX ETF", "ETF"),
    ("QHY", "QUOLL HIGH DIVIDEND ETF", "ETF"),
    ("QBX", "QUOLL AUSTRALIAN BONDS & CASH ETF", "ETF"),
    ("NUM5", "NUMBAT 500 CURRENCY HEDGED ETF", "ETF"),
    ("NTEC", "NUMBAT TECHNOLOGY <LEADERS> ETF", "ETF"),
    ("LYR", "LYREBIRD FOUNDATION INVESTMENT COMPANY LIMITED", "LIC"),
    ("MGP", "MAGPIE MICROCAP INVESTMENTS LIMITED", "LIC"),
    ("WRH", "WARRAH OFFICE PROPERTY TRUST", "REIT"),
    ("BLR", "BILLABONG RETAIL PROPERTY TRUST", "REIT"),
    ("KBAPA", "KOOKABURRA BANK CAPITAL NOTES 1", "HYBRID"),
)
_FIRST_WORDS = ("KOOKABURRA", "WARATAH", "BANKSIA", "GALAH", "CURRAWONG", "POTOROO")
_LAST_WORDS = ("BANK", "MINING", "ENERGY", "HEALTH")
_US = (
    ("NASDAQ", "PELC", "PELICAN SOFTWARE INC"),
    ("NASDAQ", "OSPR", "OSPREY CHIPS CORP"),
    ("NASDAQ", "CNDR", "CONDOR & SONS PLATFORMS INC"),
    ("NYSE", "BDGR", "BADGER BEVERAGES CO"),
    ("NYSE", "HRN", "HERON INDEX TRUST"),
)


class InventedMarket:
    """Market determined by ``seed``; rare corporate events are planned around ``anchor``, the first day of interest."""

    def __init__(self, seed: int, anchor: dt.date) -> None:
        self._seed = seed
        self._securities = _listing()
        self._base = {s.security_id: _base_price(seed, s) for s in self._securities}
        self._calendar = CorporateCalendar(seed, self._securities, anchor)
        self._exchange = {s.security_id: s.exchange for s in self._securities}

    @property
    def name(self) -> str:
        """Return ``invented``: the prices depend on the seed only."""
        return "invented"

    def securities(self) -> Sequence[Security]:
        """Return every security, in order of its id."""
        return self._securities

    def price(self, security_id: int, day: dt.date) -> Decimal | None:
        """Return the close of ``day``; None once delisted and on occasional days without trades."""
        if not self._calendar.is_listed(security_id, day) or not is_business_day(day):
            return None
        if HashRandom(self._seed, "traded", security_id, day).one_in(40):
            return None
        return self.last_price(security_id, day)

    def last_price(self, security_id: int, day: dt.date) -> Decimal:
        """Return the price of ``day``, traded or not."""
        return _noisy_price(
            self._seed,
            security_id,
            self._base[security_id],
            day.toordinal(),
            self._calendar.units_of_today(security_id, day).as_integer_ratio(),
            on_asx=self._exchange[security_id] == "ASX",
        )

    def closes(self, day: dt.date) -> Iterable[tuple[int, Decimal]]:
        """Yield (security, close) of every security that traded on ``day``."""
        for security in self._securities:
            price = self.price(security.security_id, day)
            if price is not None:
                yield security.security_id, price

    def events(self, day: dt.date) -> Sequence[CorporateEvent]:
        """Return the corporate events of ``day``."""
        return self._calendar.events(day)

    def going_ex(self, day: dt.date) -> Sequence[Dividend]:
        """Return the dividends with the ex-date ``day``."""
        return self._calendar.going_ex(day)

    def rate(self, currency: str, day: dt.date) -> Decimal:
        """Return the AUD value of one unit of ``currency``: around 1.50 for USD."""
        if currency == "AUD":
            return Decimal("1.000000")
        swing = _noise(self._seed, f"fx-{currency}", day.toordinal())
        return (Decimal("1.5") * (100_000 + swing) / 100_000).quantize(MICRO, rounding=ROUND_HALF_UP)


def _listing() -> tuple[Security, ...]:
    asx = [*_FUNDS]
    for first in _FIRST_WORDS:
        for last in _LAST_WORDS:
            asx.append((first[0] + first[2] + last[0], f"{first} {last} LIMITED", "ORDINARY"))
    securities: list[Security] = []
    taken: set[str] = set()
    for number, (code, name, kind) in enumerate(asx, start=1):
        while code in taken:
            code = code[:-1] + chr(ord("A") + (ord(code[-1]) - ord("A") + 1) % 26)  # noqa: PLW2901
        taken.add(code)
        securities.append(Security(ID_BASE + number, "ASX", code, isin("AU", number), name, kind, "AUD", _LISTED_ON))
    for number, (exchange, code, name) in enumerate(_US, start=US_FIRST):
        kind = "ETF" if "TRUST" in name else "ORDINARY"
        securities.append(Security(ID_BASE + number, exchange, code, isin("US", number), name, kind, "USD", _LISTED_ON))
    return tuple(securities)


def _base_price(seed: int, security: Security) -> Decimal:
    draw = HashRandom(seed, "base", security.security_id)
    if security.security_type == "HYBRID":
        return Decimal("101.30")
    if security.currency == "USD" or security.security_type == "ETF":
        return Decimal(draw.between(2_500, 40_000)) / 100
    # Every fifth company is a penny stock, to cover the price steps below $2 and below 10c.
    return Decimal(draw.between(40, 1_900)) / 1000 if draw.one_in(5) else Decimal(draw.between(210, 9_500)) / 100


@lru_cache(maxsize=100_000)
def _knot(seed: int, name: object, scale: int, knot: int) -> int:
    return HashRandom(seed, "noise", name, scale, knot).between(-1000, 1000)


def _noise(seed: int, name: object, ordinal: int) -> int:
    # Noise in hundred-thousandths: slow swings of up to 24 %, daily ones of about 1 %.
    total = 0
    for scale, weight in ((256, 16), (64, 8), (16, 4), (4, 2), (1, 1)):
        knot, rest = divmod(ordinal, scale)
        here = _knot(seed, name, scale, knot)
        ahead = _knot(seed, name, scale, knot + 1)
        total += weight * (here * (scale - rest) + ahead * rest) // scale
    return total


@lru_cache(maxsize=200_000)
def _noisy_price(
    seed: int, security_id: int, base: Decimal, ordinal: int, ratio: tuple[int, int], *, on_asx: bool
) -> Decimal:
    price = base * (100_000 + _noise(seed, security_id, ordinal)) / 100_000 * ratio[1] / ratio[0]
    return to_tick(price) if on_asx else to_cents(price)
