"""The whole job, on real PostgreSQL, through Dagster: what people and the recipient see of a business date."""

from __future__ import annotations

from classfeed_dagster.operations.runs import Outcome
from classfeed_dagster_tests.feeds.conftest import Desk

MONDAY, TUESDAY, WEDNESDAY = "2026-03-02", "2026-03-03", "2026-03-04"


def customers(desk: Desk) -> None:
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10", MONDAY: "45.50"})
    for number in ("SW00000001", "SW00000002"):
        one = desk.bigsite.portfolio(number)
        one.consent(granted_at="2026-02-20T00:00:00Z")
        one.deposit("10000.00", "2026-02-23")
        one.buy(bhp, "100", "45.00", "2026-02-24")
    desk.bigsite.portfolio("SW00000009").deposit("77.00", "2026-02-23")  # never consents


def test_a_first_date_delivers_everybody_in_full(desk: Desk) -> None:
    customers(desk)
    desk.end_of_day(MONDAY)
    report = desk.run(MONDAY)
    assert report.outcome is Outcome.DELIVERED, report
    assert report.failed_checks == ()
    records = desk.records(MONDAY)
    assert records["accounts"]["portfolio_number"].to_list() == ["SW00000001", "SW00000002"]
    assert set(records["accounts"]["extract"]) == {"FULL"}
