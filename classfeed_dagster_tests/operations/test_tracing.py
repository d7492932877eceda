"""Tracing a transaction and a holding, from what was delivered back to bigsite's rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.operations.tracing import HoldingTrace, NotAHoldingError, trace, trace_holding
from classfeed_dagster_tests.desk import Desk

MONDAY = "2026-03-02"
DAY = dt.date(2026, 3, 2)


@pytest.fixture
def delivered(desk: Desk) -> Desk:
    """Two portfolios, one held back; a security that is renamed the day after."""
    renamed = desk.bigsite.security("WPL", price={"2026-02-27": "33.00"})
    desk.bigsite.code_change(renamed, "2026-03-03", "WDS")
    for number in ("SW00000001", "SW00000002"):
        one = desk.bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z")
        one.deposit("10000.00", "2026-02-23")
        one.buy(renamed, "100", "33.00", "2026-02-24")
        one.sell(renamed, "30", "33.00", "2026-02-25")
        one.security_movement(renamed, "TRANSFER_IN", "5", on="2026-02-26")
    desk.bigsite.end_of_day(MONDAY)
    desk.break_units(desk.bigsite.portfolios[1], MONDAY)
    desk.bigsite.save()
    desk.run(MONDAY)
    desk.runtime.store.create("reconciliation/class_super/2026-03-02/abc/report.html", b"<html></html>")
    return desk


def holding(desk: Desk, number: str, code: str = "WPL") -> HoldingTrace:
    return trace_holding(desk.runtime.engine, desk.runtime.store, "class_super", number, ("ASX", code), DAY)


def test_a_holding_is_followed_to_every_row_behind_its_units(delivered: Desk) -> None:
    found = holding(delivered, "SW00000001")
    assert (found.stated, found.ledger) == (Decimal("75.000000"), Decimal("75.000000"))
    assert [(row.transaction_id, row.units) for row in found.rows] == [
        ("T1", Decimal("100.000000")),
        ("T2", Decimal("-30.000000")),
        ("S1", Decimal("5.000000")),
    ]
    (sighting,) = found.sightings
    assert sighting.in_landed_file
    assert "/landing/2026-03-02/holding_eod/" in sighting.landed_location
    (place,) = sighting.places
    assert place.element == "InvestmentHolding"
    assert [report.rpartition("/")[2] for report in found.reports] == ["report.html"]


def test_a_holding_that_is_held_back_says_why(delivered: Desk) -> None:
    found = holding(delivered, "SW00000002")
    assert (found.stated, found.ledger) == (Decimal("76.000000"), Decimal("75.000000"))
    assert found.sightings == []
    ((day, reason),) = found.held_back
    assert day == DAY
    assert "units_ledger" in reason


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [("SW9", "WPL", "no portfolio SW9"), ("SW00000001", "WDS", "no security ASX:WDS on 2026-03-02")],
)
def test_what_bigsite_does_not_have_is_named(delivered: Desk, number: str, code: str, says: str) -> None:
    with pytest.raises(NotAHoldingError, match=says):
        holding(delivered, number, code)


def test_a_holding_without_a_row_shows_none(delivered: Desk) -> None:
    delivered.bigsite.security("ZZZ")
    delivered.bigsite.save()
    found = holding(delivered, "SW00000001", "ZZZ")
    assert (found.stated, found.updated_at, found.rows, found.sightings) == (None, None, [], [])


def test_a_transaction_names_the_reconciliation_of_the_date_that_holds_it(delivered: Desk) -> None:
    audience = CLASS_SUPER.audience(DAY)
    found = trace(delivered.runtime.engine, delivered.runtime.store, "class_super", audience, "T1")
    assert [one.delivery.manifest.business_date for one in found.sightings] == [DAY]
    assert len(found.reports) == 1
    missing = trace(delivered.runtime.engine, delivered.runtime.store, "class_super", audience, "T999")
    assert missing.source is None
