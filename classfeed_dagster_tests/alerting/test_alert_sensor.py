"""The alert sensor over real runs: what the channel reads, and that it reads it once."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster.alerting.alerts import dead_letters, reconciliation_breaks, schema_drift
from classfeed_dagster.alerting.incidents import raise_incident, settle_incident
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import (
    DeskAfter,
    monday_delivered,
    monday_delivered_without_the_first,
)
from classfeed_dagster_tests.fixtures.switchboard import Switchboard

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
DIGITS = re.compile(r"\b\d{3}-\d{3}\b|\b\d{9,}\b")


@pytest.fixture
def watched(desk: Desk, switchboard: Switchboard) -> Desk:
    return watch(desk, switchboard)


def watch(desk: Desk, switchboard: Switchboard) -> Desk:
    """Prepare the desk with Slack and PagerDuty, in production."""
    tell: dict[str, Any] = {
        "slack_token": "xoxb-local",
        "slack_url": f"{switchboard.url}/api/",
        "pagerduty_key": "key",
        "pagerduty_url": switchboard.url,
        "held_back_alert": 0,
    }
    settings = desk.runtime.settings
    desk.runtime.settings = type(settings).model_validate({**settings.model_dump(), **tell})
    return desk


def read(board: Switchboard) -> dict[str, str]:
    """Return the messages' texts by first line, none with personal data."""
    for message in board.messages:
        for private in ("Given", "Family", "example.invalid", "Super Fund", "Cash of"):
            assert private not in message.seen
        assert not DIGITS.search(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", message.seen)), message.seen
    return {message.text: message.seen for message in board.messages}


def test_late_feed_is_announced_once_and_recovers_in_its_thread(watched: Desk, switchboard: Switchboard) -> None:
    watched.two_customers()
    watched.bigsite.save()
    with watched.at("2026-03-03T06:59:00+11:00"):
        assert watched.tick("alerts")[1] == "0 incidents opened, 0 revised, 0 recovered"
    with watched.at("2026-03-03T07:01:00+11:00"):
        watched.tick("alerts")
        watched.tick("alerts")
    (text,) = read(switchboard)
    assert text.startswith(
        "class_super is late: not delivered by 07:00 Sydney, due by 09:00 Sydney at the latest. Customers' funds"
    )
    with watched.at("2026-03-03T09:01:00+11:00"):
        watched.tick("alerts")
    (text,) = read(switchboard)
    assert text.startswith("class_super is late: past the deadline of 09:00 Sydney.")
    watched.end_of_day(MONDAY)
    with watched.at("2026-03-03T09:10:00+11:00"):
        watched.run(MONDAY, at=watched.runtime.settings.now)
        watched.tick("alerts")
    assert [message.replies for message in switchboard.messages if "late" in message.text] == [
        ["Recovered after 2 h 09 min. It was: class_super is late: past the deadline of 09:00 Sydney"]
    ]


def test_backlog_processed_date_by_date_stays_one_message(watched: Desk, switchboard: Switchboard) -> None:
    watched.two_customers(MONDAY)
    watched.end_of_day(TUESDAY)
    with watched.at("2026-03-04T10:00:00+11:00"):
        for day in (MONDAY, TUESDAY):
            watched.tick("alerts")
            assert len(switchboard.messages) == 1
            assert not switchboard.messages[0].replies
            watched.run(day, at=watched.runtime.settings.now)
        watched.tick("alerts")
    (message,) = switchboard.messages
    assert len(message.replies) == 1


def test_failed_check_alert_names_portfolios_and_recovers(live_desk_after: DeskAfter, switchboard: Switchboard) -> None:
    watched = watch(live_desk_after(monday_delivered_without_the_first), switchboard)
    with watched.at("2026-03-03T06:00:00+11:00"):
        watched.tick("alerts")
    messages = read(switchboard)
    (failed,) = [
        observed for text, observed in messages.items() if "Check units_ledger of class/investment_holdings" in text
    ]
    assert "held back from the recipient. All others were delivered" in failed
    assert "SW00000001" in failed
    assert "run again automatically once bigsite's rows are corrected" in failed
    assert any(text.startswith("1 portfolio of class_super held back") for text in messages)
    watched.bigsite.end_of_day(MONDAY, at="2026-03-02T21:00:00Z").save()
    with watched.at("2026-03-03T08:30:00+11:00"):
        watched.run(MONDAY, at=watched.runtime.settings.now, fresh_snapshot=True)
        watched.tick("alerts")
    assert all(message.replies for message in switchboard.messages)


def test_stopped_date_is_one_incident_not_two(watched: Desk, switchboard: Switchboard) -> None:
    watched.runtime.settings = watched.runtime.settings.model_copy(update={"max_held_back_share": Decimal(0)})
    watched.two_customers(MONDAY, wrong_units=True)
    with watched.at("2026-03-03T06:00:00+11:00"):
        watched.run(MONDAY, at=watched.runtime.settings.now)
        watched.tick("alerts")
    messages = read(switchboard)
    assert not any("gave up" in text for text in messages)
    (share,) = [text for text in messages if "held_back_share" in text]
    assert "Customers' funds at the recipient still show the last delivered business date" in share


def test_unchecked_delivery_raises_an_incident(live_desk_after: DeskAfter, switchboard: Switchboard) -> None:
    watched = watch(live_desk_after(monday_delivered), switchboard)
    job = watched.definitions.resolve_job_def("class_super_job")
    with watched.at("2026-03-03T06:00:00+11:00"):
        # The run on record evaluated nothing: another one, of nothing but the delivery.
        for record in watched.instance.get_run_records():
            watched.instance.delete_run(record.dagster_run.run_id)
        job.execute_in_process(
            partition_key=MONDAY,
            asset_selection=[key for key in job.asset_layer.executable_asset_keys if key.path[-1] == "delivery"],
            instance=watched.instance,
            tags={CLOCK_TAG: "2026-03-02T19:00:00+00:00"},
        )
        watched.tick("alerts")
    (text,) = [text for text in read(switchboard) if "without all checks" in text]
    assert "were not evaluated" in text


def test_worker_death_after_delivery_is_not_alerted_during_its_retry(
    live_desk_after: DeskAfter, switchboard: Switchboard
) -> None:
    watched = watch(live_desk_after(monday_delivered), switchboard)
    with watched.at("2026-03-03T06:00:00+11:00"):
        for record in watched.instance.get_run_records():
            watched.instance.delete_run(record.dagster_run.run_id)
        # What is left of it: a run that was lost before its last checks.
        job = watched.definitions.resolve_job_def("class_super_job")
        run = watched.instance.create_run_for_job(job, tags={"dagster/partition": MONDAY})
        watched.instance.report_run_failed(run, "the run worker was lost")
        watched.tick("alerts")
    assert read(switchboard) == {}
    with watched.at("2026-03-03T06:10:00+11:00"):
        (request,) = watched.tick("repair")[0]
        assert watched.carry_out(request).success
        watched.tick("alerts")
    assert read(switchboard) == {}


def test_raised_incidents_are_announced_until_settled(watched: Desk, switchboard: Switchboard) -> None:
    store, day = watched.runtime.store, watched.runtime.settings.first_business_date
    for incident in (
        schema_drift("column trade.price is a text", 1),
        reconciliation_breaks("class_super", day, 1, ["SW00000001"]),
        dead_letters(2),
    ):
        raise_incident(store, incident)
    with watched.at("2026-03-02T12:00:00+11:00"):
        watched.tick("alerts")
        for key in ("schema-drift", "breaks.class_super", "dead-letters"):
            settle_incident(store, key)
        watched.tick("alerts")
    assert sorted(text.split(":")[0].split(".")[0] for text in read(switchboard)) == [
        "Recovered after 0 s",
        "Recovered after 0 s",
        "Recovered after 0 s",
    ]
    assert sorted(reply for message in switchboard.messages for reply in message.replies) == [
        "Recovered after 0 s. It was: 2 consent events could not be read",
        "Recovered after 0 s. It was: Reconciliation found 1 break in class_super",
        "Recovered after 0 s. It was: bigsite's schema changed: column trade.price is a text",
    ]


def test_consent_sensor_without_queue_skips_with_a_reason(watched: Desk) -> None:
    assert "no queue is set" in watched.tick("consent_events")[1]
