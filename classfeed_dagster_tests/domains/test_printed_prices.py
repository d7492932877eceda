"""Tolerance of a consideration against units x price: half a unit of the last printed decimal of the price."""

from __future__ import annotations

from decimal import Decimal

import pytest

from classfeed_dagster_tests.domains.test_rules import _all_findings

UNITS = Decimal(1_000_000)


@pytest.mark.parametrize(
    ("price", "last_place"),
    [
        ("1.000001", "0.000001"),
        ("1.000010", "0.00001"),
        ("1.000100", "0.0001"),
        ("1.001000", "0.001"),
        ("1.010000", "0.01"),
        ("1.000000", "0.01"),  # two decimals are always printed
    ],
)
def test_printed_price_tolerance_is_its_last_decimal(price: str, last_place: str) -> None:
    product = UNITS * Decimal(price)
    allowed = UNITS * Decimal(last_place) / 2
    # The true amount was rounded to cents as well: half a cent more is explained.
    for off, explained in ((allowed, True), (allowed + Decimal("0.01"), False)):
        for consideration in (product + off, product - off):
            assert _is_explained(price, consideration) == explained, (price, consideration)


def _is_explained(price: str, consideration: Decimal) -> bool:
    amounts = {"consideration": f"{consideration:.2f}", "net_amount": f"{consideration + Decimal('9.50'):.2f}"}
    findings = _all_findings(trade=[{"units": f"{UNITS}", "price": price, **amounts}])
    return "price_times_units" not in findings["rule"].to_list()
