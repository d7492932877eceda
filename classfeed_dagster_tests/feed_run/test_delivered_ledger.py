"""The delivered ledger through the real steps: what it holds, late rows, identities, and what must add up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from openfeature import api

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.delivery.publish import Outcome
from classfeed_dagster.delivery.sent import SentDate, positions_at, sent_date
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Portfolio, Row
from classfeed_dagster_tests.fixtures.morning import attempt, deliver, prepare

FRIDAY, MONDAY, TUESDAY = dt.date(2020, 4, 3), dt.date(2020, 4, 6), dt.date(2020, 4, 7)
AUDIENCE = FEED.audience(FRIDAY)


@dataclass
class Morning:
    """A small bigsite, and the feed's mornings in a plain loop."""

    bigsite: Bigsite
    runtime: Runtime
    funds: list[Portfolio] = field(default_factory=list)
    bhp: Row | None = None

    def run(self, day: dt.date, *, fresh: bool = False) -> Outcome:
        work = attempt(self.runtime, FEED, day, (FEED,))
        prepare(work, fresh=fresh)
        return deliver(work)

    def end_of_day(self, day: dt.date) -> None:
        self.bigsite.end_of_day(day)
        self.bigsite.save()

    def execute(self, statement: sa.Executable) -> None:
        assert self.bigsite.engine is not None
        with self.bigsite.engine.begin() as connection:
            connection.execute(statement)

    def sent(self, day: dt.date) -> SentDate:
        return sent_date(self.runtime.store, FEED.name, day)

    def ids(self, day: dt.date) -> list[str]:
        return sorted(self.sent(day).frame("records")["transaction_id"])

    def position(self, fund: Portfolio, day: dt.date) -> Decimal:
        positions = positions_at(self.runtime.store, FEED.name, AUDIENCE, day)
        assert positions is not None
        rows = positions.filter(
            pl.col("portfolio_id") == fund.id, pl.col("kind") == "CASH", pl.col("counts_on").is_null()
        )
        return Decimal(rows["sent"].sum())

    def reasons(self, day: dt.date) -> dict[str, str]:
        status = date_status(self.runtime.store, FEED.name, day)
        return {held.number: held.held_back.reason for held in status.quarantined}


@pytest.fixture
def morning(bigsite_engine: sa.Engine, tmp_path: Path) -> Iterator[Morning]:
    url = bigsite_engine.url.render_as_string(hide_password=False)
    runtime = Runtime(Settings(bigsite_url=url, home=tmp_path, first_business_date=FRIDAY, max_held_back_share="1"))
    start_flags(runtime.settings, (FEED,))
    bigsite = Bigsite(bigsite_engine)
    made = Morning(bigsite, runtime)
    made.bhp = bigsite.security("BHP", price={"2020-04-03": "20.00"})
    for number in ("SW00005001", "SW00005002"):
        fund = bigsite.portfolio(number).consent(granted_at="2020-03-01T00:00:00Z")
        fund.deposit("1000.00", "2020-04-01")
        fund.buy(made.bhp, "10", "20.00", "2020-04-01")
        made.funds.append(fund)
    made.end_of_day(FRIDAY)
    yield made
    runtime.close()
    api.clear_providers()


def visible_late(morning: Morning, fund: Portfolio, amount: str, recorded_at: str, on: dt.date = FRIDAY) -> Row:
    """Record a deposit that the database shows only now, with an old instant."""
    row = fund.deposit(amount, on, recorded_at=recorded_at)
    morning.bigsite.save()
    return row


def test_a_delivery_names_its_ledger_and_positions_are_the_sums(morning: Morning) -> None:
    outcome = morning.run(FRIDAY)
    assert outcome.manifest is not None
    assert outcome.manifest.ledger is not None
    kinds = [file.kind for file in outcome.manifest.ledger.files]
    assert kinds == ["records", "positions", "portfolios", "identities"]
    records = morning.sent(FRIDAY).frame("records")
    assert records.height == sum(outcome.manifest.counts[name] for name in ("MovementTransactions",))
    first = morning.funds[0]
    assert set(records["portfolio_id"]) == {fund.id for fund in morning.funds}
    stated = morning.sent(FRIDAY).frame("positions").filter(pl.col("portfolio_id") == first.id)
    assert (stated["sent"] == stated["stated"]).all()
    names = set(records.columns) | set(stated.columns)
    assert not names & {"portfolio_name", "account_name", "narrative", "description"}
    assert verify_feed(morning.runtime.store, FEED.name, FEED.format).problems == []


def test_positions_roll_forward_without_earlier_records(morning: Morning) -> None:
    morning.run(FRIDAY)
    first = morning.funds[0]
    before = morning.position(first, FRIDAY)
    first.deposit("5.50", MONDAY)
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.position(first, MONDAY) == before + Decimal("5.50")
    assert not morning.reasons(MONDAY)


def test_a_row_that_became_visible_late_travels_once_in_the_next_date(morning: Morning) -> None:
    morning.run(FRIDAY)
    late = visible_late(morning, morning.funds[0], "123.45", "2020-04-03T12:59:58Z")
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert f"C{late.id}" in morning.ids(MONDAY)
    assert not morning.reasons(MONDAY)
    # A fresh snapshot of the closed date sees the row as well: it was sent, and is not sent again.
    morning.end_of_day(FRIDAY)
    morning.run(FRIDAY, fresh=True)
    assert f"C{late.id}" not in morning.ids(FRIDAY)
    assert not morning.reasons(FRIDAY)
    morning.end_of_day(TUESDAY)
    morning.run(TUESDAY)
    assert f"C{late.id}" not in morning.ids(TUESDAY)
    assert not morning.reasons(TUESDAY)


def test_a_row_that_vanished_holds_its_portfolio_back_with_the_difference(morning: Morning) -> None:
    morning.run(FRIDAY)
    gone = next(row for row in morning.bigsite.rows[tables.cash_transaction] if row["amount"] == Decimal("1000.00"))
    morning.funds[0].ledger[tables.cash_transaction].remove(gone)
    column = tables.cash_transaction.c.cash_transaction_id
    morning.execute(sa.delete(tables.cash_transaction).where(column == gone.id))
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    number = morning.funds[0].number
    assert list(morning.reasons(MONDAY)) == [number]
    assert "delivered_balance" in morning.reasons(MONDAY)[number]
    findings = attempt(morning.runtime, FEED, MONDAY, (FEED,)).ledger_view().frame()
    assert "-1000 differ" in findings["detail"][0]
    assert f"C{gone.id}" in findings["detail"][0]


def test_a_renumbered_cash_account_holds_its_portfolio_back(morning: Morning) -> None:
    morning.run(FRIDAY)
    account = morning.funds[0].cash()
    account["account_number"] = "900000001"
    changed = tables.cash_account.c.cash_account_id == account.id
    morning.execute(sa.update(tables.cash_account).where(changed).values(account_number="900000001"))
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert morning.reasons(MONDAY) == {morning.funds[0].number: "breaks number_changed (once)"}


def test_a_renumbered_portfolio_is_never_sent_under_two_numbers(morning: Morning) -> None:
    morning.run(FRIDAY)
    old = morning.funds[1]
    changed = tables.portfolio.c.portfolio_id == old.id
    morning.execute(sa.update(tables.portfolio).where(changed).values(portfolio_number="FNZ5002"))
    old.row["portfolio_number"] = "FNZ5002"
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert "number_changed" in morning.reasons(MONDAY)["FNZ5002"]
    morning.run(FRIDAY, fresh=True)
    assert "number_changed" in morning.reasons(FRIDAY)["FNZ5002"]
    morning.run(MONDAY, fresh=True)
    for day in (FRIDAY, MONDAY):
        numbers = morning.sent(day).frame("records")["portfolio_number"].unique().to_list()
        assert "FNZ5002" not in numbers


def test_two_portfolios_that_swap_numbers_are_both_held_back(morning: Morning) -> None:
    morning.run(FRIDAY)
    one, other = morning.funds
    number = tables.portfolio.c.portfolio_number
    for fund, name in ((one, "X"), (other, one.number), (one, other.number)):
        morning.execute(
            sa.update(tables.portfolio).where(tables.portfolio.c.portfolio_id == fund.id).values(portfolio_number=name)
        )
    assert number is not None
    one.row["portfolio_number"], other.row["portfolio_number"] = other.number, one.number
    morning.end_of_day(MONDAY)
    morning.run(MONDAY)
    assert set(morning.reasons(MONDAY)) == {"SW00005001", "SW00005002"}
