"""The reports and the housekeeping, as Dagster runs them after a real delivery."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import structlog
from typer.testing import CliRunner

from classfeed_dagster.alerting.incidents import raised
from classfeed_dagster.cli import app as cli
from classfeed_dagster.orchestration import step_context
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import RunReport, run_date
from classfeed_dagster.service_levels.observations import Observation, observations, record
from classfeed_dagster.service_levels.owner_months import CURRENT_KEY, OwnerMonth
from classfeed_dagster.stored_records import from_json
from classfeed_dagster_tests.fixtures.desk import Desk

MONDAY = "2026-03-02"


def run_by_a_person(desk: Desk) -> RunReport:
    # Without the tag of a rehearsal's clock.
    return run_date(desk.definitions, desk.instance, "class_super", dt.date.fromisoformat(MONDAY))


def test_reports_after_a_late_delivery_survive_deletion_of_old_runs(desk: Desk) -> None:
    bhp = desk.bigsite.security("BHP", price={MONDAY: "45.50"})
    portfolio = desk.bigsite.portfolio("SW00000001").consent(granted_at="2026-02-20T00:00:00Z")
    portfolio.deposit("10000.00", "2026-02-23")
    portfolio.buy(bhp, "100", "45.00", "2026-02-24")
    desk.bigsite.save()
    with desk.at("2026-03-03T08:00:00+11:00"):
        run_by_a_person(desk)  # bigsite is not ready
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T09:05:00+11:00"):
        report = run_by_a_person(desk)
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
        "| 2026-03 | class_super | 2 | 1 | 0 | 2 | 1 after a failure, 1 missed by the schedule | 65 | 1 |"
        in lines["months"]
    )

    assert desk.definitions.resolve_job_def("retention").execute_in_process(instance=desk.instance).success
    assert {run.job_name for run in desk.instance.get_runs()} == {"class_super_job", "operations_report", "retention"}
    with desk.at("2026-03-04T09:10:00+11:00"):
        assert raised(desk.runtime.store) == ()


def owner_report(desk: Desk, at: str) -> dict[str, Any]:
    """Run the job of the owner's numbers; return the metadata of all its assets by asset and name."""
    with desk.at(at):
        result = desk.definitions.resolve_job_def("owner_report").execute_in_process(instance=desk.instance)
    return {
        f"{event.asset_key.path[-1]}.{name}": value.value  # type: ignore[union-attr]
        for event in result.get_asset_materialization_events()
        for name, value in event.materialization.metadata.items()
    }


def test_owner_report_records_each_date_and_run_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store = desk.runtime.store
    desk.two_customers()
    desk.end_of_day(MONDAY)
    desk.run(MONDAY, at=morning_after(dt.date.fromisoformat(MONDAY)))
    pipeline = {"pipeline_seconds": 2000, "pipeline_baseline_seconds": 3000, "pipeline_target_seconds": 2100}
    parts = {"build": {"worked_seconds": Decimal(60), "succeeded": Decimal(1)}}
    values = {name: Decimal(value) for name, value in pipeline.items()}
    at = dt.datetime(2026, 3, 3, tzinfo=dt.UTC)
    record(store, "7-1", Observation(source="pipeline", at=at, values=values, parts=parts))

    metadata = owner_report(desk, "2026-03-03T09:30:00+11:00")
    assert (metadata["deliveries.recorded"], metadata["costs.runs_recorded"]) == (2, 1)
    assert "| build | 1 | 60 | 60 |" in metadata["engineering.jobs"]
    assert metadata["month.pipeline_seconds"] == 2000
    again = owner_report(desk, "2026-03-03T09:40:00+11:00")
    assert (again["deliveries.recorded"], again["costs.runs_recorded"]) == (0, 0)

    (cost,) = observations(store, "2026-03", [], "cost/")
    assert (cost.feed, str(cost.business_date)) == ("class_super", MONDAY)
    assert cost.correlation_id == desk.manifest(MONDAY).correlation_id
    # The run reads and writes at least what it delivers, and works for more than a clock tick.
    assert cost.values["store_bytes"] > sum(page.bytes for page in desk.manifest(MONDAY).pages)
    assert cost.values["store_requests"] > 50
    assert cost.values["compute_seconds"] > 0
    month = from_json(OwnerMonth, store.read(CURRENT_KEY), CURRENT_KEY)
    on_time = month.find("on_time_percent", "class_super")
    assert on_time is not None
    assert on_time.value == 100
    assert month.find("snowflake_credits", "class_super") is None  # a laptop has no account
    page = store.read("owner-report/2026-03.html").decode()
    assert "Deliveries on time, class_super" in page
    assert store.exists("owner-report/2026-02.html")

    monkeypatch.setattr("classfeed_dagster.runtime.get_settings", lambda: desk.runtime.settings)
    answer = CliRunner().invoke(
        cli.app, ["owner", "--month", "2026-03", "--page", str(Path(desk.runtime.settings.home) / "o.html")]
    )
    assert answer.exit_code == 0, answer.output
    assert "Build and deployment" in answer.output
    assert (Path(desk.runtime.settings.home) / "o.html").read_text().startswith("<!doctype html>")
    nothing = CliRunner().invoke(cli.app, ["owner", "--month", "2025-01"])
    assert "no number of 2025-01 is recorded" in nothing.output


def test_step_succeeds_when_its_cost_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("database is locked")

    monkeypatch.setattr(step_context, "_report", refuse)
    with structlog.testing.capture_logs() as logs, step_context.measured(object(), "x"):
        pass
    assert [(line["event"], line["error_type"]) for line in logs] == [("cost of a step not recorded", "OSError")]


def test_cost_of_a_failed_step_is_recorded(desk: Desk) -> None:
    with desk.at("2026-03-03T08:00:00+11:00"):
        desk.run(MONDAY, at=desk.runtime.settings.now)  # bigsite is not ready
    (run,) = desk.instance.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE
    used = step_context.usage_of(desk.instance, run.run_id)
    assert used.requests > 0


def test_date_of_a_feed_in_shadow_is_never_judged_late(desk: Desk) -> None:
    desk.two_customers()  # nothing is delivered
    desk.switch(mode={"class_super": "shadow"})
    assert owner_report(desk, "2026-03-03T09:30:00+11:00")["deliveries.recorded"] == 1
    desk.switch(mode={"class_super": "live"})
    assert owner_report(desk, "2026-03-04T09:30:00+11:00")["deliveries.recorded"] == 1
    punctuality = observations(desk.runtime.store, "2026-03", [], "punctuality/")
    assert [(str(date.business_date), date.values) for date in punctuality] == [
        (MONDAY, {}),
        ("2026-03-03", {"on_time": Decimal(0)}),
    ]
