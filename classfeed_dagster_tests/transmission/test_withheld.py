"""A consent that ends between delivery and sending: the file is withheld, a revision without the portfolio is sent."""

from __future__ import annotations

import datetime as dt
import gzip
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from unittest import mock

import pytest
from pydantic import SecretStr

from classfeed_dagster.acknowledgements.inbox import read_inbox
from classfeed_dagster.acknowledgements.mapping import Answer, AnswerMapping, FileState
from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.flags import start_flags
from classfeed_dagster.feeds.examples import trade_list
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.reconciliation.delivered import read_revisions
from classfeed_dagster.support.customer import read_date
from classfeed_dagster.support.portfolio_search import PortfolioSearch
from classfeed_dagster.transmission.destination import DestinationRefusedError, HttpsUpload, NotSentError
from classfeed_dagster.transmission.send import (
    ConsentEndedError,
    Transmission,
    awaiting_reissue,
    outstanding,
    receipts,
    unsent,
)
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.morning import deliver, prepare
from classfeed_dagster_tests.fixtures.upload_server import Upload

MONDAY, TUESDAY = dt.date(2026, 3, 2), dt.date(2026, 3, 3)
KEPT, ENDED = "SW00000001", "SW00000002"
ENDS_AT = morning_after(MONDAY) + dt.timedelta(minutes=30)
LATER = morning_after(MONDAY) + dt.timedelta(hours=1)


def prepared(desk: Desk, feed: Feed) -> None:
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_removed_share": Decimal(1)})
    desk.feeds = (*desk.feeds, feed)
    start_flags(desk.runtime.settings, desk.feeds)
    for customer in desk.two_customers():
        customer.consent(granted_at="2026-02-20T00:00:00Z", recipient=feed.recipient)
        customer.deposit("11.00", "2026-03-02")
        customer.deposit("12.00", "2026-03-03")
    for day in (MONDAY, TUESDAY):
        desk.bigsite.end_of_day(day.isoformat())
    desk.bigsite.save()


def sending_feed(url: str, credential: str | None = None) -> Feed:
    destination = HttpsUpload(url, credential=credential)
    return Feed("sent", "Sent to BGL", "BGL", EPI, ("team:x",), FeedMode.LIVE, MONDAY, sends_to=destination)


def attempt(desk: Desk, day: dt.date, at: dt.datetime | None = None) -> FeedRun:
    """Return an attempt at a date of the added feed, by default on the following morning."""
    feed = desk.feeds[-1]
    return FeedRun(
        desk.runtime, feed, feed.audience(MONDAY), day, uuid.uuid4().hex, at or morning_after(day), desk.feeds
    )


def deliver_and_send(desk: Desk, day: dt.date, at: dt.datetime | None = None, *, fresh: bool = False) -> str:
    """Run the job's steps without Dagster; return what the delivery did."""
    work = attempt(desk, day, at)
    prepare(work, fresh=fresh)
    kind = deliver(work).kind
    work.send()
    return kind


def deliver_unsent(desk: Desk, day: dt.date, at: dt.datetime | None = None, *, fresh: bool = False) -> None:
    """Deliver a date whose destination fails."""
    Upload.status = 503
    with pytest.raises(NotSentError):
        deliver_and_send(desk, day, at, fresh=fresh)
    Upload.status = 201


def end_consent(desk: Desk, at: dt.datetime = ENDS_AT) -> None:
    """Withdraw the customer's consent, by default half an hour after Monday's delivery."""
    consent, portfolio = tables.data_sharing_consent, tables.portfolio
    ids = portfolio.select().with_only_columns(portfolio.c.portfolio_id).where(portfolio.c.portfolio_number == ENDED)
    change = consent.update().where(consent.c.portfolio_id.in_(ids), consent.c.recipient != "CLASS")
    with desk.runtime.engine.begin() as connection:
        connection.execute(change.values(revoked_at=at))


def sent(name: str) -> str:
    body = Upload.files[f"/in/{name}"][0]
    return (gzip.decompress(body) if name.endswith(".gz") else body).decode()


@pytest.mark.parametrize("began", [True, False])
def test_withheld_file_is_replaced_by_a_revision_without_the_portfolio(desk: Desk, endpoint: str, began: bool) -> None:
    """``began``: the destination failed while the file was sent, by the real job; else before any of it was."""
    feed, store = sending_feed(endpoint, None if began else "token"), desk.runtime.store
    prepared(desk, feed)
    if began:
        desk.add()  # the definitions of the feed
        Upload.status = 503
        assert desk.run(MONDAY.isoformat(), feed="sent").outcome is Outcome.UNAVAILABLE
        Upload.status = 201
    else:
        with pytest.raises(DestinationRefusedError):
            deliver_and_send(desk, MONDAY)
    assert len(unsent(store, "sent", MONDAY)) == 1
    desk.runtime.settings = desk.runtime.settings.model_copy(
        update={"transmission_credentials": {"token": SecretStr("x")}}
    )
    end_consent(desk)
    if began:
        report = desk.run(MONDAY.isoformat(), feed="sent", at=LATER)
        assert report.outcome is Outcome.NOTHING_TO_DO, report.message
    else:
        assert deliver_and_send(desk, MONDAY, LATER) == "NOTHING_TO_DO"
    assert list(Upload.files) == ["/in/sent-20260302-r1-p1.xml.gz"]
    document = sent("sent-20260302-r1-p1.xml.gz")
    assert (KEPT in document, ENDED in document, "<Replaces>" in document) == (True, False, False)
    (receipt,) = receipts(store, "sent", MONDAY)
    assert (receipt.revision, outstanding(store, "sent", MONDAY)) == (1, 0)
    # Readers of deliveries see what was disclosed.
    assert [entry.arrival for entry in read_date(store, feed, MONDAY, PortfolioSearch(store, KEPT))[0]] == ["sent"]
    assert read_date(store, feed, MONDAY, PortfolioSearch(store, ENDED))[0] == []
    state = delivered_state(store, "sent", MONDAY)
    assert {number: delivery.revision for number, delivery in state.portfolios.items()} == {KEPT: 1}
    assert [record.number for record in held(store, "sent", MONDAY)] == [ENDED]
    assert read_revisions(store, "sent", MONDAY)[0].portfolios == {}
    verification = verify_feed(store, "sent", EPI)
    assert (verification.problems, verification.manifests) == ([], 2)
    # Only a portfolio that may have arrived has a removal to announce.
    assert deliver_and_send(desk, TUESDAY) == "DELIVERED"
    tuesday = sent("sent-20260303-r0-p1.xml.gz")
    assert (KEPT in tuesday, ENDED in tuesday) == (True, began)
    assert verify_feed(store, "sent", EPI).problems == []


@pytest.mark.parametrize("granted_again", [True, False])
def test_file_sent_and_withheld_at_once_is_one_of_both(desk: Desk, endpoint: str, granted_again: bool) -> None:
    """One attempt asked before the consent ended. ``granted_again``: the other one died while it withheld the file."""
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    work = attempt(desk, MONDAY)
    prepare(work)
    deliver(work)

    def transmission(consented: set[str], now: Callable[[], dt.datetime]) -> Transmission:
        return Transmission(
            store, "sent", MONDAY, HttpsUpload(endpoint), feed.audience(MONDAY), {}, lambda: consented, now, "c1"
        )

    def meanwhile() -> dt.datetime:
        with pytest.raises(ConsentEndedError):
            transmission({KEPT, ENDED}, lambda: LATER).send()
        if granted_again:
            raise KeyboardInterrupt
        return LATER

    with pytest.raises(KeyboardInterrupt if granted_again else ConsentEndedError):
        transmission({KEPT}, meanwhile).send()
    assert Upload.files == {}
    (revision,) = delivered_state(store, "sent", MONDAY).revisions
    assert (revision.withheld_numbers, revision.may_have_arrived) == (frozenset((KEPT, ENDED)), frozenset())
    attempt(desk, MONDAY, LATER).send()
    assert list(Upload.files) == ["/in/sent-20260302-r1-p1.xml.gz"]
    assert outstanding(store, "sent", MONDAY) == 0


def test_dates_delivered_and_not_sent_are_each_issued_again(desk: Desk, endpoint: str) -> None:
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    for day in (MONDAY, TUESDAY):
        deliver_unsent(desk, day, morning_after(TUESDAY))
    end_consent(desk, morning_after(TUESDAY) + dt.timedelta(minutes=30))
    for day in (MONDAY, TUESDAY):
        assert deliver_and_send(desk, day, morning_after(TUESDAY) + dt.timedelta(hours=1)) == "NOTHING_TO_DO"
    assert list(Upload.files) == ["/in/sent-20260302-r1-p1.xml.gz", "/in/sent-20260303-r1-p1.xml.gz"]
    for name in Upload.files:
        assert ENDED not in sent(name.removeprefix("/in/"))
    movements = desk.records(TUESDAY.isoformat(), 1, feed="sent")["movement_transactions"]
    assert movements["amount"].to_list() == [12]
    assert verify_feed(store, "sent", EPI).problems == []


def test_file_of_one_portfolio_is_withheld_alone(desk: Desk, endpoint: str) -> None:
    feed = replace(trade_list.FEED, mode=FeedMode.LIVE, sends_to=HttpsUpload(endpoint))
    prepared(desk, feed)
    store = desk.runtime.store
    deliver_unsent(desk, MONDAY)
    end_consent(desk)
    deliver_and_send(desk, MONDAY, LATER)
    (name,) = Upload.files
    assert (KEPT in sent(name.removeprefix("/in/")), len(desk.status(MONDAY.isoformat(), "trade_list").deliveries)) == (
        True,
        1,
    )
    assert [record.number for record in held(store, "trade_list", MONDAY)] == [ENDED]
    assert outstanding(store, "trade_list", MONDAY) == 0


def test_corrected_portfolio_keeps_its_own_unsent_file(desk: Desk, endpoint: str) -> None:
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    deliver_unsent(desk, MONDAY)
    changed = tables.portfolio.update().where(tables.portfolio.c.portfolio_number == KEPT)
    with desk.runtime.engine.begin() as connection:
        connection.execute(changed.values(portfolio_name="New"))
    deliver_unsent(desk, MONDAY, fresh=True)
    assert len(unsent(store, "sent", MONDAY)) == 2
    end_consent(desk)
    deliver_and_send(desk, MONDAY, LATER)
    assert list(Upload.files) == ["/in/sent-20260302-r1-p1.xml.gz"]
    assert len(desk.status(MONDAY.isoformat(), "sent").deliveries) == 2
    assert verify_feed(store, "sent", EPI).problems == []


def test_crash_after_withholding_is_continued_by_the_next_run(desk: Desk, endpoint: str) -> None:
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    deliver_unsent(desk, MONDAY)
    end_consent(desk)
    work = attempt(desk, MONDAY, LATER)
    with mock.patch.object(FeedRun, "_stage_again", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        work.send()
    assert (unsent(store, "sent", MONDAY), outstanding(store, "sent", MONDAY)) == ((), 1)
    assert awaiting_reissue(store, "sent", MONDAY) == {KEPT, ENDED}
    assert Upload.files == {}
    (receipt,) = work.send()
    assert (receipt.message_id, outstanding(store, "sent", MONDAY)) == ("sent-20260302-r1-p1", 0)


def test_file_with_a_receipt_is_not_withheld_by_a_second_attempt(desk: Desk, endpoint: str) -> None:
    feed, store = sending_feed(endpoint), desk.runtime.store
    prepared(desk, feed)
    work = attempt(desk, MONDAY)
    prepare(work)
    deliver(work)

    def meanwhile() -> set[str]:
        assert len(work.send()) == 1
        end_consent(desk)
        return {KEPT}

    second = Transmission(
        store, "sent", MONDAY, HttpsUpload(endpoint), feed.audience(MONDAY), {}, meanwhile, lambda: LATER, "c2"
    )
    assert second.send() == ()
    assert attempt(desk, MONDAY, LATER).send() == ()
    assert list(Upload.files) == ["/in/sent-20260302-r0-p1.xml.gz"]
    assert delivered_state(store, "sent", MONDAY).withheld_numbers == frozenset()


def test_answer_about_a_withheld_file_is_a_dead_letter_that_names_it(desk: Desk, endpoint: str) -> None:
    store, mapping = desk.runtime.store, AnswerMapping()
    prepared(desk, sending_feed(endpoint))
    deliver_unsent(desk, MONDAY)
    end_consent(desk)
    deliver_and_send(desk, MONDAY, LATER)
    answer = Answer("sent-20260302-r0-p1", FileState.LOADED, None, ())
    store.put("acknowledgements/sent/a.json", mapping.message(answer))
    (letter,) = read_inbox(store, "sent", mapping, LATER).dead_letters
    assert letter.reason == (
        "its file arrived, though it is withheld since because a consent ended: ask the recipient to remove the data "
        "of the portfolios in delivered/sent/2026-03-02/r0/withheld-sent-20260302-r0-p1.json"
    )
