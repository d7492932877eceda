"""Orders and money: buying, selling, deposits, withdrawals and currency exchange, with the broker's fees.

Brokerage is 9.50 in the security's currency, GST included (1/11, half up, computed per fee); one ASX trade in twelve is
free. Settlement is two business days after the trade.
"""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import NamedTuple

from classfeed_dagster.simulation.accounts import ZERO, Account, Portfolio, Trade
from classfeed_dagster.simulation.booking import Booking
from classfeed_dagster.simulation.market import CENT, to_cents
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import add_business_days

BROKERAGE = Decimal("9.50")
ADVISER_FEE = Decimal("11.00")
SMALLEST_ORDER = Decimal(500)
_FX_FEE = Decimal("0.994")
_HUNDRED_THOUSANDTH = Decimal("0.0001")


class _Order(NamedTuple):
    account: Account
    security_id: int
    side: str
    day: dt.date


class _Execution(NamedTuple):
    units: Decimal
    price: Decimal
    consideration: Decimal


class _Fees(NamedTuple):
    brokerage: Decimal
    other: Decimal
    gst: Decimal

    @property
    def total(self) -> Decimal:
        return self.brokerage + self.other


def market_time(booking: Booking, draw: HashRandom, *, american: bool = False) -> dt.datetime:
    """Return an instant of market hours: 10:00 to 16:10 Sydney, or in the small hours for America."""
    first, last = (300, 21_000) if american else (36_000, 58_200)
    return booking.at(draw.between(first, last), draw.below(10**6))


def buy(
    booking: Booking,
    portfolio: Portfolio,
    security_id: int,
    budget: Decimal,
    draw: HashRandom,
    *,
    advised: bool = False,
    traded_on: dt.date | None = None,
    at: dt.datetime | None = None,
) -> Trade | None:
    """Buy for at most ``budget`` and the available cash; None if it did not trade or the money is too little.

    ``traded_on`` and ``at`` are for contract notes that bigsite records late.
    """
    day = traded_on or booking.day
    security = booking.securities[security_id]
    account = portfolio.accounts.get(security.currency)
    price = booking.market.price(security_id, day)
    if price is None or account is None:
        return None
    american = security.currency != "AUD"
    fees = _fees(draw, american=american, advised=advised)
    money = min(budget, account.available) - fees.total
    step = _HUNDRED_THOUSANDTH if american else Decimal(1)
    units = (money / price).quantize(step, rounding=ROUND_DOWN)
    if units <= 0 or units * price < SMALLEST_ORDER:
        return None
    consideration = to_cents(units * price)
    if not american and draw.one_in(6):
        # Two fills, a third of the units one step dearer: the note states the rounded average.
        dearer = to_cents(consideration + (units / 3).quantize(Decimal(1), rounding=ROUND_DOWN) * CENT)
        if dearer <= money:
            consideration = dearer
            price = (consideration / units).quantize(Decimal("0.000001"), rounding=ROUND_HALF_UP)
    recorded_at = at or market_time(booking, draw, american=american)
    order = _Order(account, security_id, "BUY", day)
    return _record(booking, portfolio, order, _Execution(units, price, consideration), fees, at=recorded_at)


def sell(
    booking: Booking, portfolio: Portfolio, security_id: int, units: Decimal, draw: HashRandom, *, advised: bool = False
) -> Trade | None:
    """Sell ``units`` (at most the holding) on the day; None if it did not trade or the fees exceed the proceeds."""
    security = booking.securities[security_id]
    price = booking.market.price(security_id, booking.day)
    units = min(units, portfolio.units(security_id))
    if price is None or units <= 0:
        return None
    american = security.currency != "AUD"
    fees = _fees(draw, american=american, advised=advised)
    consideration = to_cents(units * price)
    if consideration <= fees.total:
        return None
    order = _Order(portfolio.accounts[security.currency], security_id, "SELL", booking.day)
    at = market_time(booking, draw, american=american)
    return _record(booking, portfolio, order, _Execution(units, price, consideration), fees, at=at)


def _fees(draw: HashRandom, *, american: bool, advised: bool) -> _Fees:
    free = not american and draw.one_in(12)
    brokerage = ZERO if free else BROKERAGE
    other = ADVISER_FEE if advised else ZERO
    return _Fees(brokerage, other, to_cents(brokerage / 11) + to_cents(other / 11))


def _record(
    booking: Booking, portfolio: Portfolio, order: _Order, execution: _Execution, fees: _Fees, *, at: dt.datetime
) -> Trade:
    key = portfolio.new_id(booking.day)
    buys = order.side == "BUY"
    trade = Trade(
        key,
        order.account,
        order.security_id,
        f"T{booking.day:%Y%m%d}-{key % 700_000_000:09d}",
        order.side,
        order.day,
        add_business_days(order.day, 2),
        *execution,
        fees.brokerage,
        fees.gst,
        fees.other,
        execution.consideration + fees.total if buys else execution.consideration - fees.total,
    )
    booking.trade(portfolio, trade, at)
    booking.settlements.add(portfolio, trade)
    booking.counts["buys" if buys else "sells"] += 1
    return trade


def deposit(booking: Booking, portfolio: Portfolio, amount: Decimal, draw: HashRandom) -> None:
    """Deposit into the AUD account during the day."""
    at = booking.at(draw.between(25_200, 79_200), draw.below(10**6))
    booking.cash(portfolio, portfolio.accounts["AUD"], "DEPOSIT", booking.day, amount, text="Direct credit", at=at)


def withdraw(booking: Booking, portfolio: Portfolio, amount: Decimal, text: str, draw: HashRandom) -> bool:
    """Withdraw from the AUD account if the amount is available."""
    account = portfolio.accounts["AUD"]
    if not ZERO < amount <= account.available:
        return False
    at = booking.at(draw.between(30_000, 60_000), draw.below(10**6))
    booking.cash(portfolio, account, "WITHDRAWAL", booking.day, -amount, text=text, at=at)
    return True


def charge(booking: Booking, portfolio: Portfolio, kind: str, amount: Decimal, *, text: str, at: dt.datetime) -> None:
    """Charge a FEE or TAX if the account covers it."""
    account = portfolio.accounts["AUD"]
    if amount <= account.available:
        booking.cash(portfolio, account, kind, booking.day, -amount, text=text, at=at)


def exchange_to_usd(booking: Booking, portfolio: Portfolio, aud: Decimal, draw: HashRandom) -> None:
    """Exchange AUD for USD at the day's rate less the broker's margin: two cash transactions at one instant."""
    source, target = portfolio.accounts["AUD"], portfolio.accounts.get("USD")
    if target is None or not ZERO < aud <= source.available:
        return
    usd = to_cents(aud / booking.market.rate("USD", booking.day) * _FX_FEE)
    at = booking.at(draw.between(36_000, 57_600), draw.below(10**6))
    text = "Currency exchange AUD to USD"
    booking.cash(portfolio, source, "TRANSFER", booking.day, -aud, text=text, at=at)
    booking.cash(portfolio, target, "TRANSFER", booking.day, usd, text=text, at=at)


def reverse(booking: Booking, portfolio: Portfolio, trade: Trade, at: dt.datetime, *, cash_on: dt.date) -> None:
    """Reverse a contract note under its own dates; settled cash is returned under the date ``cash_on``."""
    key = portfolio.new_id(booking.day)
    trade.reversed = True
    undone = Trade(
        key, trade.account, trade.security_id, trade.confirmation, trade.side, trade.trade_date, trade.settlement_date,
        -trade.units, trade.price, -trade.consideration, -trade.brokerage or ZERO, -trade.gst or ZERO,
        -trade.other_fees or ZERO, -trade.net_amount, reversed=True,
    )  # fmt: skip
    booking.trade(portfolio, undone, at, reverses=trade, settled=trade.cash_id is not None)
    if trade.cash_id is None:
        booking.settlements.add(portfolio, undone)
    else:
        undone.cash_id = booking.cash(
            portfolio,
            trade.account,
            "SETTLEMENT",
            cash_on,
            trade.net_amount,
            text=f"Reversal of {trade.confirmation}",
            at=at,
            trade_id=key,
            reverses=trade.cash_id,
        )
    booking.counts["reversed trades"] += 1
