"""Evidence for an auditor: deliveries, verdicts, reconciliation and the people who intervened."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from typer.testing import CliRunner

from classfeed_dagster.cli import app as cli
from classfeed_dagster.delivery.approve_removals import approve_removals
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.settings import get_settings
from classfeed_dagster.support.evidence import date_evidence
from classfeed_dagster.support.reruns import Requester, RerunPolicy, request_rerun
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, monday_delivered

MONDAY = dt.date(2026, 3, 2)
AT = dt.datetime(2026, 3, 3, 1, tzinfo=dt.UTC)


def reconcile(desk: Desk, **values: object) -> None:
    """Keep a reconciliation of Monday's delivery, as its asset does."""
    summary = {"build_id": "b", "revision": 0, "errors": 0, "warnings": 0, "breaks": 0, "unexplained": 0}
    record = ReconciliationSummary.model_validate(summary | {"report": "r", "attempt": "a"} | values)
    desk.runtime.save_reference(Side.SOURCE.reference("class_super"), MONDAY, record)


@pytest.fixture
def delivered(live_desk_after: DeskAfter) -> Desk:
    """Deliver Monday, and record two decisions of people about it."""
    desk = live_desk_after(monday_delivered)
    feed, first = desk.feed("class_super"), desk.runtime.settings.first_business_date
    assert first is not None
    approve_removals(
        desk.runtime.store, feed.audience(first), MONDAY, ["SW3"], approved_by="jane", reason="moved", at=AT
    )
    request_rerun(
        desk.runtime.store,
        feed,
        first,
        MONDAY,
        Requester("omar", frozenset({"support"})),
        "the recipient misses the file",
        rules=RerunPolicy("support", 3, frozenset({"class_super"})),
        under_way=lambda: False,
        at=AT + dt.timedelta(hours=1),
        correlation_id="c",
    )
    return desk


def test_evidence_reconciled_delivery_has_no_gap(delivered: Desk) -> None:
    reconcile(delivered, warnings=2)
    entry = date_evidence(delivered.runtime, delivered.feed("class_super"), MONDAY)
    (sent,) = entry.deliveries
    assert (sent.portfolios, sent.consents, sent.held_back, sent.chain_position) == (2, 2, 0, 1)
    assert sent.passed == sent.verdicts > 0
    assert [(act.person, act.action) for act in entry.interventions] == [
        ("jane", "approved 1 removals"),
        ("omar", "re-run accepted"),
    ]
    assert (entry.reconciled, entry.gaps) == ("agrees, 2 explained differences", ())


def test_evidence_unproven_delivery_states_the_gap(delivered: Desk) -> None:
    def gaps() -> tuple[str, ...]:
        return date_evidence(delivered.runtime, delivered.feed("class_super"), MONDAY).gaps

    assert gaps() == ("no record of a reconciliation with bigsite",)
    reconcile(delivered, errors=3)
    assert gaps() == ("the reconciliation with bigsite has 3 errors",)
    reconcile(delivered, stopped="StoreError")
    assert gaps() == ("the reconciliation with bigsite ended without a verdict: StoreError",)
    reconcile(delivered, revision=1)
    assert gaps() == ("revision 0 is not reconciled with bigsite",)
    tuesday = date_evidence(delivered.runtime, delivered.feed("class_super"), dt.date(2026, 3, 3))
    assert (tuesday.deliveries, tuesday.gaps) == ((), ("not delivered",))


def test_evidence_changed_manifest_breaks_the_chain(delivered: Desk) -> None:
    reconcile(delivered)
    key = "delivered/class_super/2026-03-02/r0/manifest.json"
    delivered.runtime.store.put(
        key, delivered.runtime.store.read(key).replace(b'"recipient":"CLASS"', b'"recipient":"OTHER"')
    )
    (gap,) = date_evidence(delivered.runtime, delivered.feed("class_super"), MONDAY).gaps
    assert "manifest.json" in gap


def test_evidence_command_prints_dates_people_and_gaps(delivered: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    reconcile(delivered)
    monkeypatch.setenv("CLASSFEED_HOME", str(delivered.runtime.settings.home))
    monkeypatch.setenv("CLASSFEED_FIRST_BUSINESS_DATE", MONDAY.isoformat())
    get_settings.cache_clear()
    printed = CliRunner().invoke(cli.app, ["evidence", "--from", "2026-03-01", "--to", "2026-03-02"])
    document = CliRunner().invoke(cli.app, ["evidence", "--from", "2026-03-01", "--to", "2026-03-03", "--json"])
    none = CliRunner().invoke(cli.app, ["evidence", "--from", "2026-02-01", "--to", "2026-02-03"])
    missing = CliRunner().invoke(cli.app, ["evidence", "--from", "2026-03-03", "--to", "2026-03-03"])
    get_settings.cache_clear()
    assert printed.exit_code == 0, printed.output
    assert "proven  class_super: 1 date" in printed.output
    assert "omar" in printed.output
    assert document.exit_code == 3
    assert [entry["gaps"] for entry in json.loads(document.stdout)["dates"]] == [[], ["not delivered"]]
    assert "class_super has no business date from 2026-02-01" in str(none.exception)
    assert "1 date with gaps" in missing.output
