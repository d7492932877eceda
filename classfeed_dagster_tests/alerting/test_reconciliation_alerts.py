"""Alerts of reconciliation: deliveries with errors or without a result, one incident a feed."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import polars as pl

from classfeed_dagster.alerting.incidents import Incident
from classfeed_dagster.alerting.reconciliation_alerts import proof_incidents
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.repair.facts import gather
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, monday_delivered

MONDAY = dt.date(2026, 3, 2)
KEY = "reconciliation/class_super/2026-03-02/attempt"


def found(desk: Desk, at: str) -> dict[str, Incident]:
    with desk.at(at):
        now = desk.runtime.settings.now
        assert now is not None
        moment = proof_incidents(
            desk.runtime, gather(desk.runtime, run_reader(desk.instance), desk.feeds, now, ask_changes=False)
        )
    return {incident.key: incident for incident in moment}


def proven(desk: Desk, side: str, errors: int, **given: Any) -> None:
    values = {"build_id": "b", "revision": 0, "warnings": 0, "breaks": errors, "unexplained": 0, "attempt": "a"}
    text = ReconciliationSummary.model_validate(
        {**values, "errors": errors, "report": f"{KEY}-{side}/report.html", **given}
    )
    desk.runtime.save_reference(f"class_super/{side}_reconciliation", MONDAY, text)


def test_unreconciled_delivery_is_announced_after_hours(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    (delivered,) = desk.status("2026-03-02").deliveries
    # bigsite's own clock is the real one: later than any of the test's.
    after = (delivered.consent_checked_at + dt.timedelta(hours=7)).isoformat()
    before = (delivered.consent_checked_at + dt.timedelta(hours=5)).isoformat()
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"repair_dates": 400})
    assert found(desk, before) == {}
    (unproven,) = found(desk, after).values()
    assert (unproven.key, unproven.dates, unproven.counts) == ("unproven.class_super", (MONDAY,), {"dates": 1})
    proven(desk, "source", 0)
    assert found(desk, after) == {}


def test_reconciliation_errors_name_the_reports_portfolios(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    proven(desk, "source", 0)
    proven(desk, "data_team", 2)
    (breaks,) = found(desk, "2026-03-03T08:00:00+11:00").values()
    assert (breaks.what, breaks.offenders) == ("Reconciliation found 2 breaks in class_super", ())
    assert breaks.means == "The delivered data agrees with bigsite; the data team's figures differ."
    proven(desk, "source", 3)
    buffer = io.BytesIO()
    rows = {"severity": ["error", "error", "warning"], "portfolio_number": ["SW2", None, "SW9"]}
    pl.DataFrame(rows).write_parquet(buffer)
    desk.runtime.store.create(f"{KEY}-source/breaks.parquet", buffer.getvalue())
    (breaks,) = found(desk, "2026-03-03T08:00:00+11:00").values()
    assert (breaks.counts, breaks.offenders) == ({"breaks": 5}, ("SW2",))
    assert breaks.means == "Some customers' funds at the recipient may not balance."
