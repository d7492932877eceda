"""Positions are the sums of records, whatever the dates, re-issues and extracts; and what doesn't add up is named."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from classfeed_dagster.ledger.files import POSITIONS, RECORDS, STATED
from classfeed_dagster.ledger.positions import roll_forward, unbalanced

DATES = [dt.date(2023, 1, day) for day in (3, 4, 5, 6, 9)]
NOBODY = pl.Series([], dtype=pl.Int64)


def record(at: int, portfolio: int, on: dt.date, **values: Any) -> dict[str, Any]:
    options: dict[str, Any] = dict.fromkeys(RECORDS.schema)
    options |= {
        "portfolio_id": portfolio,
        "portfolio_number": f"SW{portfolio}",
        "transaction_id": f"C{at}",
        "ledger": "C",
        "row_id": at,
        "transaction_type": "CASH_DEPOSIT",
        "transaction_date": on,
        "recorded_at": dt.datetime(2023, 1, 3, tzinfo=dt.UTC),
        "cash_account_id": portfolio * 10,
        "account_number": "1",
        "currency": "AUD",
    }
    return options | values


def records(*rows: dict[str, Any]) -> pl.DataFrame:
    return RECORDS.conform(pl.DataFrame(list(rows), schema=RECORDS.schema, orient="row"))


def balance(portfolio: int, amount: str, unsent: str | None = "0") -> dict[str, Any]:
    return {
        "portfolio_id": portfolio,
        "portfolio_number": f"SW{portfolio}",
        "kind": "CASH",
        "key_id": portfolio * 10,
        "known_as": "/1/AUD",
        "stated": Decimal(amount),
        "unsent": None if unsent is None else Decimal(unsent),
    }


def stated(*rows: dict[str, Any]) -> pl.DataFrame:
    return STATED.conform(pl.DataFrame(list(rows), schema=STATED.schema, orient="row"))


amounts = st.decimals(-1_000_000, 1_000_000, places=2)
sent_rows = st.lists(st.tuples(st.sampled_from(DATES), st.integers(1, 3), st.sampled_from(DATES), amounts), max_size=30)


@settings(deadline=None, max_examples=150)
@given(rows=sent_rows, full_on=st.dictionaries(st.integers(1, 3), st.sampled_from(DATES)))
def test_positions_of_any_date_are_the_sums_of_the_records(
    rows: list[tuple[dt.date, int, dt.date, Decimal]], full_on: dict[int, dt.date]
) -> None:
    positions = POSITIONS.empty()
    for day in DATES:
        today = [
            record(at, portfolio, on, amount=amount)
            for at, (sent, portfolio, on, amount) in enumerate(rows)
            if sent == day
        ]
        full = pl.Series([portfolio for portfolio, date in full_on.items() if date == day], dtype=pl.Int64)
        positions = roll_forward(positions, records(*today), stated(), full, day)
        expected: dict[tuple[int, dt.date | None], Decimal] = {}
        for sent, portfolio, on, amount in rows:
            began = full_on.get(portfolio, DATES[0])
            if sent <= day and not sent < began <= day:
                key = (portfolio, on if on > day else None)
                expected[key] = expected.get(key, Decimal(0)) + amount
        matches = {(row["portfolio_id"], row["counts_on"]): row["sent"] for row in positions.iter_rows(named=True)}
        assert {key: value for key, value in matches.items() if value} == {k: v for k, v in expected.items() if v}


def test_units_and_cash_add_up_apart_and_income_moves_no_units() -> None:
    bought = record(1, 1, DATES[0], ledger="T", transaction_id="T1", cash_account_id=None, account_number=None)
    bought |= {"security_id": 7, "exchange": "ASX", "security_code": "BHP", "units": Decimal(10)}
    paid = record(2, 1, DATES[0], amount=Decimal("-20.00"))
    result = roll_forward(POSITIONS.empty(), records(bought, paid), stated(), NOBODY, DATES[0])
    assert result.select("kind", "key_id", "known_as", "sent").rows() == [
        ("CASH", 10, "/1/AUD", Decimal("-20.000000")),
        ("UNITS", 7, "ASX:BHP", Decimal("10.000000")),
    ]


def test_balance_differing_from_sent_rows_is_reported_with_difference() -> None:
    sent = records(record(1, 1, DATES[0], amount=Decimal("1000.00")))
    day = DATES[0]
    same = roll_forward(POSITIONS.empty(), sent, stated(balance(1, "1000.00")), NOBODY, day)
    assert unbalanced(same).is_empty()
    more = roll_forward(POSITIONS.empty(), sent, stated(balance(1, "1123.45")), NOBODY, day)
    assert unbalanced(more)["difference"].to_list() == [Decimal("123.450000")]
    later = roll_forward(POSITIONS.empty(), sent, stated(balance(1, "1123.45", unsent="123.45")), NOBODY, day)
    assert unbalanced(later).is_empty()
    unknown = roll_forward(POSITIONS.empty(), sent, stated(balance(1, "1123.45", unsent=None)), NOBODY, day)
    assert unbalanced(unknown).is_empty()
    unstated = roll_forward(POSITIONS.empty(), sent, stated(), NOBODY, day)
    assert unbalanced(unstated)["difference"].to_list() == [Decimal("-1000.000000")]


def test_later_dated_row_is_not_in_the_balance() -> None:
    ahead = records(record(1, 1, DATES[2], amount=Decimal("5.00")))
    first = roll_forward(POSITIONS.empty(), ahead, stated(balance(1, "0.00")), NOBODY, DATES[0])
    assert unbalanced(first).is_empty()
    due = roll_forward(first, records(), stated(balance(1, "5.00")), NOBODY, DATES[2])
    assert unbalanced(due).is_empty()
    assert due.filter(pl.col("counts_on").is_not_null()).is_empty()


def test_position_has_the_name_that_was_sent_last() -> None:
    first = roll_forward(
        POSITIONS.empty(), records(record(1, 1, DATES[0], amount=Decimal("5.00"))), stated(), NOBODY, DATES[0]
    )
    renamed = records(record(2, 1, DATES[1], amount=Decimal("1.00"), account_number="2"))
    second = roll_forward(first, renamed, stated(), NOBODY, DATES[1])
    assert second["known_as"].to_list() == ["/2/AUD"]
    third = roll_forward(second, records(), stated(balance(1, "6.00")), NOBODY, DATES[2])
    assert third["known_as"].to_list() == ["/1/AUD"]
