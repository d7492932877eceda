"""After delivery, through the real job: proof against bigsite, the warehouse, the data team; breaks come and go."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster.alerting.incidents import open_incidents, raised
from classfeed_dagster.delivery.ledger_rebuild import PositionAudit
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.feed_run import nightly_audit
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.orchestration.sensors import reconciliation as sensor
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.tags import CLOCK_TAG, reconciliation_job_name
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import execute, query
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster_tests.fixtures.desk import FEED, Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter

MONDAY = dt.date(2026, 3, 2)


def deliver(desk: Desk) -> None:
    """Deliver Monday of two portfolios with a fraction of a unit."""
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10"})
    for number in ("SW00000001", "SW00000002"):
        portfolio = desk.bigsite.portfolio(number)
        portfolio.consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(bhp, "100", "45.00", "2026-02-24")
        portfolio.security_movement(bhp, "DRP", "0.123456", "2026-02-25")
    desk.end_of_day(MONDAY.isoformat())
    assert desk.run(MONDAY.isoformat()).outcome is Outcome.DELIVERED


@pytest.fixture
def delivered(desk_after: DeskAfter, local_warehouse: None) -> Desk:
    """Return the desk after the delivery."""
    return desk_after(deliver)


def reconcile(desk: Desk) -> Any:
    return desk.definitions.resolve_job_def(reconciliation_job_name(FEED)).execute_in_process(
        partition_key=MONDAY.isoformat(),
        instance=desk.instance,
        raise_on_error=False,
        tags={CLOCK_TAG: morning_after(MONDAY).isoformat()},
    )


def summary_of(desk: Desk, side: str) -> ReconciliationSummary:
    return desk.runtime.load_reference(f"{FEED}/{side}_reconciliation", MONDAY, ReconciliationSummary)


def test_clean_delivery_is_reconciled_and_loaded(delivered: Desk) -> None:
    runtime = delivered.runtime
    (request,) = delivered.tick(f"{FEED}_reconciliation_sensor")[0]
    assert request.partition_key == MONDAY.isoformat()
    metrics = data_team_metrics(runtime.engine, "CLASS", MONDAY, dt.date(2026, 2, 27))
    with open_warehouse(runtime.settings) as connection:
        publish_metrics(connection, "CLASS", MONDAY, metrics, morning_after(MONDAY))
    assert reconcile(delivered).success
    assert (summary_of(delivered, "source").breaks, summary_of(delivered, "data_team").breaks) == (0, 0)
    assert runtime.store.exists(summary_of(delivered, "source").report)
    with open_warehouse(runtime.settings) as connection:
        assert query(connection, "SELECT COUNT(*) FROM FACT_HOLDING_DAILY") == [(2,)]
    assert delivered.tick(f"{FEED}_reconciliation_sensor")[0] == []


def test_dates_of_any_age_are_reconciled_in_order(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor, "_LOOK_BACK", 1)
    monkeypatch.setattr(sensor, "_PLACES", 1)
    days = ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"]
    desk.two_customers()
    for day in days:
        desk.end_of_day(day)
        desk.deliver(day)

    def requested() -> list[str | None]:
        requests, _ = desk.tick(f"{FEED}_reconciliation_sensor", desk.cursor)
        return [request.partition_key for request in requests]

    def settle(day: str) -> None:
        date = dt.date.fromisoformat(day)
        latest = delivered_state(desk.runtime.store, FEED, date).latest
        assert latest is not None
        summary = ReconciliationSummary(
            build_id=latest.build_id, revision=latest.revision, errors=0, warnings=0, breaks=0, unexplained=0,
            report="", attempt="a1",
        )  # fmt: skip
        desk.runtime.save_reference(Side.DATA_TEAM.reference(FEED), date, summary)

    for day in days[:3]:
        assert requested() == [day, days[3]]
        assert requested() == [day, days[3]]
        settle(day)
        requested()  # the cursor passes the date
    settle(days[3])
    assert requested() == []
    with desk.runtime.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE bigsite.portfolio SET portfolio_name = 'Another Name'")
    desk.deliver(days[0], fresh=True)
    assert requested() == [days[0]]  # issued again


def test_row_lost_by_bigsite_is_a_break_until_corrected(delivered: Desk) -> None:
    runtime = delivered.runtime
    with runtime.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM bigsite.security_movement")
        connection.exec_driver_sql(
            "DELETE FROM bigsite.security_movement WHERE portfolio_id = (SELECT MIN(portfolio_id) FROM kept)"
        )
    stopped = reconcile(delivered)
    assert not stopped.success
    assert summary_of(delivered, "source").errors == 1
    failed = [
        evaluation.asset_check_key.name for evaluation in stopped.get_asset_check_evaluations() if not evaluation.passed
    ]
    assert failed == ["source_agrees"]
    with delivered.at("2026-03-03T08:00:00+11:00"):
        delivered.tick("alerts")
        lines = open_incidents(runtime.store)[f"breaks.{FEED}"].incident
        assert (lines.dates, lines.offenders) == ((MONDAY,), ("SW00000001",))
        assert summary_of(delivered, "source").report in lines.doing
    with open_warehouse(runtime.settings) as connection:
        (standing,) = stored_breaks(connection, only_open=True)
        assert standing.portfolio_number == "SW00000001"
        assert query(connection, "SELECT COUNT(*) FROM FACT_DELIVERY") == [(0,)]

    with runtime.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO bigsite.security_movement SELECT * FROM kept ON CONFLICT DO NOTHING")
    reconcile(delivered)
    assert summary_of(delivered, "source").breaks == 0
    with delivered.at("2026-03-03T08:10:00+11:00"):
        delivered.tick("alerts")
        assert f"breaks.{FEED}" not in open_incidents(runtime.store)
    with open_warehouse(runtime.settings) as connection:
        assert [break_.portfolio_number for break_ in stored_breaks(connection) if break_.resolved_at] == ["SW00000001"]
        # The data team has said nothing of the date: that is a break of its own.
        assert [break_.side.value for break_ in stored_breaks(connection, only_open=True)] == ["data_team"]


@pytest.mark.parametrize(
    ("at", "alert"), [("2026-03-03T08:00:00+11:00", "breaks"), ("2026-06-01T08:00:00+10:00", "unproven")]
)
def test_failed_reconciliation_of_any_age_has_one_incident(delivered: Desk, at: str, alert: str) -> None:
    runtime = delivered.runtime

    def incidents() -> set[tuple[str, tuple[dt.date, ...]]]:
        delivered.tick("alerts")
        current = [state.incident for state in open_incidents(runtime.store).values()]
        return {(each.key, each.dates) for each in current if each.key.startswith(("breaks.", "unproven."))}

    with delivered.at(at):
        with runtime.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM bigsite.security_movement")
            connection.exec_driver_sql("DELETE FROM bigsite.security_movement")
        (request,) = delivered.tick(f"{FEED}_reconciliation_sensor")[0]
        assert not delivered.carry_out(request).success
        assert delivered.tick(f"{FEED}_reconciliation_sensor")[0] == []
        assert incidents() == {(f"{alert}.{FEED}", (MONDAY,))}
        assert delivered.tick(f"{FEED}_reconciliation_sensor")[0] == []
        assert incidents() == {(f"{alert}.{FEED}", (MONDAY,))}

        with runtime.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO bigsite.security_movement SELECT * FROM kept")
        assert delivered.carry_out(request).success
        assert delivered.tick(f"{FEED}_reconciliation_sensor")[0] == []
        assert incidents() == set()


def _audit(desk: Desk) -> tuple[bool, str]:
    result = desk.definitions.resolve_job_def("audit").execute_in_process(instance=desk.instance, raise_on_error=False)
    incidents = {incident.key: incident.what for incident in raised(desk.runtime.store)}
    return result.success, incidents.get(f"audit.{FEED}", "")


def test_audit_finds_changed_warehouse_rows_and_figures(delivered: Desk) -> None:
    runtime = delivered.runtime
    metrics = data_team_metrics(runtime.engine, "CLASS", MONDAY, dt.date(2026, 2, 27))
    with open_warehouse(runtime.settings) as connection:
        publish_metrics(connection, "CLASS", MONDAY, metrics, morning_after(MONDAY))
    assert reconcile(delivered).success
    assert _audit(delivered) == (True, "")

    # Two amounts that cancel: neither the number of rows nor any sum changes.
    with open_warehouse(runtime.settings) as connection:
        execute(
            connection,
            "UPDATE FACT_CASH_BALANCE_DAILY SET LEDGER_BALANCE = LEDGER_BALANCE + CASE PORTFOLIO_NUMBER "
            "WHEN 'SW00000001' THEN 5 ELSE -5 END",
        )
    success, label = _audit(delivered)
    assert not success
    assert "FACT_CASH_BALANCE_DAILY (2 rows when it was loaded, 2 now)" in label
    assert reconcile(delivered).success  # loads the date again
    assert _audit(delivered) == (True, "")

    with open_warehouse(runtime.settings) as connection:
        execute(
            connection,
            "UPDATE CLASS_FEED_METRICS SET VALUE = VALUE + CASE PORTFOLIO_NUMBER WHEN 'SW00000001' THEN 7 ELSE -7 END "
            "WHERE METRIC = (SELECT MIN(METRIC) FROM CLASS_FEED_METRICS WHERE VALUE > 100)",
        )
    success, label = _audit(delivered)
    assert not success
    assert "2 of the data team's figures changed" in label
    assert summary_of(delivered, "data_team").warnings == 2


def test_audit_that_fails_raises_its_incident(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DamagedRecordError("ledger/x", "it is damaged")

    monkeypatch.setattr(nightly_audit, "audit_positions", broken)
    success, label = _audit(delivered)
    assert not success
    assert "could not be completed (DamagedRecordError)" in label
    monkeypatch.undo()
    assert _audit(delivered) == (True, "")


def test_audit_names_the_portfolio_of_a_wrong_position(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = PositionAudit(MONDAY, 2, (("SW00000001", "CASH", 1, Decimal(1), Decimal(2)),))
    monkeypatch.setattr(nightly_audit, "audit_positions", lambda *_, **__: iter([wrong]))
    assert "position CASH 1: 1 stored, the records sent add up to 2" in _audit(delivered)[1]
    (incident,) = [item for item in raised(delivered.runtime.store) if item.key == f"audit.{FEED}"]
    assert incident.offenders == ("SW00000001",)
    none = delivered.runtime.settings.model_copy(update={"audit_portfolios": 0})
    delivered.runtime.settings = none
    assert _audit(delivered)[0]
