"""Events not caused by customers: corporate actions, dividends, the broker's errors and late rows."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from classfeed_dagster.simulation.accounts import ZERO, Mistake, Portfolio, Trade
from classfeed_dagster.simulation.behaviour import SecurityUniverse, transfer_in
from classfeed_dagster.simulation.booking import Booking
from classfeed_dagster.simulation.dealing import buy, reverse
from classfeed_dagster.simulation.market import (
    MICRO,
    CapitalReturn,
    CodeChange,
    Delisting,
    Dividend,
    Merger,
    UnitsChange,
    to_cents,
)
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import business_days_between, previous_business_day

_WHOLE = Decimal(1)
_BEFORE_OPENING = 28_800  # 08:00: corporate events are booked before the market opens
_CORRECTABLE = dt.timedelta(days=12)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A dividend to be paid on the units held before the ex-date."""

    portfolio: Portfolio
    dividend: Dividend
    units: Decimal
    per_unit: Decimal
    reinvests: bool


class Dividends:
    """Entitlements before their payment date."""

    def __init__(self) -> None:
        self._by_date: defaultdict[dt.date, list[Entitlement]] = defaultdict(list)

    def go_ex(self, booking: Booking, portfolios: Iterable[Portfolio], reinvesting: frozenset[int]) -> None:
        """Record the holders of securities with an ex-date today, before any other event of the day."""
        for dividend in booking.market.going_ex(booking.day):
            close = booking.market.last_price(dividend.security_id, booking.previous)
            per_unit = (close * dividend.basis_points / 10_000).quantize(MICRO, rounding=ROUND_HALF_UP)
            for portfolio in portfolios:
                units = portfolio.units(dividend.security_id)
                if units > 0:
                    again = dividend.offers_reinvestment and portfolio.customer.number in reinvesting
                    self._by_date[dividend.payment_date].append(
                        Entitlement(portfolio, dividend, units, per_unit, again)
                    )
                    portfolio.due += 1

    def pay(self, booking: Booking) -> None:
        """Pay today's dividends: in cash, or in units with the remainder in cash."""
        for entitlement in self._by_date.pop(booking.day, []):
            entitlement.portfolio.due -= 1
            _pay(booking, entitlement)


def _pay(booking: Booking, entitlement: Entitlement) -> None:
    portfolio, dividend, units = entitlement.portfolio, entitlement.dividend, entitlement.units
    security = booking.securities[dividend.security_id]
    gross = to_cents(units * entitlement.per_unit)
    account = portfolio.accounts[security.currency]
    if not gross:
        return
    franked = to_cents(gross * dividend.franked_percent / 100)
    # A trust's distribution has components that are neither franked nor unfranked dividends.
    unfranked = to_cents(gross * 2 / 5) if dividend.income_type == "DISTRIBUTION" else gross - franked
    credit = to_cents(franked * dividend.tax_percent / (100 - dividend.tax_percent))
    tax = to_cents(gross * dividend.withholding_percent / 100)
    net = gross - tax
    at = booking.at(32_400 + portfolio.customer.number % 7200, dividend.security_id % 10**6)
    row = (
        dividend.security_id, dividend.income_type, dividend.ex_date, dividend.payment_date, units, gross, franked,
        unfranked, credit, tax, net, security.currency,
    )  # fmt: skip
    price = booking.market.price(dividend.security_id, booking.day) if entitlement.reinvests else None
    fresh = (net / price).quantize(_WHOLE, rounding=ROUND_DOWN) if price else Decimal(0)
    cost = to_cents(fresh * price) if price else ZERO
    booking.income(portfolio, row, account, net - cost, text=f"{security.code} {dividend.income_type.lower()}", at=at)
    if fresh:
        text = f"Reinvested {dividend.income_type.lower()}"
        booking.movement(portfolio, dividend.security_id, "DRP", booking.day, fresh, cost=cost, text=text, at=at)


def corporate_events(booking: Booking, portfolios: Iterable[Portfolio]) -> None:
    """Book today's corporate events for every holder."""
    at = booking.at(_BEFORE_OPENING - 1800)
    for event in booking.market.events(booking.day):
        booking.counts["corporate events"] += 1
        if isinstance(event, CodeChange):
            _rename(booking, event, at)
            continue
        if isinstance(event, Delisting | Merger):
            key = {"security_id": event.security_id}
            booking.update("security", key, at, delisted_on=event.effective_on)
        for portfolio in portfolios:
            units = portfolio.units(event.security_id)
            if units > 0 and portfolio.closed_on is None:
                _apply(booking, portfolio, event, units)


def _rename(booking: Booking, event: CodeChange, at: dt.datetime) -> None:
    booking.rows.added["security_code_change"].append(
        (event.security_id, event.effective_on, event.old_code, event.new_code, event.old_name, event.new_name, at)
    )
    booking.update("security", {"security_id": event.security_id}, at, code=event.new_code, name=event.new_name)


def _apply(
    booking: Booking, portfolio: Portfolio, event: UnitsChange | Delisting | Merger | CapitalReturn, units: Decimal
) -> None:
    number = portfolio.customer.number
    at = booking.at(_BEFORE_OPENING + number % 1800, number)
    day, security_id = event.effective_on, event.security_id
    account = portfolio.accounts["AUD"]
    price = booking.market.last_price(security_id, booking.previous)
    if isinstance(event, UnitsChange):
        after = (units * event.new / event.old).quantize(_WHOLE, rounding=ROUND_DOWN)
        text = f"{event.movement_type.replace('_', ' ').capitalize()}, {event.new} for {event.old}"
        booking.movement(portfolio, security_id, event.movement_type, day, after - units, cost=ZERO, text=text, at=at)
    elif isinstance(event, Delisting):
        cost = portfolio.positions[security_id].cost
        cost_change = None if cost is None else -cost
        text = "Taken over for cash" if event.pays else "Removed from the official list"
        booking.movement(portfolio, security_id, "DELISTING", day, -units, cost=cost_change, text=text, at=at)
        consideration = to_cents(units * price)
        if event.pays and consideration:
            booking.cash(portfolio, account, "DEPOSIT", day, consideration, text="Takeover consideration", at=at)
    elif isinstance(event, Merger):
        cost = portfolio.positions[security_id].cost
        after = (units * event.new / event.old).quantize(_WHOLE, rounding=ROUND_DOWN)
        text = f"Merger, {event.new} for {event.old}"
        cost_change = None if cost is None else -cost
        booking.movement(portfolio, security_id, "MERGER_OUT", day, -units, cost=cost_change, text=text, at=at)
        if after:
            booking.movement(portfolio, event.into, "MERGER_IN", day, after, cost=cost, text=text, at=at)
    else:
        returned = to_cents(units * price * event.basis_points / 10_000)
        if returned:
            text = "Return of capital"
            cost = portfolio.positions[security_id].cost
            fall = -returned if cost is None else -min(returned, cost)
            booking.movement(portfolio, security_id, "RETURN_OF_CAPITAL", day, Decimal(0), cost=fall, text=text, at=at)
            booking.cash(portfolio, account, "DEPOSIT", day, returned, text=text, at=at)


# -- the broker's mistakes and late rows: one portfolio in fifty on a day, before the settlements of the day ----------


def irregular_event(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    """Simulate an irregular event on some days. The books are correct in the end, but the past may change."""
    turn = draw.below(450)
    if portfolio.mistake is not None:
        _undo_transfer(booking, portfolio, portfolio.mistake, draw)
    elif turn == 0:
        _late_note(booking, portfolio, draw, universe)
    elif turn == 1:
        _late_cash(booking, portfolio, draw, days_back=draw.between(1, 3))
    elif turn == 2:
        _late_cash(booking, portfolio, draw, days_back=draw.between(20, 45))
    elif turn in (3, 4):
        _after_midnight(booking, portfolio, draw)
    elif turn in (5, 6):
        _correct_trade(booking, portfolio, draw, again=turn == 5)
    elif turn == 7:
        _take_back_payment(booking, portfolio, draw)
    elif turn == 8:
        security_id = draw.choice(universe.shares)
        booked = transfer_in(booking, portfolio, security_id, draw, known_cost=True)
        if booked is not None:
            key, units, cost = booked
            portfolio.mistake = Mistake(key, security_id, booking.day, units, cost)


def late_time(booking: Booking, draw: HashRandom) -> dt.datetime:
    """Return the instant at which a row for a past day is recorded: this morning, or the Saturday before a Monday."""
    since = (booking.day - booking.previous).days
    saturday = since > 2 and draw.one_in(3)
    return booking.at(25_200 + draw.below(5400) - (86_400 * (since - 1) if saturday else 0), draw.below(10**6))


def _late_note(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    day = booking.previous if draw.below(3) else previous_business_day(booking.previous)
    at = late_time(booking, draw)
    security_id = draw.choice(universe.shares)
    if day <= portfolio.customer.opened_on or _disturbed(booking, security_id, day):
        return
    if buy(booking, portfolio, security_id, Decimal(3000), draw, traded_on=day, at=at):
        booking.counts["late rows"] += 1


def _late_cash(booking: Booking, portfolio: Portfolio, draw: HashRandom, *, days_back: int) -> None:
    day = previous_business_day(booking.day - dt.timedelta(days=days_back))
    if day <= portfolio.customer.opened_on:
        return
    account, at = portfolio.accounts["AUD"], late_time(booking, draw)
    amount = Decimal(draw.between(100, 50_000)) / 100
    if draw.one_in(2) and amount <= account.available:
        booking.cash(portfolio, account, "FEE", day, -amount, text="Fee charged late", at=at)
    else:
        booking.cash(portfolio, account, "DEPOSIT", day, amount, text="Deposit found later", at=at)
    booking.counts["late rows"] += 1


def _after_midnight(booking: Booking, portfolio: Portfolio, draw: HashRandom) -> None:
    # Dated today, recorded after the cut-off but before the end-of-day job, which counts it.
    at = booking.after_cutoff(draw.between(30, 1500), draw.below(10**6))
    amount = Decimal(draw.between(1000, 90_000)) / 100
    account = portfolio.accounts["AUD"]
    booking.cash(portfolio, account, "DEPOSIT", booking.day, amount, text="PayID after hours", at=at)
    booking.counts["rows between cut-off and end of day"] += 1


def _correct_trade(booking: Booking, portfolio: Portfolio, draw: HashRandom, *, again: bool) -> None:
    candidates = [trade for trade in portfolio.trades if _correctable(booking, portfolio, trade)]
    if not candidates:
        return
    trade = candidates[-1]
    at = late_time(booking, draw)
    reverse(booking, portfolio, trade, at, cash_on=trade.settlement_date if draw.one_in(2) else booking.day)
    if again:  # the corrected note: fewer units, a new number, the same dates
        units = trade.units - min(_WHOLE * draw.between(1, 9), trade.units - 1)
        consideration = to_cents(units * trade.price)
        key = portfolio.new_id(booking.day)
        right = Trade(
            key, trade.account, trade.security_id, f"{trade.confirmation}-A", "BUY", trade.trade_date,
            trade.settlement_date, units, trade.price, consideration, trade.brokerage, trade.gst, trade.other_fees,
            consideration + trade.brokerage + trade.other_fees,
        )  # fmt: skip
        moment = at + dt.timedelta(seconds=draw.between(20, 200))
        settled = trade.settlement_date < booking.day
        booking.trade(portfolio, right, moment, settled=settled)
        if settled:
            booking.settle(portfolio, right, moment)
        else:
            booking.settlements.add(portfolio, right)
        booking.counts["rebooked trades"] += 1


def _correctable(booking: Booking, portfolio: Portfolio, trade: Trade) -> bool:
    # Only a past buy in whole units without later changes, so that no past end of day falls below zero.
    if trade.reversed or trade.side != "BUY" or trade.account.currency != "AUD":
        return False
    if not booking.day - _CORRECTABLE <= trade.trade_date < booking.day:
        return False
    others = [e for e in portfolio.positions[trade.security_id].entries if e.date >= trade.trade_date]
    return (
        all(entry.units >= 0 for entry in others)
        and portfolio.units(trade.security_id) >= trade.units
        and not _disturbed(booking, trade.security_id, trade.trade_date)
    )


def _disturbed(booking: Booking, security_id: int, since: dt.date) -> bool:
    # True if a corporate event occurred between ``since`` and today. Its effect depends on the units held then.
    return any(
        security_id in (event.security_id, getattr(event, "into", None))
        for day in business_days_between(since, booking.day)
        for event in booking.market.events(day)
    )


def _take_back_payment(booking: Booking, portfolio: Portfolio, draw: HashRandom) -> None:
    payment = portfolio.last_payment
    if payment is None or payment.date >= booking.day or payment.account.available < payment.amount:
        return
    portfolio.last_payment = None
    booking.take_back_income(portfolio, payment, late_time(booking, draw))


def _undo_transfer(booking: Booking, portfolio: Portfolio, mistake: Mistake, draw: HashRandom) -> None:
    portfolio.mistake = None
    if _disturbed(booking, mistake.security_id, mistake.date) or any(
        entry.units < 0 and entry.date >= mistake.date for entry in portfolio.positions[mistake.security_id].entries
    ):
        return  # the mistake remains, because later rows depend on it
    cost = None if mistake.cost is None else -mistake.cost
    booking.movement(
        portfolio,
        mistake.security_id,
        "TRANSFER_IN",
        mistake.date,
        -mistake.units,
        cost=cost,
        text="Transfer booked to the wrong holder",
        at=late_time(booking, draw),
        reverses=mistake.movement_id,
    )
    booking.counts["reversed movements"] += 1
