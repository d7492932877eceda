"""Delivered files reach their destination: in order, once, with receipts."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from classfeed_dagster.alerting.alerts import incidents
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.errors import GateRefusedError
from classfeed_dagster.feed_run.feed_date import FeedIdleError
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.repair.facts import gather
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import create_record
from classfeed_dagster.transmission import send as sending
from classfeed_dagster.transmission.destination import HttpsUpload
from classfeed_dagster.transmission.send import receipts, unsent
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.morning import deliver, prepare
from classfeed_dagster_tests.fixtures.upload_server import Upload

MONDAY, TUESDAY = dt.date(2026, 3, 2), dt.date(2026, 3, 3)


def sending_feed(url: str, mode: FeedMode = FeedMode.LIVE) -> Feed:
    return Feed(
        "sent", "Sent to BGL", "BGL", EPI, ("team:x",), mode, dt.date(2026, 3, 2), sends_to=HttpsUpload(url)
    )  # fmt: skip


def prepared(desk: Desk, feed: Feed) -> None:
    desk.add(feed)
    for customer in desk.two_customers():
        customer.consent(granted_at="2026-02-20T00:00:00Z", recipient="BGL")
    for day in (MONDAY, TUESDAY):
        desk.bigsite.end_of_day(day.isoformat())
    desk.bigsite.save()


def work(desk: Desk, feed: Feed, day: dt.date) -> FeedRun:
    audience = feed.audience(desk.runtime.settings.first_business_date)
    return FeedRun(desk.runtime, feed, audience, day, "c9", morning_after(day), desk.feeds)


def delivered(desk: Desk, feed: Feed) -> FeedRun:
    """Deliver Monday without Dagster and without sending it."""
    attempt = work(desk, feed, MONDAY)
    prepare(attempt)
    assert deliver(attempt).kind == "DELIVERED"
    return attempt


def test_failed_sending_is_a_state_and_the_next_attempt_ends_it(desk: Desk, endpoint: str) -> None:
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    Upload.status = 503
    report = desk.run(MONDAY.isoformat(), feed="sent")
    assert (report.outcome, report.message.endswith("answered HTTP 503")) == (Outcome.UNAVAILABLE, True), report
    assert desk.status(MONDAY.isoformat(), "sent").complete
    assert len(unsent(store, "sent", MONDAY)) == 1
    now = morning_after(MONDAY) + dt.timedelta(hours=4)
    gathered = gather(desk.runtime, run_reader(desk.instance), [feed], now, ask_changes=False)
    (late,) = [date for date in gathered.dates if date.due.business_date == MONDAY]
    assert (late.facts.delivered, late.facts.unsent) == (True, 1)
    (incident,) = [item for item in incidents(gathered, [], {}, held_back_alert=50) if item.key == "not-sent.sent"]
    assert (incident.page, incident.counts) == (True, {"files": 1, "dates": 1})
    # Tuesday's delivery continues; its files wait for Monday's.
    Upload.status = 201
    waiting = desk.run(TUESDAY.isoformat(), feed="sent")
    assert "2026-03-02 is not sent yet" in waiting.message
    assert Upload.files == {}
    assert desk.run(MONDAY.isoformat(), feed="sent").outcome is Outcome.NOTHING_TO_DO
    (receipt,) = receipts(store, "sent", MONDAY)
    (page,) = desk.manifest(MONDAY.isoformat(), feed="sent").pages
    assert (receipt.sha256, receipt.message_id, receipt.answer) == (page.sha256, page.message_id, "HTTP 201")
    assert [body for body, _ in Upload.files.values()] == [store.read(page.key)]
    assert unsent(store, "sent", MONDAY) == ()
    desk.run(TUESDAY.isoformat(), feed="sent")
    assert list(Upload.files) == ["/in/sent-20260302-r0-p1.xml.gz", "/in/sent-20260303-r0-p1.xml.gz"]
    assert work(desk, feed, MONDAY).send() == ()


def test_dates_wait_for_an_unsent_one_however_old_without_attempts(desk: Desk, endpoint: str) -> None:
    prepared(desk, sending_feed(endpoint))
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"repair_dates": 1})

    def requested(instant: str) -> list[str]:
        with desk.at(f"2026-03-04T{instant}:00+11:00"):
            requests = [request for request in desk.tick("repair")[0] if request.job_name == "sent_job"]
            for request in requests:
                desk.carry_out(request)
            return [str(request.partition_key) for request in requests]

    Upload.status = 503
    for day, instant in ((MONDAY, "06:00"), (TUESDAY, "06:05")):
        with desk.at(f"2026-03-04T{instant}:00+11:00"):
            desk.run(day.isoformat(), feed="sent", at=desk.runtime.settings.now)
    hours = [requested(f"{hour:02d}:00") for hour in range(7, 13)]
    assert hours == [["2026-03-02"]] * 4 + [[]] * 2  # five attempts, then given up
    Upload.status = 201
    with desk.at("2026-03-04T13:00:00+11:00"):  # a person
        desk.run(MONDAY.isoformat(), feed="sent", at=desk.runtime.settings.now)
    assert [requested("13:05"), requested("13:10")] == [["2026-03-03"], []]
    assert list(Upload.files) == ["/in/sent-20260302-r0-p1.xml.gz", "/in/sent-20260303-r0-p1.xml.gz"]


def test_receipts_lost_in_a_restore_send_nothing_twice(desk: Desk, endpoint: str) -> None:
    prepared(desk, sending_feed(endpoint))
    assert desk.run(MONDAY.isoformat(), feed="sent").outcome is Outcome.DELIVERED
    Upload.files.clear()  # the recipient has taken the file
    backup = {key: desk.runtime.store.read(key) for key in desk.runtime.store.list("transmitted/")}
    for key in backup:
        desk.runtime.store.delete(key)
    report = desk.run(MONDAY.isoformat(), feed="sent")
    assert (report.outcome, Upload.files) == (Outcome.STOPPED, {})
    assert "has 0 receipts, but 1 file had one" in report.message
    assert "restore the newer version of transmitted/" in report.message
    assert "2026-03-02 is not sent yet" in desk.run(TUESDAY.isoformat(), feed="sent").message
    for key, data in backup.items():
        desk.runtime.store.create(key, data)
    assert desk.run(MONDAY.isoformat(), feed="sent").outcome is Outcome.NOTHING_TO_DO
    desk.run(TUESDAY.isoformat(), feed="sent")
    assert list(Upload.files) == ["/in/sent-20260303-r0-p1.xml.gz"]


def test_crash_before_the_receipt_sends_nothing_twice(desk: Desk, endpoint: str) -> None:
    feed = sending_feed(endpoint)
    prepared(desk, feed)

    def dying(store: ObjectStore, key: str, *record: Any) -> bool:
        if key.startswith("transmitted/"):
            raise KeyboardInterrupt
        return create_record(store, key, *record)

    first = delivered(desk, feed)
    with mock.patch.object(sending, "create_record", dying), pytest.raises(KeyboardInterrupt):
        first.send()
    assert len(Upload.files) == 1
    (new,) = work(desk, feed, MONDAY).send()
    assert new.answer == "already there: HTTP 409"


def test_file_taken_by_the_recipient_is_not_sent_by_a_second_attempt(desk: Desk, endpoint: str) -> None:
    feed = sending_feed(endpoint)
    prepared(desk, feed)
    delivered(desk, feed)
    first, second = work(desk, feed, MONDAY), work(desk, feed, MONDAY)

    def meanwhile() -> set[str]:
        assert len(first.send()) == 1
        Upload.files.clear()
        return {"SW00000001", "SW00000002"}

    transmission = sending.Transmission(
        desk.runtime.store, "sent", MONDAY, HttpsUpload(endpoint), second.audience, {}, meanwhile,
        lambda: morning_after(MONDAY), "c2",
    )  # fmt: skip
    assert (transmission.send(), Upload.files) == ((), {})
    # Without a file to send, a withdrawn credential stops no run.
    withdrawn = replace(feed, sends_to=HttpsUpload(endpoint, credential="withdrawn"))
    assert work(desk, withdrawn, MONDAY).send() == ()


def test_unsent_file_is_refused_without_verdicts_or_destination(desk: Desk, endpoint: str) -> None:
    feed = sending_feed(endpoint)
    prepared(desk, feed)
    delivered(desk, feed)
    ready = work(desk, feed, MONDAY)
    deliveries = sending.live_deliveries(desk.runtime.store, "sent", MONDAY)
    unproven = tuple(item.model_copy(update={"verdicts": item.verdicts[1:]}) for item in deliveries)
    with (
        mock.patch.object(sending, "live_deliveries", return_value=unproven),
        pytest.raises(GateRefusedError, match="document_valid"),
    ):
        ready.send()
    assert Upload.files == {}
    with pytest.raises(FeedIdleError, match="has no destination"):
        work(desk, replace(feed, sends_to=None), MONDAY).send()


def test_shadow_is_never_sent_and_dates_before_the_first_are_not(desk: Desk, endpoint: str) -> None:
    feed = sending_feed(endpoint, FeedMode.SHADOW)
    prepared(desk, feed)
    assert desk.run(MONDAY.isoformat(), feed="sent").outcome is Outcome.DELIVERED
    assert Upload.files == {}
    assert unsent(desk.runtime.store, "sent", MONDAY) == ()
    later = replace(feed, sends_to=HttpsUpload(endpoint, first_date=TUESDAY))
    assert (later.sends_on(MONDAY), later.sends_on(TUESDAY), later.destination) == (False, True, endpoint)


def test_first_date_of_a_destination_waits_for_none_before_it(desk: Desk, endpoint: str) -> None:
    feed = sending_feed(endpoint)
    prepared(desk, feed)
    delivered(desk, feed)
    first = work(desk, replace(feed, sends_to=HttpsUpload(endpoint, first_date=TUESDAY)), TUESDAY)
    prepare(first)
    assert deliver(first).kind == "DELIVERED"
    assert len(first.send()) == 1
    assert list(Upload.files) == ["/in/sent-20260303-r0-p1.xml.gz"]
