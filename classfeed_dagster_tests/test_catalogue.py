"""Every case of the catalogue through the feed's own steps, as the recipient sees it; and none that nobody uses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.local import create_schema
from classfeed_dagster.delivery.look import date_status
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import declared_feeds
from classfeed_dagster.feeds.flags import start_flags
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.simulation.proof import delivered_pages
from classfeed_dagster.simulation.recipient import DeliveredPage, load
from classfeed_dagster_tests import catalogue
from classfeed_dagster_tests.bigsite_builder import Bigsite
from classfeed_dagster_tests.catalogue import CASES, MONDAY, TUESDAY, WEDNESDAY, Cast
from classfeed_dagster_tests.conftest import fresh_database
from classfeed_dagster_tests.feeds.morning import attempt, deliver, prepare

HERE = Path(__file__).parent
DATES = [dt.date.fromisoformat(day) for day in (MONDAY, TUESDAY, WEDNESDAY)]


@dataclass
class Recipient:
    """What the recipient has of the whole catalogue after three dates."""

    cast: Cast
    pages: list[DeliveredPage]
    runtime: Runtime

    def rows(self, frame: str, case: str, day: str) -> pl.DataFrame:
        number = self.cast[case].number
        found = [page.frames[frame] for page in self.pages if page.business_date.isoformat() == day]
        return pl.concat(found).filter(pl.col("portfolio_number") == number)

    def movements(self, case: str, day: str) -> list[tuple[str, Decimal | None, Decimal | None]]:
        rows = self.rows("movement_transactions", case, day)
        return sorted(rows.select("transaction_type", "units", "amount").iter_rows(), key=str)


@pytest.fixture(scope="module")
def recipient(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipient]:
    with fresh_database(postgres_url) as url:
        runtime = Runtime(
            Settings(
                bigsite_url=url,
                home=tmp_path_factory.mktemp("catalogue"),
                first_business_date=DATES[0],
                max_held_back_share="0.5",
                max_removed_share="1",
                slice_portfolios=4,
            )
        )
        create_schema(runtime.engine)
        start_flags(runtime.settings, declared_feeds())
        cast = Cast(Bigsite(runtime.engine))
        for name in CASES:
            cast[name]
        for day in DATES:
            # What a late row changes of earlier days is rewritten with the end of day, as bigsite does.
            for earlier in [*DATES[: DATES.index(day)], day]:
                cast.bigsite.end_of_day(earlier, at=_job(day))
            cast.bigsite.save()
            work = attempt(runtime, FEED, day)
            prepare(work)
            deliver(work)
        yield Recipient(cast, list(delivered_pages(runtime.store, FEED, DATES)), runtime)
        runtime.close()


def _job(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(14, 0), tzinfo=dt.UTC)  # 01:00 in Sydney, after the cut-off


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.breaks])
def test_a_case_that_breaks_a_rule_is_held_back_for_it(recipient: Recipient, name: str) -> None:
    held = {one.number: one.reason for one in date_status(recipient.runtime.store, FEED.name, DATES[0]).held_back}
    assert CASES[name].breaks in held[recipient.cast[name].number]
    for day in DATES:
        assert recipient.rows("accounts", name, day.isoformat()).is_empty()


def test_nobody_else_is_held_back(recipient: Recipient) -> None:
    for day in DATES:
        status = date_status(recipient.runtime.store, FEED.name, day)
        names = {recipient.cast.name_of(held.number) for held in status.held_back}
        assert names == {name for name, case in CASES.items() if case.breaks}, day


def test_every_case_that_goes_balances_at_the_recipient(recipient: Recipient) -> None:
    books = load(recipient.pages, DATES[-1])
    assert books.unbalanced().is_empty(), books.unbalanced()
    absent = {"a customer who never consents", "a customer who leaves on Tuesday"}
    goes = {name for name, case in CASES.items() if not case.breaks} - absent
    assert {recipient.cast.name_of(number) for number in books.portfolios} == goes


@pytest.mark.parametrize(
    ("name", "consent"),
    [
        ("a saver with one share", ["NEW", "CURRENT", "CURRENT"]),
        ("a customer who consents on Tuesday", [None, "NEW", "CURRENT"]),
        ("a customer who leaves on Tuesday", ["NEW", "REMOVED", None]),
        ("a customer who never consents", [None, None, None]),
    ],
)
def test_who_shares_when(recipient: Recipient, name: str, consent: list[str | None]) -> None:
    shown = [recipient.rows("accounts", name, day.isoformat())["consent"].to_list() for day in DATES]
    assert shown == [[one] if one else [] for one in consent]


def test_a_removed_customer_is_a_number_and_nothing_more(recipient: Recipient) -> None:
    name = "a customer who leaves on Tuesday"
    assert recipient.movements(name, TUESDAY) == []
    assert recipient.rows("account_balances", name, TUESDAY).is_empty()
    assert recipient.rows("accounts", name, TUESDAY)["portfolio_name"].to_list() == [None]


TYPES = {
    ("a consent that begins after the first trades", MONDAY): {"OPENING_UNITS", "OPENING_CASH", "SELL"},
    ("a reversal across month end", TUESDAY): {"BUY"},
    ("a row backdated by a week", TUESDAY): {"TRANSFER_IN"},
    ("a dividend reinvested", MONDAY): {"DIVIDEND", "DRP", "BUY", "CASH_DEPOSIT", "CASH_SETTLEMENT"},
    ("a fund in pension phase", MONDAY): {"DIVIDEND", "CASH_INCOME", "CASH_WITHDRAWAL", "BUY", "CASH_DEPOSIT"},
    ("a sale that is not settled yet", MONDAY): {"SELL"},
    ("dollars abroad", MONDAY): {"BUY", "CASH_DEPOSIT", "CASH_SETTLEMENT"},
}


@pytest.mark.parametrize(("name", "day"), TYPES, ids=[name for name, _ in TYPES])
def test_what_a_case_is_for_is_in_its_movements(recipient: Recipient, name: str, day: str) -> None:
    assert {kind for kind, _, _ in recipient.movements(name, day)} >= TYPES[name, day]


def test_a_reversal_travels_in_its_own_window_under_its_first_date(recipient: Recipient) -> None:
    name = "a reversal across month end"
    rows = recipient.rows("movement_transactions", name, TUESDAY).filter(pl.col("transaction_type") == "BUY")
    assert rows["transaction_date"].to_list() == [dt.date(2026, 2, 25)]
    assert rows["units"].to_list() == [Decimal(-100)]


def test_units_are_gone_and_the_money_is_still_to_come(recipient: Recipient) -> None:
    name = "a sale that is not settled yet"
    (held,) = recipient.rows("investment_holdings", name, MONDAY).to_dicts()
    assert (held["units"], held["settled_units"]) == (Decimal(30), Decimal(100))


def test_a_code_is_that_of_the_date(recipient: Recipient) -> None:
    name = "a share that is renamed on Tuesday"
    codes = [recipient.rows("investment_holdings", name, day.isoformat())["security_code"].to_list() for day in DATES]
    assert codes == [["OLD"], ["NEW"], ["NEW"]]


def test_a_name_survives(recipient: Recipient) -> None:
    name = "a name that needs escaping"
    assert recipient.rows("accounts", name, MONDAY)["portfolio_name"].to_list() == [
        'Nguyễn & Søren <"Ünïted"> O\'Brien, Super Fund'
    ]


def test_dollars_stay_apart(recipient: Recipient) -> None:
    balances = recipient.rows("account_balances", "dollars abroad", MONDAY)
    assert set(balances["currency"]) == {"AUD", "USD"}


def test_no_case_is_unused_and_each_says_what_it_is_for() -> None:
    texts = [
        path.read_text()
        for path in [*HERE.rglob("*.py"), *HERE.rglob("*.feature")]
        if path.name not in {Path(catalogue.__file__).name}
    ]
    unused = [name for name in CASES if not any(name in text for text in texts)]
    assert unused == []
    assert all(len(case.purpose) > 20 for case in CASES.values())


def test_an_unknown_case_is_said_so() -> None:
    with pytest.raises(KeyError, match="a saver with one share"):
        Cast(Bigsite(sa.create_mock_engine("postgresql://", lambda *_: None)))["a saver with two shares"]  # type: ignore[arg-type]
