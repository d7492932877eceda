"""State of one simulated portfolio in bigsite: positions, cash accounts, recent trades. No decisions.

``Position`` and ``Account`` keep every dated entry, because a backdated row changes past days.
"""

from __future__ import annotations

import datetime as dt
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import Any

from classfeed_dagster.simulation.books import Notebook
from classfeed_dagster.simulation.customers import Customer
from classfeed_dagster.simulation.identifiers import ID_BASE, ledger_id
from classfeed_dagster.simulation.market import to_cents

ZERO = Decimal("0.00")
_DATE = attrgetter("date")


@dataclass(frozen=True, slots=True)
class Entry:
    """Change of units and its effect on the cost base: None is unknown; a ``sale`` takes its share."""

    date: dt.date
    units: Decimal
    cost: Decimal | None
    sale: bool


class Position:
    """A portfolio's units of one security. ``changed_from``: the earliest date changed since the last end of day."""

    __slots__ = ("changed_from", "cost", "entries", "units")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.units = Decimal(0)
        self.cost: Decimal | None = ZERO
        self.changed_from: dt.date | None = None

    def add(self, entry: Entry) -> None:
        """Book an entry of any date."""
        backdated = bool(self.entries) and entry.date < self.entries[-1].date
        insort(self.entries, entry, key=_DATE)
        if backdated:
            self.units, self.cost = self.as_at(self.entries[-1].date)
        else:
            self.units, self.cost = _after(self.units, self.cost, entry)
        self.changed_from = min(self.changed_from or entry.date, entry.date)

    def as_at(self, day: dt.date) -> tuple[Decimal, Decimal | None]:
        """Return units and cost base at the end of ``day``, from all entries booked so far."""
        units: Decimal = Decimal(0)
        cost: Decimal | None = ZERO
        for entry in self.entries:
            if entry.date > day:
                break
            units, cost = _after(units, cost, entry)
        return units, cost


def _after(units: Decimal, cost: Decimal | None, entry: Entry) -> tuple[Decimal, Decimal | None]:
    left = units + entry.units
    if not left:
        return left, ZERO
    if entry.sale:
        return left, None if cost is None or not units else to_cents(cost * left / units)
    return left, None if cost is None or entry.cost is None else cost + entry.cost


class Account:
    """A cash account. ``buys``: (trade date, settlement date, net amount) of every buy, reversals negative."""

    __slots__ = ("account_id", "balance", "buys", "changed_from", "currency", "entries", "number", "pending")

    def __init__(self, account_id: int, number: str, currency: str) -> None:
        self.account_id = account_id
        self.number = number
        self.currency = currency
        self.balance = ZERO
        self.entries: list[tuple[dt.date, Decimal]] = []
        self.buys: list[tuple[dt.date, dt.date, Decimal]] = []
        self.pending: dict[dt.date, Decimal] = {}
        self.changed_from: dt.date | None = None

    @property
    def available(self) -> Decimal:
        """Return the balance minus the amounts of unsettled buys."""
        return self.balance - sum(self.pending.values(), ZERO)

    @property
    def subject(self) -> str:
        """Return the account's name in its owner's books."""
        return f"{self.number}:{self.currency}"

    def add(self, date: dt.date, amount: Decimal) -> None:
        """Book a cash movement."""
        self.entries.append((date, amount))
        self.balance += amount
        self._changed(date)

    def add_buy(
        self, trade_date: dt.date, settlement_date: dt.date, net_amount: Decimal, *, settled: bool = False
    ) -> None:
        """Reserve ``net_amount`` for a buy until its settlement date (negative for a reversal)."""
        self.buys.append((trade_date, settlement_date, net_amount))
        if not settled:
            self.pending[settlement_date] = self.pending.get(settlement_date, ZERO) + net_amount
        self._changed(trade_date)

    def as_at(self, day: dt.date) -> tuple[Decimal, Decimal]:
        """Return ledger and available balance at the end of ``day``, from all entries booked so far."""
        ledger = sum((amount for date, amount in self.entries if date <= day), ZERO)
        return ledger, ledger - sum((net for traded, settles, net in self.buys if traded <= day < settles), ZERO)

    def _changed(self, date: dt.date) -> None:
        self.changed_from = min(self.changed_from or date, date)


@dataclass(slots=True)
class Trade:
    """A recorded contract note. ``cash_id``: its settlement, once settled."""

    trade_id: int
    account: Account
    security_id: int
    confirmation: str
    side: str
    trade_date: dt.date
    settlement_date: dt.date
    units: Decimal
    price: Decimal
    consideration: Decimal
    brokerage: Decimal
    gst: Decimal
    other_fees: Decimal
    net_amount: Decimal
    cash_id: int | None = None
    reversed: bool = False


@dataclass(slots=True)
class Payment:
    """An income paid in cash, with the facts for its reversal."""

    row: tuple[Any, ...]
    cash_id: int
    account: Account
    amount: Decimal
    date: dt.date


@dataclass(frozen=True, slots=True)
class Mistake:
    """A transfer booked to the wrong holder, to be reversed."""

    movement_id: int
    security_id: int
    date: dt.date
    units: Decimal
    cost: Decimal | None


@dataclass(slots=True)
class Portfolio:
    """One simulated portfolio as in bigsite."""

    customer: Customer
    accounts: dict[str, Account]
    notes: Notebook = field(default_factory=Notebook)
    positions: dict[int, Position] = field(default_factory=dict)
    trades: deque[Trade] = field(default_factory=lambda: deque(maxlen=6))
    last_payment: Payment | None = None
    mistake: Mistake | None = None
    deposits_left: int = 0
    due: int = 0  # pending dividends and settlements: a portfolio closes without any
    sponsored: bool = False
    suspended: bool = False
    closed_on: dt.date | None = None
    _id_day: dt.date | None = None
    _id_count: int = 0

    @property
    def portfolio_id(self) -> int:
        """Return bigsite's key."""
        return ID_BASE + self.customer.number + 1

    def new_id(self, day: dt.date) -> int:
        """Return a ledger key that depends only on the portfolio, the day and its earlier rows of that day."""
        if self._id_day != day:
            self._id_day, self._id_count = day, 0
        self._id_count += 1
        return ledger_id(self.customer.number, day, self._id_count)

    def held(self) -> list[int]:
        """Return the securities with units now, in the order of their first acquisition."""
        return [security_id for security_id, position in self.positions.items() if position.units > 0]

    def units(self, security_id: int) -> Decimal:
        """Return the units held now."""
        position = self.positions.get(security_id)
        return position.units if position else Decimal(0)
