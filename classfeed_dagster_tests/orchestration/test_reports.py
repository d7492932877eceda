"""The reports and the housekeeping, as Dagster runs them after a real delivery."""

from __future__ import annotations

from typing import Any

from classfeed_dagster.alerting.incidents import raised
from classfeed_dagster_tests.fixtures.desk import Desk

MONDAY = "2026-03-02"


def test_reports_after_a_late_delivery_survive_deletion_of_old_runs(desk: Desk) -> None:
    bhp = desk.bigsite.security("BHP", price={MONDAY: "45.50"})
    portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    portfolio.buy(bhp, "100", "45.00", "2026-02-24")
    desk.bigsite.save()
    with desk.at("2026-03-03T08:00:00+11:00"):
        desk.run(MONDAY, at=desk.runtime.settings.now)  # bigsite is not ready
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T09:05:00+11:00"):
        report = desk.run(MONDAY, at=desk.runtime.settings.now)
        assert report.warnings == ("on_time",)
    with desk.at("2026-03-03T09:10:00+11:00"):
        job = desk.definitions.resolve_job_def("operations_report")
        result = job.execute_in_process(instance=desk.instance)
    lines: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        lines |= {name: value.value for name, value in event.materialization.metadata.items()}
    assert (lines["class_super_dates"], lines["class_super_in_time"], lines["class_super_percent"]) == (1, 0, 0)
    assert "| 2026-03-02 | late | 2026-03-03 09:05 |" in lines["class_super_by_date"]
    assert (lines["class_super_newest_delivered"], lines["class_super_dates_behind"]) == (MONDAY, 0)
    assert (lines["manual_retriggers"], lines["automatic_repairs"], lines["late_deliveries"]) == (2, 0, 1)
    assert (
        "| 2026-03 | class_super | 2 | 1 | 0 | 2 | 1 after a failure, 1 the schedule missed it | 65 | 1 |"
        in lines["months"]
    )

    assert desk.definitions.resolve_job_def("retention").execute_in_process(instance=desk.instance).success
    assert {run.job_name for run in desk.instance.get_runs()} == {"class_super_job", "operations_report", "retention"}
    with desk.at("2026-03-04T09:10:00+11:00"):
        assert raised(desk.runtime.store) == ()
