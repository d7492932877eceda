"""The checks of the landing through Dagster, on a landed bigsite."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from classfeed_dagster.bigsite import tables
from classfeed_dagster.orchestration.asset_keys import landing_key
from classfeed_dagster.orchestration.asset_policies import preview_features
from classfeed_dagster.orchestration.checks.landing import HOLDERS_CHECK, holders_check
from classfeed_dagster.orchestration.definitions import business_date_partitions
from classfeed_dagster_tests.fixtures.desk import FEED, Desk
from classfeed_dagster_tests.fixtures.morning import attempt, prepare

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"


def _evaluation(desk: Desk, day: str) -> dg.AssetCheckEvaluation:
    dates = business_date_partitions(dt.date(2026, 3, 2))

    @dg.asset(key=landing_key("income"), partitions_def=dates)
    def landed() -> None:
        """Replace the landing."""

    with preview_features():
        check = holders_check(dates)
    result = dg.materialize(
        [landed, check], instance=desk.instance, partition_key=day, resources={"runtime": desk.runtime}
    )
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def land(desk: Desk, day: str) -> None:
    prepare(attempt(desk.runtime, desk.feed(FEED), dt.date.fromisoformat(day), desk.feeds))


def test_holders_check_warns_of_one_holder_without_franking_credit(desk: Desk) -> None:
    security = desk.bigsite.security("BHP", price={"2026-02-27": "45.10"})
    for number in ("SW00000001", "SW00000002", "SW00000003", "SW00000004"):
        portfolio = desk.bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(security, "100", "45.00", "2026-02-24")
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T06:00:00+11:00"):
        land(desk, MONDAY)
        assert _evaluation(desk, MONDAY).passed
    for portfolio in desk.bigsite.portfolios:
        portfolio.dividend(security, "50.00", TUESDAY, ex_date="2026-02-26")
    wrong = desk.bigsite.rows[tables.income][-1]
    wrong.values.update(franking_credit=0)
    desk.end_of_day(TUESDAY)
    with desk.at("2026-03-04T06:00:00+11:00"):
        land(desk, TUESDAY)
        evaluation = _evaluation(desk, TUESDAY)
    assert (evaluation.check_name, evaluation.passed) == (HOLDERS_CHECK, False)
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["differences"].value == 1
    assert f"I{wrong['income_id']}" in str(evaluation.metadata["examples"].value)
