"""bigsite's end-of-day job: holdings and balances of every portfolio, and past days that changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal

from classfeed_dagster.simulation.accounts import Account, Portfolio, Position
from classfeed_dagster.simulation.booking import Booking
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import business_days_between, cutoff, previous_business_day

Misstatement = Callable[[Portfolio, int, dt.date], Decimal]
"""Units by which the job misstates a holding as at a date: zero without a planted fault."""


def run_time(seed: int, day: dt.date) -> dt.datetime:
    """Return the instant at which the job of ``day`` runs: 40 to 110 minutes after the cut-off."""
    draw = HashRandom(seed, "end of day", day)
    return cutoff(day) + dt.timedelta(seconds=2400 + draw.below(4200), microseconds=draw.below(10**6))


def end_of_day(
    booking: Booking,
    portfolios: Iterable[Portfolio],
    run_at: dt.datetime,
    written_from: dt.date,
    misstatement: Misstatement,
) -> None:
    """Write the day's rows of ``holding_eod`` and ``cash_balance_eod`` and rewrite those of past days that changed.

    Days before ``written_from`` have no rows: their changes are only discarded.
    """
    written = booking.day >= written_from
    for portfolio in portfolios:
        if portfolio.closed_on is not None and portfolio.closed_on < booking.day:
            continue
        for security_id, position in portfolio.positions.items():
            if written:
                _holding(
                    booking,
                    portfolio,
                    security_id,
                    position,
                    run_at=run_at,
                    written_from=written_from,
                    wrong=misstatement,
                )
            position.changed_from = None
        for account in portfolio.accounts.values():
            if written:
                _balance(booking, portfolio, account, run_at, written_from)
            account.changed_from = None


def _holding(
    booking: Booking,
    portfolio: Portfolio,
    security_id: int,
    position: Position,
    *,
    run_at: dt.datetime,
    written_from: dt.date,
    wrong: Misstatement,
) -> None:
    rows, key = booking.rows.added["holding_eod"], (portfolio.portfolio_id, security_id)
    changed = position.changed_from
    if position.units or (changed is not None and position.as_at(booking.previous)[0]):
        units = position.units + wrong(portfolio, security_id, booking.day)
        rows.append((booking.day, *key, units, position.cost, run_at))
    if changed is None or changed >= booking.day:
        return
    for day in business_days_between(max(changed, written_from), booking.previous):
        units, cost = position.as_at(day)
        booking.rows.removed["holding_eod"].append((day, *key))
        # A holding that fell to zero has one row; one that no longer existed has none.
        if units or position.as_at(previous_business_day(day))[0]:
            rows.append((day, *key, units + wrong(portfolio, security_id, day), cost, run_at))
            booking.counts["rewritten holdings"] += 1


def _balance(
    booking: Booking, portfolio: Portfolio, account: Account, run_at: dt.datetime, written_from: dt.date
) -> None:
    rows, changed = booking.rows.added["cash_balance_eod"], account.changed_from
    if portfolio.closed_on is None:
        rows.append((booking.day, account.account_id, account.balance, account.available, run_at))
    if changed is None or changed >= booking.day:
        return
    first = max(changed, written_from, portfolio.customer.opened_on)
    for day in business_days_between(first, booking.previous):
        ledger, available = account.as_at(day)
        booking.rows.removed["cash_balance_eod"].append((day, account.account_id))
        rows.append((day, account.account_id, ledger, available, run_at))
        booking.counts["rewritten balances"] += 1
