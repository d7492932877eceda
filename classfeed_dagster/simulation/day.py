"""The simulation in memory: one business day after another, from the beginning of the history.

A day's rows depend on the plan and the market only. A later day needs the simulation of all earlier ones; nothing is
read back from a database.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from classfeed_dagster.simulation.accounts import Account, Portfolio
from classfeed_dagster.simulation.behaviour import SecurityUniverse, act
from classfeed_dagster.simulation.booking import Booking, DayRows, Settlements
from classfeed_dagster.simulation.customers import ConsentPlan, Customer, Persona, Timeline, customer
from classfeed_dagster.simulation.dealing import deposit
from classfeed_dagster.simulation.end_of_day import end_of_day, run_time
from classfeed_dagster.simulation.events import Dividends, corporate_events, irregular_event
from classfeed_dagster.simulation.identifiers import ID_BASE, abn, account_number, bsb, hin, portfolio_number
from classfeed_dagster.simulation.market import Market
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import SYDNEY, is_business_day, next_business_day

EOD_DAYS_OF_HISTORY = 2  # end-of-day rows only for the history's last days, because older ones are never read


class Fault(enum.Enum):
    """Fault to plant for a demonstration: a check must detect it."""

    UNBALANCED_UNITS = "the end of day states units that the ledger doesn't have"
    ILLEGAL_CHARACTER = "a portfolio's name holds a character that XML can't carry"


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A fault in bigsite from ``planted_on`` until its correction on ``corrected_on`` (None: never)."""

    fault: Fault
    planted_on: dt.date
    corrected_on: Annotated[dt.date | None, Field(alias="mended_on")] = None  # stored under the alias

    def applies_on(self, day: dt.date) -> bool:
        """Return True if bigsite is still wrong after the end of ``day``."""
        return self.planted_on <= day and (self.corrected_on is None or day < self.corrected_on)


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of a simulated world, without the market."""

    seed: int
    consented: int
    portfolios: int
    first_day: dt.date
    history: int
    faults: tuple[PlantedFault, ...] = ()

    @property
    def timeline(self) -> Timeline:
        """Return the business days around the first one."""
        return Timeline(self.first_day, self.history)

    def customers(self) -> list[Customer]:
        """Return all customers, in order of their number."""
        return [
            customer(self.seed, number, shares=number < self.consented, timeline=self.timeline)
            for number in range(self.portfolios)
        ]

    def faulty(self, fault: Fault) -> int:
        """Return the number of a customer with lasting consent, in whose portfolio ``fault`` is planted."""
        return {Fault.UNBALANCED_UNITS: 6, Fault.ILLEGAL_CHARACTER: 5}[fault] % max(self.consented, 1)


@dataclass(frozen=True, slots=True)
class DaySummary:
    """Summary of a simulated day: counts of actions and of rows written, no personal data.

    ``rows``: rows added by table. ``written``: False if the database had the day already.
    """

    day: dt.date
    counts: Mapping[str, int]
    rows: Mapping[str, int]
    written: bool = False


@dataclass(slots=True)
class _Agenda:
    opening: defaultdict[dt.date, list[Portfolio]] = field(default_factory=lambda: defaultdict(list))
    granting: defaultdict[dt.date, list[tuple[Portfolio, ConsentPlan]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    revoking: defaultdict[dt.date, list[tuple[int, dt.datetime]]] = field(default_factory=lambda: defaultdict(list))
    expiring: defaultdict[dt.date, int] = field(default_factory=lambda: defaultdict(int))


class Simulation:
    """A world in memory, ready to simulate ``next_day``."""

    def __init__(self, plan: Plan, market: Market) -> None:
        self.plan = plan
        self.market = market
        self.next_day = plan.timeline.day(-plan.history)
        self.written_from = plan.timeline.day(-min(EOD_DAYS_OF_HISTORY, plan.history))
        self.summaries: dict[dt.date, DaySummary] = {}
        self.portfolios = [_portfolio(c) for c in plan.customers()]
        self._first = self.next_day
        self._securities = {s.security_id: s for s in market.securities()}
        self._universe = SecurityUniverse(market.securities())
        self._dividends = Dividends()
        self._settlements = Settlements()
        self._reinvesting = frozenset(
            p.customer.number
            for p in self.portfolios
            if p.customer.persona is Persona.REINVESTOR or p.customer.number % 5 == 0
        )
        self._advisers: set[int] = set()
        self._misstated: dict[int, int] = {}  # portfolio number -> security
        self._agenda = _Agenda()
        for portfolio in self.portfolios:
            self._agenda.opening[portfolio.customer.opened_on].append(portfolio)
            for consent in portfolio.customer.consents:
                self._note_consent(portfolio, consent)

    def _note_consent(self, portfolio: Portfolio, consent: ConsentPlan) -> None:
        granted = max(portfolio.customer.opened_on, window_day(consent.granted_at))
        self._agenda.granting[granted].append((portfolio, consent))
        if consent.revoked_at is not None:
            self._agenda.revoking[window_day(consent.revoked_at)].append((consent.consent_id, consent.revoked_at))
        if consent.expires_at is not None:
            self._agenda.expiring[window_day(consent.expires_at)] += 1

    def run(self) -> tuple[DaySummary, DayRows]:
        """Simulate the next day; return its summary and its rows."""
        day = self.next_day
        booking = Booking(day, self.market, self._securities, self._settlements)
        if day == self._first:
            self._list_securities(booking)
        for portfolio in self._agenda.opening.get(day, ()):
            self._open(booking, portfolio)
        alive = [p for p in self.portfolios if p.customer.opened_on <= day and p.closed_on is None]
        self._dividends.go_ex(booking, alive, self._reinvesting)
        corporate_events(booking, alive)
        draws = {p.customer.number: HashRandom(self.plan.seed, "acts", p.customer.number, day) for p in alive}
        for portfolio in alive:
            if not portfolio.suspended and portfolio.trades:
                irregular_event(booking, portfolio, draws[portfolio.customer.number], self._universe)
        self._dividends.pay(booking)
        self._settle(booking)
        for portfolio in alive:
            self._complete_sponsorship(booking, portfolio)
            act(booking, portfolio, draws[portfolio.customer.number], self._universe)
        self._share(booking)
        self._plant_faults(booking)
        self._publish_prices(booking)
        run_at = run_time(self.plan.seed, day)
        end_of_day(booking, self._opened(day), run_at, self.written_from, self._misstatement)
        self.next_day = next_business_day(day)
        rows = {table: len(added) for table, added in sorted(booking.rows.added.items()) if added}
        summary = DaySummary(day, dict(sorted(booking.counts.items())), rows)
        self.summaries[day] = summary
        return summary, booking.rows

    def _opened(self, day: dt.date) -> Iterator[Portfolio]:
        return (p for p in self.portfolios if p.customer.opened_on <= day)

    # -- state --------------------------------------------------------------------------------------------------------

    def _list_securities(self, booking: Booking) -> None:
        at = booking.at(0)
        for s in self._securities.values():
            booking.rows.added["security"].append(
                (s.security_id, s.exchange, s.code, s.isin, s.name, s.security_type, s.currency, s.listed_on, None, at)
            )

    def _open(self, booking: Booking, portfolio: Portfolio) -> None:
        who, key, day = portfolio.customer, portfolio.portfolio_id, booking.day
        draw = HashRandom(self.plan.seed, "opens", who.number)
        at = booking.at(draw.between(30_000, 36_000), draw.below(10**6))
        number = portfolio_number(who.number)
        business = abn(who.number) if who.entity_type in ("COMPANY", "TRUST", "SMSF") else None
        add = booking.rows.added
        add["portfolio"].append((key, number, who.name, who.entity_type, business, None, "ACTIVE", day, None, at))
        for member in who.members:
            if member.member_id not in self._advisers:
                email = f"m{member.member_id - ID_BASE}@example.com"
                add["member"].append((member.member_id, member.given_name, member.family_name, email, at, at))
            if member.role == "ADVISER":
                self._advisers.add(member.member_id)
            add["portfolio_member"].append((key, member.member_id, member.role, at))
        for account in portfolio.accounts.values():
            branch = bsb(who.number) if account.currency == "AUD" else None
            add["cash_account"].append(
                (account.account_id, key, branch, account.number, who.name, account.currency, "ACTIVE", day, None, at)
            )
        deposit(booking, portfolio, Decimal(who.first_deposit), draw)
        booking.counts["portfolios opened"] += 1

    def _complete_sponsorship(self, booking: Booking, portfolio: Portfolio) -> None:
        # CHESS sponsorship takes two days; before that the customer cannot trade on the ASX.
        if portfolio.sponsored or (booking.day - portfolio.customer.opened_on).days < 2:
            return
        portfolio.sponsored = True
        number = portfolio.customer.number
        key = {"portfolio_id": portfolio.portfolio_id}
        booking.update("portfolio", key, booking.at(28_800 + number % 3600, number), hin=hin(number))

    def _share(self, booking: Booking) -> None:
        for portfolio, consent in self._agenda.granting.pop(booking.day, []):
            booking.rows.added["data_sharing_consent"].append((
                consent.consent_id, portfolio.portfolio_id, consent.recipient, consent.reference, consent.history_from,
                consent.granted_at, consent.expires_at, None, consent.granted_at,
            ))  # fmt: skip
            booking.counts["consents granted"] += 1
        for consent_id, revoked_at in self._agenda.revoking.pop(booking.day, []):
            booking.update("data_sharing_consent", {"consent_id": consent_id}, revoked_at, revoked_at=revoked_at)
            booking.counts["consents revoked"] += 1
        expired = self._agenda.expiring.pop(booking.day, 0)
        if expired:
            booking.counts["consents expired"] += expired

    # -- the market's evening -----------------------------------------------------------------------------------------

    def _settle(self, booking: Booking) -> None:
        # One batch a day, at about 12:30.
        for portfolio, trade in self._settlements.take(booking.day):
            booking.settle(portfolio, trade, booking.at(45_000, portfolio.customer.number))
        for portfolio in self.portfolios:
            for account in portfolio.accounts.values():
                account.pending.pop(booking.day, None)

    def _publish_prices(self, booking: Booking) -> None:
        at = booking.at(66_600)
        for security_id, price in self.market.closes(booking.day):
            booking.rows.added["security_price"].append((security_id, booking.day, price, at))
        rate = self.market.rate("USD", booking.day)
        booking.rows.added["fx_rate"].append(("USD", "AUD", booking.day, rate, at))

    # -- planted faults -----------------------------------------------------------------------------------------------

    def _plant_faults(self, booking: Booking) -> None:
        for planted in self.plan.faults:
            if booking.day not in (planted.planted_on, planted.corrected_on):
                continue
            portfolio = self.portfolios[self.plan.faulty(planted.fault)]
            wrong = planted.applies_on(booking.day)
            if planted.fault is Fault.ILLEGAL_CHARACTER:
                name = portfolio.customer.name
                shown = f"{name[:3]}\x0b{name[3:]}" if wrong else name
                key = {"portfolio_id": portfolio.portfolio_id}
                booking.update("portfolio", key, booking.at(54_000), portfolio_name=shown)
            elif wrong:
                # The security held for longest; a portfolio without any has correct balances.
                self._misstated[portfolio.customer.number] = next(iter(portfolio.held()), 0)
            else:
                position = portfolio.positions.get(self._misstated.pop(portfolio.customer.number))
                if position is not None:
                    position.changed_from = min(position.changed_from or planted.planted_on, planted.planted_on)
            booking.counts["faults planted" if wrong else "faults corrected"] += 1

    def _misstatement(self, portfolio: Portfolio, security_id: int, day: dt.date) -> Decimal:
        if self._misstated.get(portfolio.customer.number) != security_id:
            return Decimal(0)
        return Decimal(any(f.fault is Fault.UNBALANCED_UNITS and f.applies_on(day) for f in self.plan.faults))


def window_day(instant: dt.datetime) -> dt.date:
    """Return the business date whose window contains ``instant``."""
    day = instant.astimezone(SYDNEY).date()
    return day if is_business_day(day) else next_business_day(day)


def _portfolio(who: Customer) -> Portfolio:
    accounts = {}
    for place, currency in enumerate(("AUD", "USD") if who.usd else ("AUD",)):
        number = who.number * 2 + place
        accounts[currency] = Account(ID_BASE + number + 1, account_number(number), currency)
    return Portfolio(who, accounts, deposits_left=who.deposits)
