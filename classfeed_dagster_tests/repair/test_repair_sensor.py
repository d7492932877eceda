"""The repair sensor with the real job: whatever went wrong, it ends with each due date delivered exactly once."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.quarantine import quarantine
from classfeed_dagster.errors import SourceReadError, StoreError
from classfeed_dagster.feed_run import feed_run as steps
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.repair import facts, restatements
from classfeed_dagster_tests.fixtures.bigsite_builder import instant
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import (
    DeskAfter,
    monday_delivered,
    monday_delivered_without_the_first,
)
from classfeed_dagster_tests.fixtures.switchboard import Switchboard

MONDAY, TUESDAY, WEDNESDAY = "2026-03-02", "2026-03-03", "2026-03-04"


def only(desk: Desk, feed: str = "class_super") -> Any:
    """Return the sensor's only request for the feed; the legacy feeds have their own."""
    (request,) = [item for item in desk.tick("repair")[0] if item.job_name == f"{feed}_job"]
    return request


def none(desk: Desk, feed: str = "class_super") -> None:
    assert [request for request in desk.tick("repair")[0] if request.job_name == f"{feed}_job"] == []


def test_date_never_started_is_started_once(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    with desk.at("2026-03-03T06:05:00+11:00"):
        none(desk)  # the schedule's own time
    with desk.at("2026-03-03T06:20:00+11:00"):
        request = only(desk)
        assert (request.partition_key, request.tags["classfeed/launched_by"]) == (MONDAY, "repair")
        assert request.run_key == f"repair-class_super-{MONDAY}-after-none"
        assert desk.carry_out(request).success
        none(desk)
    assert len(desk.status(MONDAY).deliveries) == 1


def test_transient_failure_is_resumed_from_the_failed_step(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.two_customers(MONDAY)

    def down(*_: object, **__: object) -> None:
        raise StoreError("the store answers 503")

    with desk.at("2026-03-03T06:00:00+11:00"):
        with monkeypatch.context() as patch:
            patch.setattr(steps, "publish", down)
            assert desk.run(MONDAY, at=desk.runtime.settings.now).outcome is Outcome.UNAVAILABLE
        none(desk)
    with desk.at("2026-03-03T06:10:00+11:00"):
        request = only(desk)
        assert [key.to_user_string() for key in request.asset_selection] == ["class_super/delivery"]
        assert request.tags["classfeed/reason"] == "StoreError (transient)"
        assert desk.carry_out(request).success
        none(desk)
    assert len(desk.status(MONDAY).deliveries) == 1


def test_failed_check_is_not_retried_until_the_source_is_corrected(desk: Desk) -> None:
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": 0})
    desk.two_customers(MONDAY, wrong_units=True)
    with desk.at("2026-03-03T06:00:00+11:00"):
        assert desk.run(MONDAY, at=desk.runtime.settings.now).outcome is Outcome.STOPPED_BY_CHECKS
    with desk.at("2026-03-03T06:30:00+11:00"):
        none(desk)
        assert "a retry cannot fix" in desk.tick("repair")[1]
    desk.bigsite.end_of_day(MONDAY, at="2026-03-02T20:00:00Z").save()
    with desk.at("2026-03-03T07:30:00+11:00"):
        request = only(desk)
        assert request.run_config["ops"]["landing"]["config"] == {"fresh_snapshot": True}
        assert desk.carry_out(request).success
        none(desk)
    assert desk.status(MONDAY).complete


def test_held_back_portfolio_is_delivered_with_later_dates_once_fixed(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered_without_the_first)
    with desk.at("2026-03-03T06:00:00+11:00"):
        none(desk)
    desk.end_of_day(TUESDAY)
    with desk.at("2026-03-04T06:00:00+11:00"):
        desk.run(TUESDAY, at=desk.runtime.settings.now)
        none(desk)
    desk.bigsite.end_of_day(MONDAY, at="2026-03-03T20:00:00Z").save()
    with desk.at("2026-03-04T08:00:00+11:00"):
        request = only(desk)
        assert request.partition_key == MONDAY
        assert desk.carry_out(request).success
        request = only(desk)
        assert (request.partition_key, request.run_config) == (TUESDAY, {})
        assert desk.carry_out(request).success
        none(desk)
    assert [portfolio.number for portfolio in desk.manifest(TUESDAY, 1).portfolios] == ["SW00000001"]
    assert desk.status(MONDAY).complete
    assert desk.status(TUESDAY).complete


def test_portfolio_shared_anew_before_the_next_cutoff_is_delivered(desk: Desk) -> None:
    """Its consent ended between cut-off and run. The next date sees no change, and waits for what was left out."""
    _, second = desk.two_customers()
    second.consents[-1].values["expires_at"] = instant("2026-03-03T15:00:00Z")
    desk.end_of_day(MONDAY)
    desk.deliver(MONDAY)
    desk.end_of_day(TUESDAY)
    desk.deliver(TUESDAY)
    second.consent(granted_at="2026-03-03T20:30:00Z")
    desk.end_of_day(WEDNESDAY)
    desk.deliver(WEDNESDAY)
    assert [entry.kind for day in (TUESDAY, WEDNESDAY) for entry in desk.manifest(day).held_back] == [
        "CONSENT_ENDED",
        "WAITING",
    ]
    with desk.at("2026-03-05T06:10:00+11:00"):
        for day in (TUESDAY, WEDNESDAY):
            request = only(desk)
            assert request.partition_key == day
            assert desk.carry_out(request).success
        none(desk)
    for day in (TUESDAY, WEDNESDAY):
        assert [(sent.number, sent.change) for sent in desk.manifest(day, 1).portfolios] == [(second.number, "CURRENT")]


@pytest.mark.parametrize(
    "correction",
    [
        "UPDATE bigsite.security SET code = 'ABC', updated_at = :at WHERE code = 'a bc'",
        "INSERT INTO bigsite.security_code_change (security_id, effective_on, old_code, new_code, old_name, new_name, "
        "updated_at) SELECT security_id, '2026-03-03', 'ABC', code, name, name, :at FROM bigsite.security "
        "WHERE code = 'a bc'",
    ],
    ids=["security", "code change"],
)
def test_code_corrected_of_a_security_not_held_any_more_is_delivered(desk: Desk, correction: str) -> None:
    first, _ = desk.two_customers()
    security = desk.bigsite.security("a bc")
    first.buy(security, "10", "1.00", "2026-02-25")
    first.sell(security, "10", "1.00", "2026-02-26")
    desk.end_of_day(MONDAY)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    assert not desk.status(MONDAY).complete
    _rewrite(desk, correction, at="2026-03-02T22:00:00Z")
    with desk.at("2026-03-03T10:00:00+11:00"):
        desk.carry_out(only(desk))
        none(desk)
    assert desk.status(MONDAY).complete


@pytest.mark.parametrize("rule", ["shared_hin", "shared_account_number"])
def test_number_shared_with_a_customer_who_never_consents_is_awaited(desk: Desk, rule: str) -> None:
    first, _ = desk.two_customers()
    other = desk.bigsite.portfolios[2]
    if rule == "shared_hin":
        other.row["hin"] = first.row["hin"]
        correction = "UPDATE bigsite.portfolio SET hin = NULL, updated_at = :at WHERE portfolio_number = 'SW00000009'"
    else:
        accounts = desk.bigsite.rows[tables.cash_account]
        for column in ("bsb", "account_number", "currency"):
            accounts[-1][column] = accounts[0][column]
        correction = (
            "UPDATE bigsite.cash_account SET status = 'CLOSED', updated_at = :at WHERE portfolio_id = (SELECT "
            "portfolio_id FROM bigsite.portfolio WHERE portfolio_number = 'SW00000009')"
        )
    desk.end_of_day(MONDAY)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    (record,) = quarantine(desk.runtime.store, "class_super", dt.date.fromisoformat(MONDAY))
    assert [breach.rule for breach in record.held_back.rules] == [rule]
    with desk.at("2026-03-03T08:00:00+11:00"):
        _rewrite(desk, "UPDATE bigsite.portfolio SET updated_at = :at", at="2026-03-02T20:30:00Z")
        desk.carry_out(only(desk))  # the customer's own row may have been corrected
        none(desk)
    # The instant of another customer's row says nothing, and hides no correction.
    never = "UPDATE bigsite.portfolio SET updated_at = :at WHERE portfolio_number = 'SW00000002'"
    _rewrite(desk, never, at="infinity")
    _rewrite(desk, correction, at="2026-03-02T22:00:00Z")
    with desk.at("2026-03-03T10:00:00+11:00"):
        desk.carry_out(only(desk))
        none(desk)
    assert desk.status(MONDAY).complete


def test_portfolio_held_back_is_tried_again_after_a_deployment(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered_without_the_first)
    with desk.at("2026-03-03T08:00:00+11:00"):
        none(desk)
        desk.runtime.settings = desk.runtime.settings.model_copy(update={"code_version": "2"})
        request = only(desk)
    assert (request.partition_key, request.run_config) == (MONDAY, {})
    assert request.tags["classfeed/reason"].startswith("new code was deployed")
    assert desk.carry_out(request).success


def test_price_rewritten_after_delivery_re_issues_the_date_once(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    rewritten = "UPDATE bigsite.security_price SET close_price = 46.5, updated_at = :at WHERE close_price = 45.5"
    _rewrite(desk, rewritten, at="2026-03-02T22:00:00Z")
    with desk.at("2026-03-03T10:00:00+11:00"):
        desk.carry_out(only(desk))
        none(desk)
    assert len(desk.manifest(MONDAY, 1).portfolios) == 2


def test_older_date_rewritten_in_bigsite_is_reissued_once(
    live_desk_after: DeskAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = live_desk_after(monday_delivered)
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"repair_dates": 1, "source_probe_seconds": 0})
    desk.end_of_day(TUESDAY)
    with desk.at("2026-03-04T06:00:00+11:00"):
        desk.run(TUESDAY, at=desk.runtime.settings.now)
        none(desk)
    rewritten = "UPDATE bigsite.holding_eod SET cost_base = 1, updated_at = :at WHERE as_at_date = '2026-03-02'"
    _rewrite(desk, rewritten, at="2026-03-03T22:00:00Z")
    with desk.at("2026-03-04T10:00:00+11:00"):
        request = only(desk)
        assert (request.partition_key, request.tags["classfeed/launched_by"]) == (MONDAY, "repair")
        assert request.run_config["ops"]["landing"]["config"] == {"fresh_snapshot": True}
        assert restatements.open_dates(desk.runtime.store, "class_super") == (dt.date(2026, 3, 2),)
        with monkeypatch.context() as patch:
            patch.setattr(steps, "publish", _unavailable)
            assert not desk.carry_out(request).success
        none(desk)  # it waits for the next attempt, and stays on record
        assert restatements.open_dates(desk.runtime.store, "class_super") == (dt.date(2026, 3, 2),)
    with desk.at("2026-03-04T10:10:00+11:00"):
        assert desk.carry_out(only(desk)).success
        none(desk)
    assert restatements.open_dates(desk.runtime.store, "class_super") == ()
    assert len(desk.manifest(MONDAY, 1).portfolios) == 2


@pytest.mark.parametrize("name", ["2026-03-01.json", "2026-02-27.json", "2026-02-30.json", "2026-03-02.json.bak"])
def test_foreign_object_among_the_records_of_older_dates_is_ignored(live_desk_after: DeskAfter, name: str) -> None:
    desk = live_desk_after(monday_delivered)
    desk.runtime.store.put(f"restatements/class_super/{name}", b"{}")
    with desk.at("2026-03-03T10:00:00+11:00"):
        none(desk)
        assert desk.tick("alerts")[1] == "0 incidents opened, 0 revised, 0 recovered"


def _rewrite(desk: Desk, statement: str, at: str) -> None:
    with desk.runtime.engine.begin() as connection:
        assert connection.execute(sa.text(statement), {"at": at}).rowcount > 0


def _unavailable(*_: object, **__: object) -> None:
    raise StoreError("the store answers 503")


def test_portfolio_held_back_for_longer_than_repair_watches_is_delivered(desk: Desk) -> None:
    first, _ = desk.two_customers()
    first.row["hin"] = "0000000001"
    settings = {"max_held_back_share": Decimal(1), "repair_dates": 1}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=settings)
    days = ["2026-03-02", "2026-03-03", "2026-03-04"]
    for day in days:
        desk.end_of_day(day)
        assert desk.run(day).outcome is Outcome.DELIVERED
    correction = "UPDATE bigsite.portfolio SET hin = 'X1234567890', updated_at = :at WHERE hin = '0000000001'"
    _rewrite(desk, correction, at="2026-03-04T22:00:00Z")
    # bigsite is asked with the first tick, and once more at the end.
    for at in ("2026-03-05T10:00:00+11:00", "2026-03-05T11:00:00+11:00"):
        with desk.at(at):
            while requests := [item for item in desk.tick("repair")[0] if item.job_name == "class_super_job"]:
                assert all(desk.carry_out(request).success for request in requests)
    assert restatements.open_dates(desk.runtime.store, "class_super") == ()
    assert [desk.status(day).complete for day in days] == [True] * len(days)


def test_older_dates_are_probed_in_turn_by_batches() -> None:
    days = [dt.date(2026, 3, day) for day in range(2, 9)]
    turns = [restatements.batch(days, turn, 3) for turn in range(4)]
    assert [[day.day for day in batch] for batch in turns] == [[8, 7, 6], [5, 4, 3], [2], [8, 7, 6]]
    assert restatements.batch(days, 0, 0) == restatements.batch([], 5, 3) == ()


@pytest.mark.parametrize(
    ("folders", "error"),
    [
        pytest.param({"class_super"}, "NotBuiltError", id="without its inputs"),
        pytest.param({"landing", "class", "class_super"}, "UncheckedBuildError", id="without its checks"),
    ],
)
def test_part_of_a_job_run_by_a_person_leaves_the_date_to_repair(desk: Desk, folders: set[str], error: str) -> None:
    desk.two_customers(MONDAY)
    job = desk.definitions.resolve_job_def("class_super_job")
    part = {key for key in job.asset_layer.executable_asset_keys if key.path[0] in folders}
    with desk.at("2026-03-03T06:00:00+11:00"):
        selected = job.get_subset(asset_selection=part, asset_check_selection=set())
        assert not selected.execute_in_process(
            partition_key=MONDAY, instance=desk.instance, raise_on_error=False
        ).success
        assert f"{error} (overtaken): next attempt soon" in desk.tick("repair")[1]
    with desk.at("2026-03-03T06:20:00+11:00"):
        request = only(desk)
        assert request.asset_selection is None
        assert desk.carry_out(request).success
        none(desk)
    assert len(desk.status(MONDAY).deliveries) == 1


def test_absent_end_of_day_is_awaited_without_attempts(desk: Desk) -> None:
    desk.two_customers()
    desk.bigsite.save()
    with desk.at("2026-03-03T06:00:00+11:00"):
        desk.run(MONDAY, at=desk.runtime.settings.now)
        none(desk)
    for minute in range(11, 60, 11):
        with desk.at(f"2026-03-03T06:{minute:02d}:00+11:00"):
            desk.carry_out(only(desk))
            none(desk)
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T07:10:00+11:00"):
        assert desk.carry_out(only(desk)).success
    assert desk.status(MONDAY).complete


def test_unreachable_bigsite_starts_no_run(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    engine = desk.runtime.engine
    with desk.at("2026-03-03T06:30:00+11:00"):
        desk.runtime.__dict__["engine"] = type(
            "Gone", (), {"url": engine.url.set(host="127.0.0.1", port=1, query={})}
        )()
        requests, reason = desk.tick("repair")
        assert requests == []
        assert "bigsite does not answer" in reason
        desk.runtime.__dict__["engine"] = engine
        assert only(desk).partition_key == MONDAY


def test_run_that_a_person_canceled_waits_for_a_person(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    with desk.at("2026-03-03T06:30:00+11:00"):
        job = desk.definitions.resolve_job_def("class_super_job")
        run = desk.instance.create_run_for_job(job, tags={"dagster/partition": MONDAY})
        none(desk)  # created, not started yet
        desk.instance.report_run_canceled(run)
        none(desk)
        assert "a person canceled its run" in desk.tick("repair")[1]


def test_worker_that_died_is_replaced(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    job = desk.definitions.resolve_job_def("class_super_job")
    with desk.at("2026-03-03T06:20:00+11:00"):
        run = desk.instance.create_run_for_job(job, tags={"dagster/partition": MONDAY})
        desk.instance.report_run_failed(run, "the run worker was lost")
        none(desk)
    with desk.at("2026-03-03T06:30:00+11:00"):
        request = only(desk)
        assert request.tags["classfeed/reason"] == "worker died (transient)"
        assert desk.carry_out(request).success
    assert desk.status(MONDAY).complete


def test_run_that_was_created_and_never_started_is_replaced(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    with desk.at("2026-03-03T06:20:00+11:00"):
        desk.instance.create_run_for_job(
            desk.definitions.resolve_job_def("class_super_job"), tags={"dagster/partition": MONDAY}
        )
        none(desk)
    with desk.at("2026-03-03T06:40:00+11:00"):
        assert only(desk).tags["classfeed/reason"] == "never started (transient)"


def test_repair_earlier_unrepaired_date_stops_later_ones_with_reason(desk: Desk) -> None:
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"repair_dates": 1})
    desk.two_customers(TUESDAY)
    with desk.at("2026-03-04T06:30:00+11:00"):
        requests, reason = desk.tick("repair")
        assert requests == []
        assert f"waits for {MONDAY}, which is too old to be repaired" in reason


def test_switched_off_feed_is_not_started(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    with desk.at("2026-03-03T06:20:00+11:00"):
        desk.switch(mode={"class_super": "off"})
        none(desk)
        desk.switch(mode={})
        only(desk)


def test_column_type_change_stops_the_date_and_alerts_once(desk: Desk, switchboard: Switchboard) -> None:
    desk.runtime.settings = desk.runtime.settings.model_copy(
        update={"slack_token": SecretStr("xoxb-local"), "slack_url": f"{switchboard.url}/api/"}
    )
    desk.two_customers(MONDAY)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bigsite.trade ALTER COLUMN units TYPE text"))
    with desk.at("2026-03-03T06:00:00+11:00"):
        assert desk.run(MONDAY, at=desk.runtime.settings.now).outcome is Outcome.STOPPED_BY_CHECKS
    with desk.at("2026-03-03T06:30:00+11:00"):
        for _ in range(2):
            none(desk)
            desk.tick("alerts")
    (message,) = switchboard.messages
    assert message.text.startswith("bigsite's schema changed: changed type trade.units")
    assert "Waiting dates run automatically" in message.seen
    assert f"*Business date*\n{MONDAY}" in message.seen
    assert ":rotating_light:" in message.seen  # a live feed's date is stopped: someone is woken
    with desk.runtime.engine.begin() as connection:
        back = "ALTER TABLE bigsite.trade ALTER COLUMN units TYPE numeric(20,6) USING units::numeric"
        connection.execute(sa.text(back))
    with desk.at("2026-03-03T06:45:00+11:00"):
        request = only(desk)
        assert request.tags["classfeed/reason"].endswith("bigsite's schema keeps its contract again")
        assert desk.carry_out(request).success
        desk.tick("alerts")
    assert desk.status(MONDAY).complete
    assert [reply.split(".")[0] for reply in message.replies] == ["Recovered after 15 min"]


def test_date_failing_repeatedly_is_given_up_until_the_next_morning(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.two_customers(MONDAY)
    desk.end_of_day(TUESDAY)

    def down(*_: object, **__: object) -> None:
        raise StoreError("the store answers 503")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "publish", down)
        with desk.at("2026-03-03T06:00:00+11:00"):
            desk.run(MONDAY, at=desk.runtime.settings.now)
        for hour in range(7, 11):
            with desk.at(f"2026-03-03T{hour:02d}:00:00+11:00"):
                assert not desk.carry_out(only(desk)).success
        with desk.at("2026-03-03T12:00:00+11:00"):
            none(desk)
            assert "give up, StoreError (transient): tried 5 times" in desk.tick("repair")[1]
    with desk.at("2026-03-04T06:20:00+11:00"):
        request = only(desk)
        assert request.partition_key == MONDAY
        assert desk.carry_out(request).success
    assert desk.status(MONDAY).complete


def test_unreachable_schema_decides_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.two_customers(MONDAY)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bigsite.trade ALTER COLUMN units TYPE text"))
    with desk.at("2026-03-03T06:00:00+11:00"):
        desk.run(MONDAY, at=desk.runtime.settings.now)

    def silent(*_: object) -> None:
        raise SourceReadError("bigsite's schema could not be read")

    with desk.at("2026-03-03T06:45:00+11:00"), monkeypatch.context() as patch:
        patch.setattr(facts, "require_schema", silent)
        none(desk)
        assert "SchemaDriftError (data), which a retry cannot fix" in desk.tick("repair")[1]


def test_promised_retry_of_a_dead_workers_run_is_awaited_for_minutes(desk: Desk) -> None:
    desk.two_customers(MONDAY)
    job = desk.definitions.resolve_job_def("class_super_job")
    with desk.at("2026-03-03T06:20:00+11:00"):
        run = desk.instance.create_run_for_job(job, tags={"dagster/partition": MONDAY, "dagster/will_retry": "true"})
        desk.instance.report_run_failed(run, "the run worker was lost")
    with desk.at("2026-03-03T06:22:50+11:00"):
        none(desk)
        assert "its worker died; Dagster retries it" in desk.tick("repair")[1]
    # After three minutes, and under a clock that was set back since.
    for at in ("2026-03-03T06:23:10+11:00", "2026-03-03T06:10:00+11:00"):
        with desk.at(at):
            assert only(desk).tags["classfeed/reason"] == "worker died (transient)"


def _verdict(desk: Desk, finding: str | None, revision: int = 0) -> None:
    manifest = desk.manifest(MONDAY, revision)
    summary = ReconciliationSummary(
        build_id=manifest.build_id,
        revision=revision,
        errors=int(finding is not None),
        warnings=0,
        breaks=1,
        unexplained=1,
        report="reconciliation/report.html",
        attempt="a",
        finding=finding,
    )
    desk.runtime.save_reference("class_super/source_reconciliation", dt.date.fromisoformat(MONDAY), summary)


def test_errors_of_reconciliation_read_bigsite_again_once(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    with desk.at("2026-03-03T06:00:00+11:00"):
        none(desk)
    with desk.at("2026-03-03T07:00:00+11:00"):
        _verdict(desk, "f1")
        request = only(desk)
        assert request.run_config["ops"]["landing"]["config"] == {"fresh_snapshot": True}
        assert request.tags["classfeed/finding"] == "f1"
        assert desk.carry_out(request).success
        none(desk)  # nothing had changed: people look at it
        _verdict(desk, "f2")
        assert only(desk).tags["classfeed/finding"] == "f2"
        _verdict(desk, None)
        none(desk)
    assert len(desk.status(MONDAY).deliveries) == 1


def test_errors_of_an_overtaken_delivery_start_nothing(live_desk_after: DeskAfter) -> None:
    desk = live_desk_after(monday_delivered)
    with desk.at("2026-03-03T06:00:00+11:00"):
        _verdict(desk, "f1")
        summary = desk.runtime.load_reference(
            "class_super/source_reconciliation", dt.date.fromisoformat(MONDAY), ReconciliationSummary
        )
        overtaken = summary.model_copy(update={"revision": -1})
        desk.runtime.save_reference("class_super/source_reconciliation", dt.date.fromisoformat(MONDAY), overtaken)
        none(desk)
