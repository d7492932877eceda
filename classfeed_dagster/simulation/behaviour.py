"""Actions of each persona on a business day, limited by its available money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal

from classfeed_dagster.simulation.accounts import Portfolio
from classfeed_dagster.simulation.booking import Booking
from classfeed_dagster.simulation.customers import Persona
from classfeed_dagster.simulation.dealing import buy, charge, deposit, exchange_to_usd, sell, withdraw
from classfeed_dagster.simulation.market import Security, to_cents
from classfeed_dagster.simulation.random_draws import HashRandom

_WHOLE = Decimal(1)


class SecurityUniverse:
    """Securities by kind, from which a persona chooses."""

    def __init__(self, securities: Sequence[Security]) -> None:
        self.funds = [s.security_id for s in securities if s.security_type == "ETF" and s.currency == "AUD"]
        self.shares = [s.security_id for s in securities if s.currency == "AUD" and s.security_type != "ETF"]
        self.american = [s.security_id for s in securities if s.currency == "USD"]
        self.funds = self.funds or self.shares  # a market file may have no known fund


def act(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    """Simulate one customer's day: the first purchases in the first days, then the persona's plan."""
    days_open = (booking.day - portfolio.customer.opened_on).days
    if days_open < 2:
        return
    if not portfolio.positions and days_open <= 14 and not portfolio.trades:
        _settle_in(booking, portfolio, draw, universe)
        return
    first_of_month = booking.day.month != booking.previous.month
    if first_of_month:
        _monthly(booking, portfolio, draw)
    _PLANS[portfolio.customer.persona](booking, portfolio, draw, universe)


def _settle_in(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    # The first purchases. A customer from another broker transfers holdings in, some without a known cost.
    customer = portfolio.customer
    if customer.usd:
        exchange_to_usd(booking, portfolio, to_cents(portfolio.accounts["AUD"].available / 5), draw)
    count = draw.between(4, 9)
    budget = (portfolio.accounts["AUD"].available * 4 / 5 / count).quantize(_WHOLE, rounding=ROUND_DOWN)
    candidates = universe.funds if customer.persona is Persona.SAVER else [*universe.funds, *universe.shares]
    for security_id in draw.some(candidates, count):
        buy(booking, portfolio, security_id, budget, draw)
    if customer.persona in (Persona.REINVESTOR, Persona.PENSION, Persona.ESTATE):
        for security_id in draw.some(universe.shares, 2):
            transfer_in(booking, portfolio, security_id, draw, known_cost=draw.one_in(2))


def transfer_in(
    booking: Booking, portfolio: Portfolio, security_id: int, draw: HashRandom, *, known_cost: bool
) -> tuple[int, Decimal, Decimal | None] | None:
    """Transfer units in; return the movement's key, units and cost, or None if the security did not trade."""
    price = booking.market.price(security_id, booking.day)
    if price is None:
        return None
    units = Decimal(draw.between(50, 2000))
    cost = to_cents(units * price * 3 / 4) if known_cost else None
    at = booking.at(draw.between(32_400, 61_200), draw.below(10**6))
    text = "Transfer in, SRN to HIN"
    key = booking.movement(portfolio, security_id, "TRANSFER_IN", booking.day, units, cost=cost, text=text, at=at)
    return key, units, cost


def _monthly(booking: Booking, portfolio: Portfolio, draw: HashRandom) -> None:
    account = portfolio.accounts["AUD"]
    at = booking.at(25_200 + draw.below(1800), draw.below(10**6))
    interest = to_cents(account.balance / 1200)
    if interest > 0:
        booking.cash(portfolio, account, "INTEREST", booking.day, interest, text="Interest", at=at)
    if portfolio.customer.persona in (Persona.ADVISED, Persona.TRADER):
        charge(booking, portfolio, "FEE", Decimal("19.80"), text="Platform fee incl. GST", at=at)
    if portfolio.customer.persona is Persona.PENSION and booking.day.month % 3 == 1:
        amount = Decimal(draw.between(1000, 20_000)) / 10
        charge(booking, portfolio, "TAX", amount, text="ATO instalment", at=at)


def _regular_deposit(booking: Booking, portfolio: Portfolio, draw: HashRandom) -> None:
    if portfolio.deposits_left:  # otherwise the savings are used up
        portfolio.deposits_left -= 1
        deposit(booking, portfolio, Decimal(portfolio.customer.saving), draw)


def _weekday(booking: Booking, portfolio: Portfolio) -> bool:
    return booking.day.weekday() == portfolio.customer.number % 5


def _save(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    if _weekday(booking, portfolio):
        _regular_deposit(booking, portfolio, draw)
        favourites = portfolio.held() if draw.below(3) else []
        security_id = draw.choice([s for s in favourites if s in universe.funds] or universe.funds)
        buy(booking, portfolio, security_id, Decimal(portfolio.customer.saving), draw)


def _trade(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    if booking.day.day <= 7 and _weekday(booking, portfolio):
        _regular_deposit(booking, portfolio, draw)
    if draw.one_in(6):
        return
    if draw.one_in(10):
        exchange_to_usd(booking, portfolio, to_cents(portfolio.accounts["AUD"].available / 4), draw)
    held = portfolio.held()
    if held and (len(held) > 5 or draw.one_in(2)):
        security_id = draw.choice(held)
        units = portfolio.units(security_id)
        sell(booking, portfolio, security_id, units if draw.one_in(2) else _part(units, 2), draw)
    if draw.below(3):
        abroad = "USD" in portfolio.accounts and booking.day.weekday() > 0 and draw.one_in(4)
        account = portfolio.accounts["USD" if abroad else "AUD"]
        security_id = draw.choice(universe.american if abroad else universe.shares)
        bought = buy(booking, portfolio, security_id, account.available / 3, draw)
        if bought is not None and draw.one_in(8):  # out again on the same day
            sell(booking, portfolio, bought.security_id, bought.units, draw)


def _draw_pension(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    pension = Decimal(portfolio.customer.first_deposit // 400)
    if booking.previous.day < 15 <= booking.day.day:
        withdraw(booking, portfolio, pension, "Pension payment", draw)
    held = portfolio.held()
    if held and portfolio.accounts["AUD"].available < pension * 2:
        largest = max(held, key=lambda s: (portfolio.units(s) * booking.market.last_price(s, booking.day), s))
        if booking.securities[largest].currency == "AUD":
            sell(booking, portfolio, largest, _part(portfolio.units(largest), 10), draw)
    elif draw.one_in(12):
        buy(booking, portfolio, draw.choice(universe.shares), portfolio.accounts["AUD"].available / 6, draw)


def _reinvest(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    if draw.one_in(15):
        deposit(booking, portfolio, Decimal(portfolio.customer.saving), draw)
        buy(booking, portfolio, draw.choice(universe.shares), Decimal(portfolio.customer.saving) * 2, draw)
    if draw.one_in(60):
        transfer_in(booking, portfolio, draw.choice(universe.shares), draw, known_cost=False)
    if draw.one_in(40):
        withdraw(booking, portfolio, Decimal(portfolio.customer.saving), "Transfer to linked bank account", draw)
    if draw.one_in(70):
        _take_up_rights(booking, portfolio, draw)


def _take_up_rights(booking: Booking, portfolio: Portfolio, draw: HashRandom) -> None:
    # One new unit for ten held, at four fifths of the price, paid from the account.
    held = [s for s in portfolio.held() if booking.securities[s].currency == "AUD"]
    security_id = draw.choice(held) if held else 0
    price = booking.market.price(security_id, booking.day) if held else None
    if price is None:
        return
    fresh = _part(portfolio.units(security_id), 10)
    cost = to_cents(fresh * price * 4 / 5)
    if withdraw(booking, portfolio, cost, "Rights issue: application money", draw):
        at = booking.at(64_000, portfolio.customer.number)
        booking.movement(
            portfolio,
            security_id,
            "RIGHTS_ISSUE",
            booking.day,
            fresh,
            cost=cost,
            text="Rights taken up, 1 for 10",
            at=at,
        )


def _follow_advice(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    if not draw.one_in(18):
        return
    held = portfolio.held()
    if held:
        out = draw.choice(held)
        sell(booking, portfolio, out, _part(portfolio.units(out), 3), draw, advised=True)
    share = portfolio.accounts["AUD"].available / 4
    for security_id in draw.some([*universe.funds, *universe.shares], 2):
        buy(booking, portfolio, security_id, share, draw, advised=True)
    if "USD" in portfolio.accounts and booking.day.weekday() > 0:
        buy(booking, portfolio, draw.choice(universe.american), portfolio.accounts["USD"].available / 2, draw)


def _be_transferred_out(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    # Word of the executor suspends the portfolio. Half of the remaining units are transferred out each day, then the
    # cash is paid out and the portfolio is closed.
    leaves_on = portfolio.customer.leaves_on
    if leaves_on is None or booking.day < leaves_on:
        return
    at = booking.at(34_200 + draw.below(20_000), draw.below(10**6))
    key = {"portfolio_id": portfolio.portfolio_id}
    if not portfolio.suspended:
        portfolio.suspended = True
        booking.update("portfolio", key, at, status="SUSPENDED")
        booking.counts["portfolios suspended"] += 1
        return
    held = portfolio.held()
    for security_id in held[: (len(held) + 1) // 2]:
        units = portfolio.units(security_id)
        text = "Estate: transfer out"
        booking.movement(portfolio, security_id, "TRANSFER_OUT", booking.day, -units, cost=None, text=text, at=at)
    if portfolio.held() or portfolio.due:
        return
    if any(account.balance < 0 for account in portfolio.accounts.values()):
        return
    for account in portfolio.accounts.values():
        if account.balance:
            text = "Estate: final payment"
            booking.cash(portfolio, account, "WITHDRAWAL", booking.day, -account.balance, text=text, at=at)
        booking.update(
            "cash_account", {"cash_account_id": account.account_id}, at, status="CLOSED", closed_on=booking.day
        )
    booking.update("portfolio", key, at, status="CLOSED", closed_on=booking.day)
    portfolio.closed_on = booking.day
    booking.counts["portfolios closed"] += 1


def _part(units: Decimal, divisor: int) -> Decimal:
    # A part of a holding: whole units, except of a fractional holding.
    part = units / divisor
    return part.quantize(_WHOLE if units == units.to_integral_value() else Decimal("0.0001"), rounding=ROUND_DOWN)


def _live_privately(booking: Booking, portfolio: Portfolio, draw: HashRandom, universe: SecurityUniverse) -> None:
    (_trade if portfolio.customer.number % 4 == 0 else _save)(booking, portfolio, draw, universe)


_PLANS: dict[Persona, Callable[[Booking, Portfolio, HashRandom, SecurityUniverse], None]] = {
    Persona.SAVER: _save,
    Persona.TRADER: _trade,
    Persona.PENSION: _draw_pension,
    Persona.REINVESTOR: _reinvest,
    Persona.ESTATE: _be_transferred_out,
    Persona.ADVISED: _follow_advice,
    Persona.RETURNER: _save,
    Persona.PRIVATE: _live_privately,
}
