"""The consent sensor with a real queue, looked at through Dagster: events lead to a look, and the look to a delivery."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import random
from dataclasses import replace

import boto3
import pytest
import sqlalchemy as sa

from classfeed_dagster.alerting.incidents import raised
from classfeed_dagster.repair.consent_events import Queues
from classfeed_dagster.repair.source_probe import ChangeQuery, changed_since
from classfeed_dagster_tests.fixtures.bigsite_builder import instant
from classfeed_dagster_tests.fixtures.desk import Desk

MONDAY = "2026-03-02"
_numbers = itertools.count()


@pytest.fixture
def queues(desk: Desk, s3_endpoint: str) -> Queues:
    client = boto3.client("sqs", endpoint_url=s3_endpoint)
    number = f"{os.getpid()}-{next(_numbers)}"
    events, dead = (client.create_queue(QueueName=f"sensor-{name}-{number}")["QueueUrl"] for name in ("a", "b"))
    settings = {"consent_queue_url": events, "consent_dead_letter_url": dead, "sqs_endpoint_url": s3_endpoint}
    desk.runtime.settings = desk.runtime.settings.model_copy(update=settings)
    created = Queues.of(desk.runtime.settings)
    assert created is not None
    return created


def event(number: int, kind: str = "GRANTED") -> str:
    return json.dumps(
        {
            "event_id": f"event-{number}",
            "consent_id": number,
            "portfolio_id": number,
            "kind": kind,
            "instant": "2026-03-02T19:30:00Z",
            "correlation_id": f"correlation-{number}",
        }
    )


def test_consent_events_unreadable_alert_until_dead_letters_are_empty(desk: Desk, queues: Queues) -> None:
    bodies = [event(number) for number in range(1, 8)] * 3 + ["rubbish", '{"event_id": "x"}']
    random.Random(7).shuffle(bodies)
    for body in bodies:
        queues.client.send_message(QueueUrl=queues.events, MessageBody=body)
    with desk.at("2026-03-03T06:20:00+11:00"):
        requests, reason = desk.tick("consent_events")
        assert requests == []
        assert reason == "7 events, 14 duplicates, 2 unreadable"
        (incident,) = raised(desk.runtime.store)
        assert incident.what == "2 consent events could not be read"
        queues.client.purge_queue(QueueUrl=queues.dead_letters or "")
        assert desk.tick("consent_events")[1] == "0 events, 0 duplicates, 0 unreadable"
        assert raised(desk.runtime.store) == ()


def test_consent_recorded_after_delivery_is_delivered_the_same_morning(desk: Desk, queues: Queues) -> None:
    desk.two_customers()
    late = desk.bigsite.portfolios[2]
    desk.end_of_day(MONDAY)
    with desk.at("2026-03-03T06:00:00+11:00"):
        desk.run(MONDAY, at=desk.runtime.settings.now)
    with desk.at("2026-03-03T06:20:00+11:00"):
        assert desk.tick("repair")[0] == []  # bigsite has been asked now; the next time would be in five minutes
    late.consent(granted_at="2026-03-02T03:00:00Z")  # given on Monday, written down on Tuesday morning
    late.consents[-1].values["updated_at"] = instant("2026-03-02T19:21:00Z")
    desk.bigsite.save()
    with desk.at("2026-03-03T06:22:00+11:00"):
        assert desk.tick("repair")[0] == []
        queues.client.send_message(QueueUrl=queues.events, MessageBody=event(1))
        desk.tick("consent_events")
    with desk.at("2026-03-03T06:22:30+11:00"):
        (request,) = desk.tick("repair")[0]
        assert request.run_config["ops"]["landing"]["config"] == {"fresh_snapshot": True}
        assert desk.carry_out(request).success
        assert desk.tick("repair")[0] == []
    (sent,) = desk.manifest(MONDAY, 1).portfolios
    assert (sent.number, sent.change, sent.extract) == (late.number, "NEW", "FULL")


def test_consent_ended_after_build_is_left_out_by_repair(
    desk: Desk, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classfeed_dagster.feed_run.feed_run import FeedRun

    first, second = desk.two_customers(MONDAY)
    stage = FeedRun.stage

    def then_revoked(work: FeedRun) -> object:
        build = stage(work)
        second.consents[-1].values.update(
            revoked_at=instant("2026-03-02T18:59:00Z"), updated_at=instant("2026-03-02T19:00:30Z")
        )
        desk.bigsite.save()
        return build

    with desk.at("2026-03-03T06:00:00+11:00"), monkeypatch.context() as patch:
        patch.setattr(FeedRun, "stage", then_revoked)
        report = desk.run(MONDAY, at=desk.runtime.settings.now)
        assert report.failed_checks == ("everyone_consented",)
    assert desk.status(MONDAY).deliveries == ()
    queues.client.send_message(QueueUrl=queues.events, MessageBody=event(2, "REVOKED"))
    with desk.at("2026-03-03T06:10:00+11:00"):
        desk.tick("consent_events")
        (request,) = desk.tick("repair")[0]
        assert desk.carry_out(request).success
    assert [portfolio.number for portfolio in desk.manifest(MONDAY).portfolios] == [first.number]


@pytest.mark.parametrize(
    ("ends", "delivered", "changed"),
    [
        ({"revoked_at": "2026-03-02T19:05:00Z"}, False, "2026-03-02T19:06:00Z"),
        ({"revoked_at": "2026-03-02T19:05:00Z"}, True, None),  # nothing that was sent becomes wrong by it
        ({"expires_at": "2026-03-02T19:05:00Z"}, False, "2026-03-02T19:06:00Z"),
    ],
)
def test_probe_detects_consent_ended_during_its_dates_run(
    desk: Desk, ends: dict[str, str], delivered: bool, changed: str | None
) -> None:
    first, _ = desk.two_customers()
    first.consents[-1].values.update(
        {name: instant(at) for name, at in ends.items()}, updated_at=instant("2026-03-02T19:06:00Z")
    )
    desk.end_of_day(MONDAY)
    day = dt.date(2026, 3, 2)
    question = ChangeQuery(day, instant("2026-03-02T19:00:00Z"), delivered=delivered)
    change = changed_since(desk.runtime, "CLASS", [question])
    assert change == ({} if changed is None else {day: instant(changed)})


def test_probe_detects_expired_consent_without_a_changed_row(desk: Desk) -> None:
    first, _ = desk.two_customers()
    first.consents[-1].values.update(expires_at=instant("2026-03-02T19:05:00Z"))
    desk.end_of_day(MONDAY)
    day, observed = dt.date(2026, 3, 2), instant("2026-03-02T19:00:00Z")
    assert changed_since(desk.runtime, "CLASS", [ChangeQuery(day, observed)]) == {}
    assert changed_since(desk.runtime, "CLASS", [ChangeQuery(day, observed, delivered=False)]) == {
        day: instant("2026-03-02T19:05:00Z")
    }


@pytest.mark.parametrize(
    ("granted_at", "changed"),
    [
        ("2026-03-03T12:59:59Z", "2026-03-03T12:59:59Z"),
        ("2026-03-03T13:00:00Z", None),  # at the next cut-off: the next date announces the removal
    ],
)
def test_probe_detects_consent_anew_of_a_portfolio_left_out(desk: Desk, granted_at: str, changed: str | None) -> None:
    first, second = desk.two_customers()
    first.consents[-1].values["expires_at"] = instant("2026-03-02T15:00:00Z")
    for fund in (first, second):
        fund.consent(granted_at=granted_at)
    desk.end_of_day(MONDAY)
    day, cutoff = dt.date(2026, 3, 2), instant("2026-03-03T13:00:00Z")
    question = ChangeQuery(day, instant("2026-03-02T19:00:00Z"), lapsed=(first.number,), next_cutoff=cutoff)
    expected = {} if changed is None else {day: instant(changed)}
    assert changed_since(desk.runtime, "CLASS", [question]) == expected
    assert changed_since(desk.runtime, "ANOTHER", [question]) == {}
    assert changed_since(desk.runtime, "CLASS", [replace(question, lapsed=())]) == {}
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("UPDATE bigsite.data_sharing_consent SET revoked_at = now(), updated_at = now()"))
    assert changed_since(desk.runtime, "CLASS", [question]) == {}


@pytest.mark.parametrize("never", ["infinity", "12020-01-01"])
def test_probe_detects_changes_beside_an_impossible_instant(desk: Desk, never: str) -> None:
    """It would be issued again at every probe, or the statement would fail and no date be issued again."""
    first, second = desk.two_customers()
    desk.end_of_day(MONDAY)
    day, observed = dt.date(2026, 3, 2), instant("2026-03-02T19:00:00Z")
    balance = sa.text(
        "UPDATE bigsite.cash_balance_eod SET updated_at = CAST(:at AS timestamptz) WHERE cash_account_id = :account"
    )
    for fund, at, expected in (
        (first, never, {}),
        (second, "2026-03-02T19:06:00Z", {day: instant("2026-03-02T19:06:00Z")}),
    ):
        with desk.runtime.engine.begin() as connection:
            connection.execute(balance, {"at": at, "account": fund.cash().id})
        assert changed_since(desk.runtime, "CLASS", [ChangeQuery(day, observed)]) == expected
