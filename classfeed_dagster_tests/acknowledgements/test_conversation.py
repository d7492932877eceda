"""The whole conversation through the real jobs: delivered, answered, rejected, corrected, issued again, loaded."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from classfeed_dagster.acknowledgements.inbox import dead_letters, file_answers, read_inbox, rejections
from classfeed_dagster.acknowledgements.mapping import Answer, AnswerMapping, FileState
from classfeed_dagster.alerting.recipient_alerts import recipient_incidents
from classfeed_dagster.bigsite import tables
from classfeed_dagster.cli import deliveries
from classfeed_dagster.cli import trace as trace_cli
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.repair.facts import gather
from classfeed_dagster.simulation.recipient_answers import AnswerFault, put_answers, rejection
from classfeed_dagster.store import LocalStore
from classfeed_dagster.support.customer import customer_history
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster.tracing.trace import trace
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import query
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import PreparedDesks

MONDAY = dt.date(2026, 3, 2)
MORNING = morning_after(MONDAY)
MAPPING = AnswerMapping(checks={"E42": "net_amount"})
FEED = Feed(
    "answering", "To a recipient that answers", "BGL", EPI, ("team:x",), FeedMode.LIVE, MONDAY, acknowledgements=MAPPING
)  # fmt: skip


def deliver(desk: Desk) -> None:
    for customer in desk.two_customers():
        customer.consent(granted_at="2026-02-20T00:00:00Z", recipient="BGL")
    desk.end_of_day(MONDAY.isoformat())
    assert desk.run(MONDAY.isoformat(), feed="answering").outcome is Outcome.DELIVERED


@pytest.fixture
def delivered(prepared_desks: PreparedDesks, tmp_path: Path, local_warehouse: None) -> Iterator[Desk]:
    with prepared_desks.after(deliver, (*FEEDS, FEED)).copied(tmp_path) as desk:
        yield desk


def read(desk: Desk) -> None:
    (request,) = desk.tick("answering_acknowledgements")[0]
    job = desk.definitions.resolve_job_def(str(request.job_name))
    result = job.execute_in_process(instance=desk.instance, tags={CLOCK_TAG: MORNING.isoformat()})
    assert result.success


def incident_counts(desk: Desk, hours: int = 2) -> dict[str, dict[str, int]]:
    now = MORNING + dt.timedelta(hours=hours)
    observations = gather(desk.runtime, run_reader(desk.instance), [FEED], now, ask_changes=False)
    return {
        recipient_incident.key: dict(recipient_incident.counts)
        for recipient_incident in recipient_incidents(desk.runtime.store, observations)
    }


def test_rejected_record_is_a_break_until_redelivered(delivered: Desk) -> None:
    desk, store = delivered, delivered.runtime.store
    assert desk.tick("answering_acknowledgements")[1] == "the inbox of answering is empty"
    assert incident_counts(desk, hours=5) == {}
    assert incident_counts(desk, hours=7) == {"not-acknowledged.answering": {"files": 1}}
    (trade,) = [row for row in desk.bigsite.rows[tables.trade] if row["portfolio_id"] == desk.bigsite.portfolios[0].id]
    number, transaction = "SW00000001", f"T{trade['trade_id']}"
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    put_answers(store, manifest, manifest.pages[0], MAPPING, [rejection(number, transaction, "E42")])
    read(desk)
    (file,) = file_answers(store, "answering", MONDAY)
    assert (file.state, file.contradictory) == (FileState.PARTIALLY_PROCESSED, False)
    assert incident_counts(desk, hours=7) == {"refused.answering": {"dates": 1, "portfolios": 1}}
    with open_warehouse(desk.runtime.settings) as connection:
        (break_,) = stored_breaks(connection, feed="answering", only_open=True)
        rows = query(
            connection, "SELECT FILE_STATE, TRANSACTION_ID, RECORD_STATE, CODE FROM ACKNOWLEDGEMENT ORDER BY 2"
        )
    assert (break_.portfolio_number, break_.subject, break_.other_value) == (number, transaction, "E42")
    assert break_.evidence == "code E42: the check net_amount should have found it"
    assert sorted(rows, key=str) == sorted(
        [("partially processed", None, None, None), ("partially processed", transaction, "rejected", "E42")], key=str
    )  # fmt: skip
    (item,) = rejections([file], MAPPING)
    (customer,) = customer_history(desk.runtime, [FEED], number, now=MORNING + dt.timedelta(hours=7)).feeds
    assert customer.answer.endswith("BGL answered: partially processed, rejected: E42.")
    assert item.trace.source_row == f"bigsite.trade, trade_id = {trade['trade_id']}"

    audience = FEED.audience(MONDAY)
    way = trace(desk.runtime.engine, store, "answering", audience, transaction, document_format=EPI)
    assert trace_cli._answers(desk.runtime, FEED, way) == [
        {"message_id": "answering-20260302-r0-p1", "state": "partially processed", "record": "rejected E42"}]  # fmt: skip
    (output,) = deliveries._answers([file])
    assert (output["state"], output["contradictory"], len(list(output["records"]))) == ("partially processed", False, 1)  # type: ignore[call-overload]

    # bigsite is corrected: this portfolio is delivered again, the other is not.
    with desk.runtime.engine.begin() as connection:
        connection.execute(
            tables.portfolio.update().where(tables.portfolio.c.portfolio_number == number).values(portfolio_name="New")
        )
    assert desk.run(MONDAY.isoformat(), feed="answering", fresh_snapshot=True).outcome is Outcome.DELIVERED
    again = desk.manifest(MONDAY.isoformat(), 1, feed="answering")
    assert [portfolio.number for portfolio in again.portfolios] == [number]
    assert incident_counts(desk, hours=7)["refused.answering"] == {"dates": 1, "portfolios": 1}
    put_answers(store, again, again.pages[0], MAPPING)
    read(desk)
    assert incident_counts(desk, hours=7) == {}
    with open_warehouse(desk.runtime.settings) as connection:
        assert stored_breaks(connection, feed="answering", only_open=True) == []


def test_rejections_without_a_transaction_id_are_breaks_of_their_own(delivered: Desk) -> None:
    desk, store, number = delivered, delivered.runtime.store, "SW00000001"
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    rejected = [rejection(number, None, code) for code in ("E1", "E2", None)]
    put_answers(store, manifest, manifest.pages[0], MAPPING, rejected)
    read(desk)
    with open_warehouse(desk.runtime.settings) as connection:
        breaks = stored_breaks(connection, feed="answering", only_open=True)
    assert {(entry.subject, entry.other_value) for entry in breaks} == {(number, "E1"), (number, "E2"), (number, None)}
    assert len({entry.break_id for entry in breaks}) == 3


def test_faulty_answer_is_kept_and_reported(delivered: Desk) -> None:
    desk, store = delivered, delivered.runtime.store
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    keys = put_answers(store, manifest, manifest.pages[0], MAPPING, faults=set(AnswerFault) - {AnswerFault.LATE})
    assert len(keys) == 5
    read(desk)
    (file,) = file_answers(store, "answering", MONDAY)
    assert [answer.state for answer in file.answers] == [FileState.LOADED, FileState.FAILED]  # the duplicate is one
    assert (file.state, file.contradictory) == (FileState.FAILED, True)
    letters = {letter.reason: store.read(letter.inbox_key) for letter in dead_letters(store, "answering")}
    assert set(letters) == {"no such file was delivered", "not of the declared json form (JSONDecodeError)"}
    assert len(list(store.list("acknowledged-content/answering/"))) == 4
    assert incident_counts(desk) == {
        "refused.answering": {"dates": 1, "portfolios": 0},
        "unreadable-answers.answering": {"messages": 2},
    }
    assert incident_counts(desk, hours=24 * 8).keys() == {"refused.answering"}
    again = read_inbox(store, "answering", MAPPING, MORNING)
    assert (again.acknowledgements, again.dead_letters) == ((), ())


def test_answer_repeated_in_another_order_contradicts_nothing(delivered: Desk) -> None:
    desk, store = delivered, delivered.runtime.store
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    refused = [rejection("SW00000001", "T1", "E42"), rejection("SW00000002", "T2", "E42")]
    (key,) = put_answers(store, manifest, manifest.pages[0], MAPPING, refused)
    message = json.loads(store.read(key))
    message["records"] = [*reversed(message["records"]), message["records"][0]]
    store.put(f"{key}-again", json.dumps(message).encode())
    assert len(read_inbox(store, "answering", MAPPING, MORNING).acknowledgements) == 2
    (file,) = file_answers(store, "answering", MONDAY)
    assert not file.contradictory


def test_failed_file_is_reported_until_loaded_files_replace_all_of_it(delivered: Desk) -> None:
    desk, store, both = delivered, delivered.runtime.store, ["SW00000001", "SW00000002"]
    steps = [(both, FileState.FAILED), (both, None), (both[:1], FileState.LOADED), (both, FileState.LOADED)]
    for revision, (numbers, state) in enumerate(steps):
        if revision:
            with desk.runtime.engine.begin() as connection:
                renamed = tables.portfolio.c.portfolio_number.in_(numbers)
                connection.execute(tables.portfolio.update().where(renamed).values(portfolio_name=f"New {revision}"))
            assert desk.run(MONDAY.isoformat(), feed="answering", fresh_snapshot=True).outcome is Outcome.DELIVERED
        manifest = desk.manifest(MONDAY.isoformat(), revision, feed="answering")
        assert [portfolio.number for portfolio in manifest.portfolios] == numbers
        if state is not None:
            answer = MAPPING.message(Answer(manifest.pages[0].message_id, state, None, ()))
            store.put(f"acknowledgements/answering/{revision}.json", answer)
            assert read_inbox(store, "answering", MAPPING, MORNING).acknowledgements
        assert ("refused.answering" in incident_counts(desk)) is (revision < 3)


@pytest.mark.parametrize("state", [FileState.PARTIALLY_PROCESSED, FileState.FAILED])
def test_answer_about_one_page_resolves_nothing_of_another_page(delivered: Desk, state: FileState) -> None:
    desk, store, numbers = delivered, delivered.runtime.store, ["SW00000001", "SW00000002"]
    rejected = (rejection(numbers[0], None, "E1"),) if state is FileState.PARTIALLY_PROCESSED else ()
    refused = Answer("answering-20260302-r0-p1", state, None, rejected)
    store.put("acknowledgements/answering/0.json", MAPPING.message(refused))
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_page_bytes": 1})
    with desk.runtime.engine.begin() as connection:
        connection.execute(tables.portfolio.update().values(portfolio_name="New"))
    assert desk.run(MONDAY.isoformat(), feed="answering", fresh_snapshot=True).outcome is Outcome.DELIVERED
    manifest = desk.manifest(MONDAY.isoformat(), 1, feed="answering")
    pages = {portfolio.number: portfolio.page for portfolio in manifest.portfolios}
    assert (list(pages), len(set(pages.values()))) == (numbers, 2)
    for number, open_breaks in ((numbers[1], len(rejected)), (numbers[0], 0)):
        loaded = MAPPING.message(Answer(pages[number] or "", FileState.LOADED, None, ()))
        store.put(f"acknowledgements/answering/{number}.json", loaded)
        read_inbox(store, "answering", MAPPING, MORNING)
        assert len(rejections(file_answers(store, "answering", MONDAY), MAPPING)) == open_breaks
        assert ("refused.answering" in incident_counts(desk)) is (number == numbers[1])


def test_answer_that_a_dead_run_kept_is_loaded_by_the_next(delivered: Desk) -> None:
    desk, store = delivered, delivered.runtime.store
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    refused = rejection("SW00000001", "T1", "E42")
    put_answers(store, manifest, manifest.pages[0], MAPPING, [refused])
    assert read_inbox(store, "answering", MAPPING, MORNING).acknowledgements  # and its process ended here
    for _ in range(2):
        read(desk)
    with open_warehouse(desk.runtime.settings) as connection:
        rows = query(connection, "SELECT FILE_STATE, RECORD_STATE FROM ACKNOWLEDGEMENT ORDER BY 2")
        assert [break_.subject for break_ in stored_breaks(connection, feed="answering", only_open=True)] == ["T1"]
    assert sorted(rows, key=str) == [("partially processed", "rejected"), ("partially processed", None)]


def test_failed_reading_is_requested_again_after_a_wait(delivered: Desk) -> None:
    desk, keys = delivered, set[str | None]()
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    put_answers(desk.runtime.store, manifest, manifest.pages[0], MAPPING)
    for instant, clock in (("06:10", "no instant"), ("07:30", MORNING.isoformat())):
        with desk.at(f"2026-03-03T{instant}:00+11:00"):
            (request,) = desk.tick("answering_acknowledgements")[0]
            keys.add(request.run_key)
            job = desk.definitions.resolve_job_def(str(request.job_name))
            ended = job.execute_in_process(
                instance=desk.instance, tags={**request.tags, CLOCK_TAG: clock}, raise_on_error=False
            )
            requests, why = desk.tick("answering_acknowledgements")
            assert not requests
            assert ("is read" if ended.success else "waits for its next attempt") in why
    assert ended.success
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("message_id", "reason"),
    [
        ("other-20260302-r0-p1", "it names no file of this feed"),
        ("answering-20269999-r0-p1", "it names no file of this feed"),
        ("answering-20260302-r7-p1", "no such file was delivered"),
        (f"answering-20260302-r{'9' * 5000}-p1", "it names no file of this feed"),
        (f"answering-20260302-r7-p{'9' * 300}", "it names no file of this feed"),
    ],
)
def test_answer_about_another_file_is_a_dead_letter(delivered: Desk, message_id: str, reason: str) -> None:
    store = delivered.runtime.store
    store.put("acknowledgements/answering/a.json", f'{{"message_id": "{message_id}", "state": "loaded"}}'.encode())
    foreign = '{"message_id": "answering-20260302-r0-p1", "state": "loaded", "records": [{"portfolio_number": "SW9", "state": "accepted"}]}'
    store.put("acknowledgements/answering/b.json", foreign.encode())
    result = read_inbox(store, "answering", MAPPING, MORNING)
    assert [letter.reason for letter in result.dead_letters] == [
        reason, "it answers about a portfolio that is not in the file"]  # fmt: skip


def test_dead_letter_is_read_once_the_declaration_is_corrected(delivered: Desk) -> None:
    desk, store = delivered, delivered.runtime.store
    manifest = desk.manifest(MONDAY.isoformat(), feed="answering")
    put_answers(store, manifest, manifest.pages[0], MAPPING)
    before = AnswerMapping(states={"OK": FileState.LOADED})
    assert len(read_inbox(store, "answering", before, MORNING).dead_letters) == 1
    assert read_inbox(store, "answering", before, MORNING).dead_letters == ()
    assert incident_counts(desk) == {"unreadable-answers.answering": {"messages": 1}}
    assert len(read_inbox(store, "answering", MAPPING, MORNING).acknowledgements) == 1
    assert incident_counts(desk) == {}


HEAD = {"message_id": "answering-20260302-r0-p1", "state": "loaded"}
RECORD = {"portfolio_number": "SW00000001", "state": "rejected"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a b.json", b"{}"),
        ("a.json", b"[" * 200_000),
        ("a.json", b" " * (64 << 20) + b"{}"),
        ("a.json", json.dumps({**HEAD, "reason": {"text": "x"}}).encode()),
        ("a.json", json.dumps({**HEAD, "reason": "\ud800"}).encode()),
        ("a.json", json.dumps({**HEAD, "records": [{**RECORD, "code": "\ud800"}]}).encode()),
        ("a.json", json.dumps({**HEAD, "records": [{**RECORD, "code": "x" * 201}]}).encode()),
        ("a.json", json.dumps({**HEAD, "records": [{**RECORD, "transaction_id": "T1\x1b[2J"}]}).encode()),
    ],
)
def test_hostile_message_is_a_dead_letter_and_stops_no_other(delivered: Desk, name: str, content: bytes) -> None:
    store = delivered.runtime.store
    assert isinstance(store, LocalStore)
    inbox = store.root / "acknowledgements" / "answering"
    inbox.mkdir(parents=True)
    (inbox / name).write_bytes(content)
    (inbox / "z.json").write_text(json.dumps({**HEAD, "reason": 5}))
    result = read_inbox(store, "answering", MAPPING, MORNING)
    assert (len(result.acknowledgements), len(result.dead_letters)) == (1, 1)
    assert len(delivered.tick("answering_acknowledgements")[0]) == 1
