"""One day's bookings: the rows that the day adds to bigsite, and their effect on positions, cash and owners' books.

This module decides nothing; amounts are passed in. Rows are tuples in the order of the table's columns.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from classfeed_dagster.simulation.accounts import ZERO, Account, Entry, Payment, Portfolio, Position, Trade
from classfeed_dagster.simulation.market import Market, Security
from classfeed_dagster.trading_days import SYDNEY, cutoff, previous_business_day

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A row of a state table that changes in place: the key's columns and the new values."""

    table: str
    key: dict[str, Any]
    values: dict[str, Any]


@dataclass(slots=True)
class DayRows:
    """Rows that one day writes, in this order: ``removed`` end-of-day keys, ``added`` rows, ``updates``."""

    removed: dict[str, list[tuple[dt.date, int] | tuple[dt.date, int, int]]] = field(
        default_factory=lambda: {"holding_eod": [], "cash_balance_eod": []}
    )
    added: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    updates: list[Update] = field(default_factory=list)


class Booking:
    """Bookings of one business day. ``settlements``: pending trades by date, shared by all days of a simulation."""

    def __init__(self, day: dt.date, market: Market, securities: dict[int, Security], settlements: Settlements) -> None:
        self.day = day
        self.previous = previous_business_day(day)
        self.market = market
        self.securities = securities
        self.settlements = settlements
        self.rows = DayRows()
        self.counts: Counter[str] = Counter()
        self._midnight = dt.datetime.combine(day, dt.time(), tzinfo=SYDNEY).astimezone(dt.UTC)

    def at(self, seconds: int, micro: int = 0) -> dt.datetime:
        """Return the instant ``seconds`` after the day's midnight in Sydney. The clock changes on Sundays only."""
        return self._midnight + dt.timedelta(seconds=seconds, microseconds=micro)

    def after_cutoff(self, seconds: int, micro: int = 0) -> dt.datetime:
        """Return the instant ``seconds`` after the day's cut-off."""
        return cutoff(self.day) + dt.timedelta(seconds=seconds, microseconds=micro)

    def subject(self, security_id: int) -> str:
        """Return the security's name in its owner's books: exchange and ISIN, which outlive a code."""
        security = self.securities[security_id]
        return f"{security.exchange}:{security.isin}"

    # -- units ------------------------------------------------------------------------------------------------------

    def trade(
        self,
        portfolio: Portfolio,
        trade: Trade,
        at: dt.datetime,
        *,
        reverses: Trade | None = None,
        settled: bool = False,
    ) -> None:
        """Record a contract note or its reversal. Units move now, cash at settlement (unless already ``settled``)."""
        signed = trade.units if trade.side == "BUY" else -trade.units
        self.rows.added["trade"].append((
            trade.trade_id, portfolio.portfolio_id, trade.account.account_id, trade.security_id, trade.confirmation,
            trade.side, trade.trade_date, trade.settlement_date, trade.units, trade.price, trade.consideration,
            trade.brokerage, trade.gst, trade.other_fees, trade.net_amount, trade.account.currency,
            reverses.trade_id if reverses else None, at,
        ))  # fmt: skip
        sale = trade.side == "SELL"
        entry = Entry(trade.trade_date, signed, None if sale else trade.net_amount, sale)
        self._move(portfolio, trade.security_id, entry, at)
        if trade.side == "BUY":
            trade.account.add_buy(trade.trade_date, trade.settlement_date, trade.net_amount, settled=settled)
        portfolio.trades.append(trade)

    def movement(
        self,
        portfolio: Portfolio,
        security_id: int,
        kind: str,
        date: dt.date,
        units: Decimal,
        *,
        cost: Decimal | None,
        text: str,
        at: dt.datetime,
        reverses: int | None = None,
    ) -> int:
        """Record units that move without a contract note, and return the row's key."""
        key = portfolio.new_id(self.day)
        self.rows.added["security_movement"].append(
            (key, portfolio.portfolio_id, security_id, kind, date, units, cost, text, reverses, at)
        )
        self._move(portfolio, security_id, Entry(date, units, cost, sale=False), at)
        self.counts[kind.lower()] += 1
        return key

    def _move(self, portfolio: Portfolio, security_id: int, entry: Entry, at: dt.datetime) -> None:
        position = portfolio.positions.get(security_id)
        if position is None:
            position = portfolio.positions[security_id] = Position()
        position.add(entry)
        portfolio.notes.note_units(self.subject(security_id), entry.date, at, entry.units)

    # -- cash -------------------------------------------------------------------------------------------------------

    def cash(
        self,
        portfolio: Portfolio,
        account: Account,
        kind: str,
        date: dt.date,
        amount: Decimal,
        *,
        text: str,
        at: dt.datetime,
        trade_id: int | None = None,
        income_id: int | None = None,
        reverses: int | None = None,
    ) -> int:
        """Record a cash movement, and return the row's key."""
        key = portfolio.new_id(self.day)
        self.rows.added["cash_transaction"].append(
            (key, account.account_id, kind, date, amount, account.currency, text, trade_id, income_id, reverses, at)
        )
        account.add(date, amount)
        portfolio.notes.note_cash(account.subject, date, at, amount)
        self.counts[kind.lower()] += 1
        return key

    def settle(self, portfolio: Portfolio, trade: Trade, at: dt.datetime) -> None:
        """Record the cash leg of a settlement, dated today."""
        amount = -trade.net_amount if trade.side == "BUY" else trade.net_amount
        trade.cash_id = self.cash(
            portfolio,
            trade.account,
            "SETTLEMENT",
            self.day,
            amount,
            text=f"{trade.side} {trade.confirmation}",
            at=at,
            trade_id=trade.trade_id,
        )

    def income(
        self, portfolio: Portfolio, row: Row, account: Account, cash: Decimal, *, text: str, at: dt.datetime
    ) -> None:
        """Record an income (``row`` without key and end) and its part paid in cash."""
        key = portfolio.new_id(self.day)
        full = (key, portfolio.portfolio_id, *row, None, at)
        self.rows.added["income"].append(full)
        self.counts[row[1].lower()] += 1
        if cash:
            cash_id = self.cash(portfolio, account, "INCOME", self.day, cash, text=text, at=at, income_id=key)
            portfolio.last_payment = Payment(full, cash_id, account, cash, self.day)

    def take_back_income(self, portfolio: Portfolio, payment: Payment, at: dt.datetime) -> None:
        """Reverse an income and its cash, under the date of the payment."""
        key = portfolio.new_id(self.day)
        row = list(payment.row)
        original = row[0]
        row[0] = key
        for place in range(7, 13):  # gross_amount to net_amount
            row[place] = -row[place] or ZERO
        row[6] = -row[6]
        row[14:16] = [original, at]
        self.rows.added["income"].append(tuple(row))
        self.cash(
            portfolio,
            payment.account,
            "INCOME",
            payment.date,
            -payment.amount,
            text="Payment made in error",
            at=at,
            income_id=key,
            reverses=payment.cash_id,
        )
        self.counts["reversed incomes"] += 1

    # -- state ------------------------------------------------------------------------------------------------------

    def update(self, table: str, key: dict[str, Any], at: dt.datetime, **values: Any) -> None:
        """Change a row of a state table in place."""
        self.rows.updates.append(Update(table, key, {**values, "updated_at": at}))


class Settlements:
    """Trades before their settlement date."""

    def __init__(self) -> None:
        self._by_date: defaultdict[dt.date, list[tuple[Portfolio, Trade]]] = defaultdict(list)

    def add(self, portfolio: Portfolio, trade: Trade) -> None:
        """Add a trade, to be settled on its settlement date."""
        self._by_date[trade.settlement_date].append((portfolio, trade))
        portfolio.due += 1

    def take(self, day: dt.date) -> list[tuple[Portfolio, Trade]]:
        """Remove and return the trades that settle on ``day``."""
        settled = self._by_date.pop(day, [])
        for portfolio, _ in settled:
            portfolio.due -= 1
        return settled
