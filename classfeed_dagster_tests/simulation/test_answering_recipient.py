"""A recipient that answers, rehearsed through the real jobs: two days here, 60 in the nightly run."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from openfeature import api

from classfeed_dagster.acknowledgements.inbox import (
    FileAnswers,
    acknowledgements,
    dead_letters,
    file_answers,
    inbox_keys,
)
from classfeed_dagster.acknowledgements.mapping import AnswerMapping, RecordState
from classfeed_dagster.alerting.incidents import Incident, Messenger, Pager, Thread, open_incidents, sync_incidents
from classfeed_dagster.alerting.recipient_alerts import recipient_incidents
from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.delivery.refreshes import Refresh, record_refresh
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.jobs import RECIPIENTS_JOB
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.orchestration.run_history import run_reader
from classfeed_dagster.repair.facts import gather
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.simulation.guard import SimulationRefusedError
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.proof import delivered_pages, prove
from classfeed_dagster.simulation.recipient_answers import (
    FREQUENCIES,
    AnswerFault,
    SimulatedRecipient,
    faults_of,
)
from classfeed_dagster.simulation.world import World
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster.trading_days import business_days_between, cutoff
from classfeed_dagster.transmission.destination import HttpsUpload
from classfeed_dagster.transmission.send import receipts, unsent
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster.warehouse.database import query
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.databases import fresh_bigsite
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.instances import instance_in_memory
from classfeed_dagster_tests.fixtures.upload_server import Upload, endpoint
from classfeed_dagster_tests.fixtures.warehouse import session_warehouse

__all__ = ["endpoint"]

FIRST = dt.date(2023, 1, 3)
SEED = 5
TWO_DAYS_SEED = 9926  # one day is rejected, and every fault happens
NAME = "told"


class Notices(Messenger):
    """Announcements by incident."""

    def __init__(self) -> None:
        self.announced: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def announce(self, incident: Incident) -> Thread:
        self.announced[incident.key] += 1
        return Thread(channel="test", ts=incident.key)

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        self.ended[incident.key] += 1


@dataclass
class Conversation:
    """A simulated world, its feed with a destination and a recipient, and everything that was said."""

    world: World
    desk: Desk
    seed: int
    outage_every: int  # days
    refresh_every: int
    notices: Notices = field(default_factory=Notices)
    dates: list[dt.date] = field(default_factory=list)
    corrected: set[tuple[dt.date, str, str]] = field(default_factory=set)  # date, portfolio, TransactionId
    requested: set[str | None] = field(default_factory=set)
    refreshed: list[tuple[dt.date, str]] = field(default_factory=list)

    @property
    def feed(self) -> Feed:
        return self.desk.feeds[0]

    def files(self) -> Iterator[FileAnswers]:
        for day in self.dates:
            yield from file_answers(self.desk.runtime.store, NAME, day)

    def live(self, day: dt.date) -> None:
        """Let customers act; the date is delivered, sent and answered; what is rejected is corrected and issued again."""
        self.world.advance(self.desk.runtime.engine, day)
        self.dates.append(day)
        now = morning_after(day)
        if len(self.dates) % self.outage_every == 0:  # the destination is away: the next attempt sends
            Upload.status = 503
            assert self.desk.run(day.isoformat(), feed=NAME).outcome is Outcome.UNAVAILABLE
            Upload.status = 201
            assert self.desk.run(day.isoformat(), feed=NAME).outcome is Outcome.NOTHING_TO_DO
        else:
            assert self.desk.run(day.isoformat(), feed=NAME).outcome is Outcome.DELIVERED
        self.hear(now + dt.timedelta(hours=4))
        if self.correct(now + dt.timedelta(hours=5)):
            self.hear(now + dt.timedelta(hours=6))
        if len(self.dates) % self.refresh_every == 0:
            self.refresh(day, now + dt.timedelta(hours=6, minutes=30))
            self.hear(now + dt.timedelta(hours=7))
        self.watch(now + dt.timedelta(hours=7, minutes=30))

    def hear(self, at: dt.datetime) -> None:
        """Let the recipient answer, and read the inbox as the daemon does it."""
        job = self.desk.definitions.resolve_job_def(RECIPIENTS_JOB)
        tags = {CLOCK_TAG: at.isoformat()}
        assert job.execute_in_process(instance=self.desk.instance, tags=tags).success
        for request in self.desk.tick(f"{NAME}_acknowledgements")[0]:
            if request.run_key not in self.requested:
                self.requested.add(request.run_key)
                read = self.desk.definitions.resolve_job_def(str(request.job_name))
                assert read.execute_in_process(instance=self.desk.instance, tags=tags).success

    def correct(self, at: dt.datetime) -> bool:
        """Correct the rejected rows in bigsite; their dates run again and issue exactly their portfolios. False if none."""
        rejected = {
            (file.manifest.business_date, record.portfolio_number, str(record.transaction_id))
            for file in self.files()
            for answer in file.answers
            for record in answer.records
            if record.state is RecordState.REJECTED
        }
        new = rejected - self.corrected
        for _, _, transaction in new:
            correct_row(self.desk.runtime.engine, transaction)
        for day in sorted({day for day, _, _ in new}):
            before = len(self.desk.status(day.isoformat(), NAME).deliveries)
            read_at = self.desk.status(day.isoformat(), NAME).deliveries[-1].snapshot.snapshot_at
            rewritten = self.rewritten(day, read_at)
            report = self.desk.run(day.isoformat(), feed=NAME, at=at, fresh_snapshot=True)
            assert report.outcome is Outcome.DELIVERED, report
            (again,) = self.desk.status(day.isoformat(), NAME).deliveries[before:]
            issued = {portfolio.number for portfolio in again.portfolios}
            wrong = {number for date, number, _ in new if date == day}
            assert wrong <= issued <= wrong | rewritten, day
        self.corrected |= new
        return bool(new)

    def refresh(self, day: dt.date, at: dt.datetime) -> None:
        """Send one portfolio again in full, as a revision of the date."""
        status = self.desk.status(day.isoformat(), NAME)
        extracts = {entry.number: entry.extract for manifest in status.deliveries for entry in manifest.portfolios}
        number = [number for number, extract in sorted(extracts.items()) if extract == "DELTA"][len(self.refreshed)]
        record = Refresh(
            feed=NAME, business_date=day, portfolio_number=number, early=False, consented_at=at, requested_at=at,
            request=f"reruns/{NAME}/00000001.json", correlation_id="c" * 32,
        )  # fmt: skip
        assert record_refresh(self.desk.runtime.store, record)
        report = self.desk.run(day.isoformat(), feed=NAME, at=at)
        assert report.outcome is Outcome.DELIVERED, report
        again = self.desk.status(day.isoformat(), NAME).deliveries[-1]
        assert "FULL" in {entry.extract for entry in again.portfolios if entry.number == number}
        self.refreshed.append((day, number))

    def rewritten(self, day: dt.date, since: dt.datetime) -> set[str]:
        """Return portfolios whose rows bigsite rewrote for a date since it was read, by an own question."""
        rows = sa.text(
            "SELECT portfolio_number FROM bigsite.portfolio p WHERE p.updated_at > :since OR EXISTS (SELECT 1 FROM "
            "bigsite.holding_eod h WHERE h.portfolio_id = p.portfolio_id AND h.as_at_date = :day AND h.updated_at > "
            ":since) OR EXISTS (SELECT 1 FROM bigsite.cash_account c LEFT JOIN bigsite.cash_balance_eod b ON "
            "b.cash_account_id = c.cash_account_id AND b.as_at_date = :day WHERE c.portfolio_id = p.portfolio_id AND "
            "greatest(c.updated_at, b.updated_at) > :since)"
        )
        with self.desk.runtime.engine.connect() as connection:
            return set(connection.execute(rows, {"day": day, "since": since}).scalars())

    def watch(self, at: dt.datetime) -> None:
        """Evaluate the alerts twice, as the sensor does every minute."""
        runtime = self.desk.runtime
        observations = gather(runtime, run_reader(self.desk.instance), [self.feed], at, ask_changes=False)
        for _ in range(2):
            current = recipient_incidents(runtime.store, observations)
            sync_incidents(runtime.store, current, (self.notices, Pager()), at)


def correct_row(engine: sa.Engine, transaction_id: str) -> None:
    """Correct the text of a ledger row, as bigsite's team does after a rejection."""
    table, column = {
        "T": (tables.trade, "confirmation_number"),
        "S": (tables.security_movement, "description"),
        "C": (tables.cash_transaction, "description"),
    }[transaction_id[0]]
    (key,) = table.primary_key
    corrected = sa.func.concat(sa.func.left(table.c[column], 28), "-C")
    with engine.begin() as connection:
        connection.execute(table.update().where(key == int(transaction_id[1:])).values({column: corrected}))


@contextmanager
def conversation(
    postgres_url: str,
    folder: Path,
    url: str,
    portfolios: int,
    *,
    seed: int = SEED,
    outage_every: int = 4,
    refresh_every: int = 5,
) -> Iterator[Conversation]:
    feed = Feed(
        NAME, "To a recipient that answers", "CLASS", EPI, ("team:x",), FeedMode.LIVE, FIRST,
        sends_to=HttpsUpload(url), acknowledgements=AnswerMapping(checks={"E42": "net_amount"}),
    )  # fmt: skip
    with fresh_bigsite(postgres_url) as engine, instance_in_memory() as instance, session_warehouse(folder):
        settings = Settings(
            bigsite_url=engine.url.render_as_string(hide_password=False), home=folder, first_business_date=FIRST,
            max_removed_share="1", simulation_seed=seed,
        )  # fmt: skip
        runtime = Runtime(settings)
        world = World(
            seed, InventedMarket(seed, FIRST), consented=portfolios, portfolios=portfolios + 2, first_day=FIRST,
            history_days=8, environment=Environment.LOCAL,
        )  # fmt: skip
        world.seed(runtime.engine)
        desk = Desk(Bigsite(engine), runtime, instance, build_definitions(runtime, [feed]), (feed,))
        try:
            yield Conversation(world, desk, seed, outage_every, refresh_every)
        finally:
            runtime.close()
            api.clear_providers()


def require_nothing_lost(rehearsal: Conversation) -> None:
    """Raise AssertionError unless everything that was said is kept, once, and everything sent is answered."""
    store = rehearsal.desk.runtime.store
    files = list(rehearsal.files())
    # Every delivered file was sent once, and the recipient has exactly its bytes.
    for day in rehearsal.dates:
        assert unsent(store, NAME, day) == ()
    sent = [receipt for day in rehearsal.dates for receipt in receipts(store, NAME, day)]
    assert sorted(receipt.message_id for receipt in sent) == sorted(file.page.message_id for file in files)
    assert {path.rpartition("/")[2]: body for path, (body, _) in Upload.files.items()} == {
        file.page.key.rpartition("/")[2]: store.read(file.page.key) for file in files
    }
    # Every message of the inbox is an acknowledgement or a dead letter, and none is both or counted twice.
    kept = [answer for day in rehearsal.dates for answer in acknowledgements(store, NAME, day)]
    letters = dead_letters(store, NAME)
    contents = {store.read(key) for key in inbox_keys(store, NAME)}
    hashes = [*(answer.sha256 for answer in kept), *(letter.sha256 for letter in letters)]
    assert len(hashes) == len(set(hashes)) == len(contents)
    # What the recipient did by its seed is what we know.
    faults = {file.page.message_id: faults_of(rehearsal.seed, file.page.message_id) for file in files if file.answers}
    expected = Counter(fault for file_faults in faults.values() for fault in file_faults)
    assert sum(letter.reason == "no such file was delivered" for letter in letters) == expected[AnswerFault.OTHER_FILE]
    assert sum("json form" in letter.reason for letter in letters) == expected[AnswerFault.UNREADABLE]
    for file in files:
        if file.answers:
            contradicts = AnswerFault.CONTRADICTORY in faults[file.page.message_id]
            assert (len(file.answers), file.contradictory) == (1 + contradicts, contradicts)
    # Re-issued: the rejected portfolios, each with a revision of its date that the recipient accepts.
    for day, number, _ in rehearsal.corrected:
        revisions = [
            manifest for manifest in rehearsal.desk.status(day.isoformat(), NAME).deliveries if manifest.revision
        ]
        assert any(number in {portfolio.number for portfolio in manifest.portfolios} for manifest in revisions)
    # Each incident was announced once for every time that it ended, and once more if it is open.
    still_open = {key for key, state in open_incidents(store).items() if state.thread is not None}
    for key, announced in rehearsal.notices.announced.items():
        assert announced == rehearsal.notices.ended[key] + (key in still_open)


def live(rehearsal: Conversation, count: int) -> None:
    days = list(business_days_between(FIRST, FIRST + dt.timedelta(days=2 * count + 10)))
    for day in days[:count]:
        rehearsal.live(day)
    for later in range(1, 5):  # the late answers
        rehearsal.hear(morning_after(days[count - 1]) + dt.timedelta(days=later))
        rehearsal.correct(morning_after(days[count - 1]) + dt.timedelta(days=later, hours=1))
    rehearsal.hear(morning_after(days[count - 1]) + dt.timedelta(days=9))
    require_nothing_lost(rehearsal)
    assert all(file.answers for file in rehearsal.files())
    assert len(rehearsal.refreshed) == count // rehearsal.refresh_every
    store, feed = rehearsal.desk.runtime.store, rehearsal.feed
    proofs = prove(store, feed, rehearsal.world, days[count - 1], list(delivered_pages(store, feed, rehearsal.dates)))
    assert [proof.statement for proof in proofs if not proof.holds] == []
    with open_warehouse(rehearsal.desk.runtime.settings) as connection:
        ((rows,),) = query(connection, "SELECT count(*) FROM ACKNOWLEDGEMENT WHERE RECORD_STATE = 'rejected'")
        remaining = {rejection.subject for rejection in stored_breaks(connection, feed=NAME, only_open=True)}
    assert rows == len(rehearsal.corrected)
    assert remaining == set()


def test_conversation_of_two_days_loses_nothing(postgres_url: str, tmp_path: Path, endpoint: str) -> None:
    with conversation(
        postgres_url, tmp_path, endpoint, portfolios=8, seed=TWO_DAYS_SEED, outage_every=2, refresh_every=2
    ) as rehearsal:
        live(rehearsal, 2)
        assert rehearsal.corrected
        assert faults_in(rehearsal) == set(AnswerFault)


@pytest.mark.nightly
def test_conversation_of_sixty_days_loses_nothing(postgres_url: str, tmp_path: Path, endpoint: str) -> None:
    with conversation(postgres_url, tmp_path, endpoint, portfolios=24) as rehearsal:
        live(rehearsal, 60)
        assert faults_in(rehearsal) == set(AnswerFault)
        assert len(rehearsal.corrected) > 10
        assert rehearsal.notices.announced.keys() == {
            f"{name}.{NAME}" for name in ("not-acknowledged", "refused", "unreadable-answers")
        }


def faults_in(rehearsal: Conversation) -> set[AnswerFault]:
    return {fault for file in rehearsal.files() for fault in faults_of(rehearsal.seed, file.page.message_id)}


def test_faults_follow_from_the_seed_and_have_their_frequency() -> None:
    ids = [f"told-20230103-r0-p{at}" for at in range(3000)]
    counts = Counter(fault for name in ids for fault in faults_of(SEED, name))
    for fault, often in FREQUENCIES.items():
        assert 0.8 < counts[fault] * often / len(ids) < 1.2, fault
    assert [faults_of(SEED, name) for name in ids[:50]] == [faults_of(SEED, name) for name in ids[:50]]


def test_recipient_is_not_simulated_in_production_or_without_customers(
    bigsite_engine: sa.Engine, tmp_path: Path
) -> None:
    url = bigsite_engine.url.render_as_string(hide_password=False)
    settings = Settings(bigsite_url=url, home=tmp_path, first_business_date=FIRST)
    feed = Feed(NAME, "x", "CLASS", EPI, ("team:x",), FeedMode.LIVE, FIRST, acknowledgements=AnswerMapping())
    runtime = Runtime(settings)
    recipient = SimulatedRecipient(runtime.engine, settings, runtime.store, feed)
    with pytest.raises(SimulationRefusedError, match="no simulated customers"):
        recipient.answer(cutoff(FIRST))
    production = settings.model_copy(update={"env": Environment.PROD})
    with pytest.raises(SimulationRefusedError, match="never simulated"):
        SimulatedRecipient(runtime.engine, production, runtime.store, feed).answer(cutoff(FIRST))
    assert list(runtime.store.list("")) == []
    runtime.close()
