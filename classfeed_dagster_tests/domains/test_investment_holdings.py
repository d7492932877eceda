"""investment_holdings: codes and closes as on the date, settled units, exact market values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster.domains.investment_holdings import investment_holdings
from classfeed_dagster_tests.fixtures.examples import examples
from classfeed_dagster_tests.fixtures.landed import D, part


def _holding(**rows: Any) -> dict[str, Any]:
    frame = investment_holdings(part(**{"holding_eod": [{}], **rows}))["investment_holdings"]
    (holding,) = frame.to_dicts()
    return holding


def test_holding_is_valued_at_the_last_close_on_or_before_the_date() -> None:
    prices = [
        {"price_date": "2023-01-27", "close_price": "44.000000"},
        {"price_date": "2023-01-31", "close_price": "45.005000"},
        {"price_date": "2023-02-02", "close_price": "50.000000"},
    ]
    holding = _holding(holding_eod=[{"units": "3", "cost_base": "99.00"}], security_price=prices)
    assert (holding["price"], holding["price_date"]) == (Decimal("45.005000"), dt.date(2023, 1, 31))
    assert holding["market_value"] == Decimal("135.02")  # 135.015, half up
    assert (holding["cost_base"], holding["as_at_date"]) == (Decimal("99.00"), D)


def test_security_that_never_traded_has_no_price_and_no_value() -> None:
    holding = _holding(security_price=[{"security_id": 2}])
    assert (holding["price"], holding["price_date"], holding["market_value"]) == (None, None, None)


def test_settled_units_leave_out_what_has_not_settled() -> None:
    # A buy of 30 and a sell of 10 in progress: 20 more are held than settled.
    assert _holding(holding_eod=[{"units": "100", "unsettled_units": "20"}])["settled_units"] == Decimal(80)
    assert _holding(holding_eod=[{"units": "0", "unsettled_units": "-40"}])["settled_units"] == Decimal(40)


def test_holding_carries_the_hin_on_asx_only() -> None:
    assert _holding()["hin"] == "X0000000001"
    assert _holding(security=[{"exchange": "NASDAQ", "code": "MSFT", "currency": "USD"}])["hin"] is None


@pytest.mark.parametrize(
    ("effective_on", "code", "name"),
    [
        ("2023-01-31", "NEW", "NEW NAME"),
        ("2023-02-01", "NEW", "NEW NAME"),  # the first day on which the new code trades
        ("2023-02-02", "OLD", "OLD NAME"),
    ],
)
def test_code_and_name_are_those_of_the_date(effective_on: str, code: str, name: str) -> None:
    holding = _holding(
        security=[{"code": "NEW", "name": "NEW NAME"}], security_code_change=[{"effective_on": effective_on}]
    )
    assert (holding["security_code"], holding["security_name"]) == (code, name)


@examples(60)
@given(st.lists(st.integers(-20, 20), unique=True, max_size=6), st.integers(0, 3))
def test_code_is_that_of_the_earliest_later_change(days: list[int], other: int) -> None:
    changes = [
        {"effective_on": (D + dt.timedelta(days=at)).isoformat(), "old_code": f"UNTIL{place}", "security_id": 1}
        for place, at in enumerate(days)
    ]
    strangers = [{"security_id": 2, "effective_on": (D + dt.timedelta(days=other)).isoformat(), "old_code": "ALIEN"}]
    later = [(at, place) for place, at in enumerate(days) if at > 0]
    expected = f"UNTIL{min(later)[1]}" if later else "BHP"
    assert _holding(security_code_change=[*changes, *strangers])["security_code"] == expected


def test_holding_that_fell_to_zero_is_sent_and_a_missing_one_is_not() -> None:
    rows: list[dict[str, Any]] = [
        {"units": "0", "cost_base": None},
        {"security_id": 2, "units": None, "updated_at": None, "ledger_units": "7"},
    ]
    frame = investment_holdings(part(holding_eod=rows, security=[{}, {"security_id": 2, "code": "CBA"}]))
    assert frame["investment_holdings"]["security_code"].to_list() == ["BHP"]


def test_figure_that_does_not_fit_is_not_sent() -> None:
    huge = {"units": "99999999999999", "unsettled_units": "0"}
    assert investment_holdings(part(holding_eod=[huge], security_price=[{"close_price": "1000"}]))[
        "investment_holdings"
    ].is_empty()
    odd = {"units": "1", "unsettled_units": "-99999999999999.999999"}
    assert investment_holdings(part(holding_eod=[odd]))["investment_holdings"].is_empty()
