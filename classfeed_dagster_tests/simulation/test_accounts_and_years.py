"""Positions and accounts whatever the order of booking, and customers over a year, in memory."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.simulation.accounts import Account, Entry, Position
from classfeed_dagster.simulation.booking import DayRows
from classfeed_dagster.simulation.customers import CLASS, ConsentPlan, Persona, Timeline, customer
from classfeed_dagster.simulation.day import Plan, Simulation, window_day
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.world import World
from classfeed_dagster.trading_days import cutoff
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, SEED, small_world

DAY = dt.timedelta(days=1)


@given(st.permutations(range(6)))
def test_position_is_independent_of_booking_order(order: list[int]) -> None:
    entries = [
        Entry(FIRST, Decimal(100), Decimal("1000.00"), sale=False),
        Entry(FIRST + DAY, Decimal(50), Decimal("600.00"), sale=False),
        Entry(FIRST + 2 * DAY, Decimal(-30), None, sale=True),
        Entry(FIRST + 3 * DAY, Decimal(0), Decimal("-28.00"), sale=False),
        Entry(FIRST + 4 * DAY, Decimal(-120), None, sale=True),
        Entry(FIRST + 5 * DAY, Decimal(7), Decimal("70.00"), sale=False),
    ]
    position = Position()
    for place in order:
        position.add(entries[place])
    assert (position.units, position.cost) == (Decimal(7), Decimal("70.00"))
    assert position.as_at(FIRST + 2 * DAY) == (Decimal(120), Decimal("1280.00"))
    assert position.as_at(FIRST + 4 * DAY) == (Decimal(0), Decimal("0.00"))
    assert position.as_at(FIRST - DAY) == (Decimal(0), Decimal("0.00"))
    assert position.changed_from == FIRST


def test_unknown_cost_stays_unknown_until_all_is_gone() -> None:
    position = Position()
    position.add(Entry(FIRST, Decimal(10), None, sale=False))
    position.add(Entry(FIRST + DAY, Decimal(5), Decimal("50.00"), sale=False))
    assert position.cost is None
    position.add(Entry(FIRST + 2 * DAY, Decimal(-3), None, sale=True))
    assert position.cost is None
    position.add(Entry(FIRST + 3 * DAY, Decimal(-12), None, sale=True))
    assert position.cost == 0


def test_account_keeps_money_for_unsettled_buys() -> None:
    account = Account(1, "000000001", "AUD")
    account.add(FIRST, Decimal("1000.00"))
    account.add_buy(FIRST, FIRST + 2 * DAY, Decimal("400.00"))
    account.add_buy(FIRST, FIRST + 2 * DAY, Decimal("-100.00"))
    account.add_buy(FIRST - DAY, FIRST, Decimal("5.00"), settled=True)
    assert (account.balance, account.available) == (Decimal("1000.00"), Decimal("700.00"))
    assert account.as_at(FIRST + DAY) == (Decimal("1000.00"), Decimal("700.00"))
    assert account.as_at(FIRST + 2 * DAY) == (Decimal("1000.00"), Decimal("1000.00"))
    assert account.as_at(FIRST - DAY) == (Decimal("0.00"), Decimal("-5.00"))
    assert account.changed_from == FIRST - DAY
    assert account.subject == "000000001:AUD"


@pytest.fixture(scope="module")
def year() -> tuple[Simulation, list[DayRows]]:
    """Simulate 50 portfolios over 12 days of history and 250 business days."""
    simulation = Simulation(Plan(SEED, 40, 50, FIRST, 12), InventedMarket(SEED, FIRST))
    rows = [simulation.run()[1] for _ in range(262)]
    return simulation, rows


def test_books_after_a_year_equal_bigsite(year: tuple[Simulation, list[DayRows]]) -> None:
    simulation, _ = year
    for portfolio in simulation.portfolios:
        units: defaultdict[str, Decimal] = defaultdict(Decimal)
        cash: defaultdict[str, Decimal] = defaultdict(Decimal)
        for notes, total in ((portfolio.notes.units, units), (portfolio.notes.cash, cash)):
            for note in notes:
                total[note.subject] += note.change
        securities = {s.security_id: f"{s.exchange}:{s.isin}" for s in simulation.market.securities()}
        assert units == {securities[s]: position.units for s, position in portfolio.positions.items()}
        assert all(position.units >= 0 for position in portfolio.positions.values())
        for account in portfolio.accounts.values():
            assert cash[account.subject] == account.balance
            assert account.available >= 0


def test_account_has_no_booking_before_opening_or_after_closing(year: tuple[Simulation, list[DayRows]]) -> None:
    simulation, rows = year
    opened = {p.portfolio_id: p.customer.opened_on for p in simulation.portfolios}
    closed = {p.portfolio_id: p.closed_on or dt.date.max for p in simulation.portfolios}
    booked = Counter(row[1] for day in rows for row in day.added["trade"])
    assert len(booked) > 40
    for day in rows:
        for trade in day.added["trade"]:
            assert opened[trade[1]] < trade[6] <= closed[trade[1]]
        for movement in day.added["security_movement"]:
            assert opened[movement[1]] < movement[4] <= closed[movement[1]]


def test_year_has_its_regular_events(year: tuple[Simulation, list[DayRows]]) -> None:
    simulation, _ = year
    totals: Counter[str] = Counter()
    for summary in simulation.summaries.values():
        totals.update(summary.counts)
    trades = totals["buys"] + totals["sells"]
    assert totals["reversed trades"] < trades * 0.05  # corrections stay the exception
    assert totals["reversed trades"] > 10
    assert totals["reversed movements"] > 5
    assert totals["reversed incomes"] > 3
    assert totals["distribution"] > 50
    assert totals["dividend"] > 100
    assert all(p.closed_on for p in simulation.portfolios if p.customer.persona is Persona.ESTATE)
    traders = [p for p in simulation.portfolios if p.customer.persona is Persona.TRADER]
    assert all(len(p.notes.units) > 150 for p in traders)


def test_personas_all_occur_among_few_customers() -> None:
    personas = {c.persona for c in small_world(30, 24).plan.customers()}
    assert personas == set(Persona)


def test_tiny_world_ends_no_consent() -> None:
    timeline = Timeline(FIRST, 12)
    for number in range(20):
        person = customer(SEED, number, shares=True, timeline=timeline)
        assert any(c.expires_at is None and c.revoked_at is None for c in person.consents)


def test_consents_are_well_formed() -> None:
    timeline = Timeline(FIRST, 40)
    opened_late = 0
    for number in range(1500):
        person = customer(SEED, number, shares=number < 1200, timeline=timeline)
        for consent in person.consents:
            ends = [end for end in (consent.expires_at, consent.revoked_at) if end is not None]
            assert all(end > consent.granted_at for end in ends)
        assert len({c.consent_id for c in person.consents}) == len(person.consents)
        active = any(c.recipient == CLASS and c.holds(cutoff(FIRST)) for c in person.consents)
        assert active == (number < 1200)
        opened_late += person.opened_on > FIRST
    assert opened_late > 5


def test_event_exactly_at_a_cut_off_belongs_to_the_next_day() -> None:
    at = cutoff(FIRST)
    assert ConsentPlan(1, CLASS, "A", None, at - DAY, expires_at=at).holds(at)
    assert not ConsentPlan(1, CLASS, "A", None, at).holds(at)
    assert not ConsentPlan(1, CLASS, "A", None, at - DAY, revoked_at=at - DAY / 2).holds(at)
    assert window_day(at) == FIRST + DAY
    assert window_day(at - dt.timedelta(microseconds=1)) == FIRST
    assert window_day(cutoff(dt.date(2023, 1, 6))) == dt.date(2023, 1, 9)


def test_worlds_are_distinguished_by_their_marker() -> None:
    def fingerprint(**more: object) -> str:
        world: World = small_world(**more)  # type: ignore[arg-type]
        return world.fingerprint

    same, other = fingerprint(), fingerprint(history_days=13)
    assert same == fingerprint()
    assert same != other
