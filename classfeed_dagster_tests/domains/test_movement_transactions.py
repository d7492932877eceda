"""movement_transactions: FULL, DELTA and openings; ids, signs and links by the document's schema."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.domains.columns import MOVEMENT_TRANSACTIONS
from classfeed_dagster.domains.movement_transactions import movement_transactions
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.landed import CLASS, CUTOFF, NEW, TODAY, YESTERDAY, D, instant, part

START = "2023-01-31T13:00:00Z"  # of D's window
HISTORY = "2022-07-01"


def _frame(*args: Any, **rows: Any) -> pl.DataFrame:
    frame = movement_transactions(part(*args, **rows))["movement_transactions"]
    assert frame.schema == pl.Schema(MOVEMENT_TRANSACTIONS.schema)
    return frame


def _only(**rows: Any) -> dict[str, Any]:
    (row,) = _frame(**rows).to_dicts()
    return {name: value for name, value in row.items() if value is not None}


def _ids(**rows: Any) -> list[str]:
    return list(_frame(**rows)["transaction_id"])


def test_buy_becomes_a_movement() -> None:
    assert _only(trade=[{"trade_id": 7}]) == {
        "transaction_id": "T7",
        "portfolio_number": "SW000001",
        "transaction_type": "BUY",
        "transaction_date": D,
        "settlement_date": dt.date(2023, 2, 3),
        "recorded_at": instant(TODAY),
        "exchange": "ASX",
        "security_code": "BHP",
        "isin": "AU000000BHP4",
        "units": Decimal(10),
        "confirmation_number": "CN1",
        "price": Decimal(10),
        "consideration": Decimal("100.00"),
        "brokerage": Decimal("9.50"),
        "gst": Decimal("0.86"),
        "other_fees": Decimal("0.00"),
        "net_amount": Decimal("109.50"),
        "currency": "AUD",
    }


def test_units_of_a_trade_take_their_sign_from_the_side() -> None:
    assert _only(trade=[{"side": "SELL"}])["units"] == Decimal(-10)
    reversal = {
        "side": "SELL",
        "units": "-10",
        "consideration": "-100",
        "reverses_trade_id": 3,
        "reversed_portfolio_id": 1,
    }
    undone = _only(trade=[reversal])
    assert (undone["units"], undone["consideration"], undone["reverses"]) == (Decimal(10), Decimal(-100), "T3")
    assert "units" not in _only(trade=[{"side": "SHORT"}])


def test_security_movement_has_a_currency_only_with_money() -> None:
    moved = _only(security_movement=[{"units_change": "-5", "movement_type": "TRANSFER_OUT"}])
    assert (moved["transaction_id"], moved["transaction_type"], moved["units"]) == ("S1", "TRANSFER_OUT", Decimal(-5))
    assert moved["narrative"] == "Transfer"
    assert "currency" not in moved
    foreign = _only(security=[{"currency": "USD"}], security_movement=[{"cost_base_change": "-12.34"}])
    assert (foreign["cost_base_change"], foreign["currency"]) == (Decimal("-12.34"), "USD")


def test_income_carries_the_units_it_was_paid_on() -> None:
    paid = _only(income=[{"income_type": "INTEREST", "reverses_income_id": 9, "reversed_portfolio_id": 1}])
    assert (paid["transaction_id"], paid["transaction_type"], paid["reverses"]) == ("I1", "INTEREST_INCOME", "I9")
    assert (paid["units"], paid["net_income"], paid["ex_date"]) == (Decimal(100), Decimal(70), dt.date(2023, 1, 10))
    assert _only(income=[{}])["transaction_type"] == "DIVIDEND"


def test_cash_movement_states_its_cause() -> None:
    settled = _only(cash_transaction=[{"transaction_type": "SETTLEMENT", "amount": "-109.50", "trade_id": 7}])
    assert (settled["transaction_type"], settled["relates_to"], settled["amount"]) == (
        "CASH_SETTLEMENT",
        "T7",
        Decimal("-109.50"),
    )
    assert (settled["bsb"], settled["account_number"], settled["currency"]) == ("999-001", "000000001", "AUD")
    assert _only(cash_transaction=[{"income_id": 4}])["relates_to"] == "I4"
    undone = _only(cash_transaction=[{"reverses_cash_transaction_id": 5, "reversed_portfolio_id": 1}])
    assert undone["reverses"] == "C5"
    assert "relates_to" not in undone


def test_reference_to_a_row_before_the_shared_history_is_left_out() -> None:
    shared = {"data_sharing_consent": [{"history_from": "2023-01-20"}]}
    before, within = {"related_on": "2023-01-19"}, {"related_on": "2023-01-20"}
    assert "relates_to" not in _only(**shared, cash_transaction=[{"trade_id": 7, **before}])
    assert _only(**shared, cash_transaction=[{"trade_id": 7, **within}])["relates_to"] == "T7"
    assert _only(cash_transaction=[{"trade_id": 7, **before}])["relates_to"] == "T7"
    undoes = {"reverses_income_id": 9, "reversed_portfolio_id": 1}
    assert "reverses" not in _only(**shared, income=[{**undoes, "reversed_on": "2023-01-19"}])
    assert _only(**shared, income=[{**undoes, "reversed_on": "2023-01-20"}])["reverses"] == "I9"
    assert _only(**shared, income=[undoes])["reverses"] == "I9"  # landed before the date was


def test_delta_is_the_window_for_rows_of_any_date() -> None:
    rows = [
        {"recorded_at": "2023-01-31T12:59:59.999999Z"},
        {"recorded_at": START, "transaction_date": "2022-12-01"},
        {"recorded_at": "2023-02-01T12:59:59.999999Z", "transaction_date": "2023-03-01"},
        {"recorded_at": CUTOFF},
    ]
    assert _ids(cash_transaction=rows) == ["C2", "C3"]


def test_weekly_audience_gets_the_weeks_rows() -> None:
    weekly = RecipientSchedule("CLASS", dt.date(2023, 1, 3), Cadence.WEEKLY)
    friday = dt.date(2023, 2, 3)
    rows = [{"recorded_at": "2023-01-27T12:59:59Z"}, {"recorded_at": "2023-01-27T13:00:00Z"}, {"recorded_at": TODAY}]
    assert list(_frame(weekly, friday, cash_transaction=rows)["transaction_id"]) == ["C2", "C3"]


def test_full_extract_is_the_shared_history() -> None:
    rows = [
        {"transaction_date": "2022-06-30", "recorded_at": YESTERDAY},
        {"transaction_date": "2022-07-01", "recorded_at": YESTERDAY},
        {"transaction_date": "2023-02-01", "recorded_at": CUTOFF},
    ]
    assert _ids(data_sharing_consent=[{**NEW, "history_from": HISTORY}], cash_transaction=rows) == ["C2"]
    assert _ids(data_sharing_consent=[NEW], cash_transaction=rows) == ["C1", "C2"]


def test_delta_leaves_out_rows_dated_before_the_shared_history() -> None:
    rows = [{"transaction_date": "2022-06-30"}, {"transaction_date": "2022-07-01"}]
    assert _ids(data_sharing_consent=[{"history_from": HISTORY}], cash_transaction=rows) == ["C2"]


def test_openings_of_a_full_extract_are_first_and_a_day_earlier() -> None:
    frame = _frame(
        data_sharing_consent=[{**NEW, "history_from": HISTORY}],
        security=[{"code": "NEW"}],
        security_code_change=[{"effective_on": HISTORY}],
        opening_units=[{"units": "50"}],
        opening_cash=[{"amount": "-3.21"}],
        trade=[{"trade_date": HISTORY, "recorded_at": "2022-07-01T00:00:00Z"}],
    )
    assert list(frame["transaction_id"]) == ["OC-SW000001-1-20230201", "OU-SW000001-1-20230201", "T1"]
    assert frame["transaction_type"].to_list() == ["OPENING_CASH", "OPENING_UNITS", "BUY"]
    assert frame["transaction_date"].to_list()[:2] == [dt.date(2022, 6, 30)] * 2
    assert frame["recorded_at"].to_list()[:2] == [instant("2022-06-30T14:00:00Z")] * 2  # midnight of winter in Sydney
    assert frame["security_code"].to_list() == [None, "OLD", "NEW"]  # as on its own date
    assert frame["units"].to_list() == [None, Decimal(50), Decimal(10)]
    assert frame["amount"].to_list() == [Decimal("-3.21"), None, None]
    assert frame["currency"].to_list() == ["AUD", None, "AUD"]


@pytest.mark.parametrize(
    ("first_row", "opening"),
    [
        ("2022-12-31T13:00:00Z", "2022-12-31T12:59:59.999999Z"),  # recorded at midnight itself
        ("2022-11-01T00:00:00Z", "2022-10-31T23:59:59.999999Z"),  # recorded ahead of its date
        ("2022-12-31T13:00:00.000001Z", "2022-12-31T13:00:00Z"),
    ],
)
def test_opening_comes_before_rows_that_were_recorded_early(first_row: str, opening: str) -> None:
    frame = _frame(
        data_sharing_consent=[{**NEW, "history_from": "2023-01-01"}],
        opening_units=[{}],
        income=[{"payment_date": "2023-01-05", "recorded_at": first_row}],
    )
    assert frame["recorded_at"].to_list() == [instant(opening), instant(first_row)]


def test_late_row_before_the_shared_history_is_a_further_opening() -> None:
    late = _only(
        data_sharing_consent=[{"history_from": HISTORY}], opening_units=[{"units": "-2", "recorded_at": TODAY}]
    )
    assert (late["transaction_id"], late["units"]) == ("OU-SW000001-1-20230201", Decimal(-2))
    assert (late["transaction_date"], late["recorded_at"]) == (dt.date(2022, 6, 30), instant(TODAY))


def test_openings_of_another_audience_are_left_out() -> None:
    openings = [{"audience": "BGL-20230103-weekly"}, {"audience": CLASS.key, "cash_account_id": 2}]
    ids = _ids(
        data_sharing_consent=[{"history_from": HISTORY}],
        opening_cash=openings,
        cash_account=[{}, {"cash_account_id": 2}],
    )
    assert ids == ["OC-SW000001-2-20230201"]


def test_portfolio_removed_or_unshared_sends_nothing() -> None:
    removed = {"data_sharing_consent": [{"revoked_at": TODAY}, {"recipient": "BGL"}]}
    assert _frame(**removed, trade=[{}], income=[{}], cash_transaction=[{}], security_movement=[{}]).is_empty()
    assert _frame(trade=[{"portfolio_id": 2}], opening_units=[{"portfolio_id": 2}]).is_empty()


def test_opening_that_does_not_fit_is_not_sent() -> None:
    huge = [{"units": "100000000000000"}, {"security_id": 1, "units": "1"}]
    assert _frame(data_sharing_consent=[{"history_from": HISTORY}], opening_units=huge).height == 1


def test_movements_are_ordered_by_portfolio_instant_and_id() -> None:
    frame = _frame(
        data_sharing_consent=[{"portfolio_number": "SW2"}, {"portfolio_id": 2, "portfolio_number": "SW10"}],
        portfolio=[{}, {"portfolio_id": 2}],
        cash_transaction=[{"cash_transaction_id": 9}, {"cash_transaction_id": 10}],
        trade=[{"recorded_at": START, "trade_id": 5}, {"portfolio_id": 2, "trade_id": 6}],
    )
    assert list(frame["transaction_id"]) == ["T6", "T5", "C10", "C9"]


_days = st.integers(-400, 0).map(lambda back: (D + dt.timedelta(days=back)).isoformat())
_units = st.decimals(-1000, 1000, places=6)


@examples(60)
@given(
    st.lists(st.tuples(st.sampled_from(["BUY", "SELL"]), _days, _units), max_size=12),
    st.lists(st.tuples(_days, _units), max_size=12),
    _days,
)
def test_openings_and_movements_sum_to_the_ledger(
    trades: list[tuple[str, str, Decimal]], moves: list[tuple[str, Decimal]], history_from: str
) -> None:
    signed = [(day, units if side == "BUY" else -units) for side, day, units in trades] + moves
    ledger = sum((units for _, units in signed), Decimal(0))
    # What the snapshot's SQL sums up: everything dated before the shared history.
    before = sum((units for day, units in signed if day < history_from), Decimal(0))
    frame = _frame(
        data_sharing_consent=[{**NEW, "history_from": history_from}],
        opening_units=[{"units": before}] if before else [],
        trade=[{"side": side, "trade_date": day, "units": units} for side, day, units in trades],
        security_movement=[{"effective_date": day, "units_change": units} for day, units in moves],
    )
    assert sum(frame["units"].to_list(), Decimal(0)) == ledger
    assert all(day <= D for day in frame["transaction_date"])
