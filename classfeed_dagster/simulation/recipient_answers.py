"""The recipient's answers in a simulation: about the files that reached it, with the faults of real recipients.

Every choice is a hash of seed and message id, so that a repeated call gives equal answers. Refused where simulated
customers are refused, and in a bigsite that has none.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from classfeed_dagster.acknowledgements.inbox import inbox_prefix
from classfeed_dagster.acknowledgements.mapping import Answer, AnswerMapping, FileState, RecordAnswer, RecordState
from classfeed_dagster.delivery.manifest import Manifest, Page
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.settings import Settings
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.environment import last_day
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.transmission.send import live_deliveries, receipts

REJECTED_CODE = "E42"
_LATE_DAYS = 3
_RECENT = dt.timedelta(days=14)  # later than the latest answer
_REJECTABLE = "TSC"  # ledgers whose rows have a text, which bigsite can correct


class AnswerFault(enum.StrEnum):
    """Faults of a recipient's answer."""

    LATE = "late"  # not answered now
    DUPLICATE = "duplicate"
    CONTRADICTORY = "contradictory"
    OTHER_FILE = "other file"
    UNREADABLE = "unreadable"


# A fault happens to one file in so many.
FREQUENCIES: Mapping[AnswerFault, int] = {
    AnswerFault.LATE: 5,
    AnswerFault.DUPLICATE: 6,
    AnswerFault.CONTRADICTORY: 20,
    AnswerFault.OTHER_FILE: 12,
    AnswerFault.UNREADABLE: 15,
}
_REJECTS_ONE_IN = 3


@dataclass(frozen=True, slots=True)
class SimulatedRecipient:
    """A feed's recipient outside production. SimulationRefusedError where simulated customers are refused.

    Attributes:
        engine: bigsite, which must have simulated customers
        settings: environment and seed
        store: object store with deliveries, receipts and the inbox
        feed: feed whose recipient answers
    """

    engine: sa.Engine
    settings: Settings
    store: ObjectStore
    feed: Feed

    def answer(self, at: dt.datetime) -> tuple[str, ...]:
        """Put the answers due at ``at`` (UTC) into the inbox; return the keys of the new ones. Safe to repeat."""
        mapping = self.feed.acknowledgements
        if last_day(self.engine, self.settings) is None:
            raise guard.SimulationRefusedError("bigsite has no simulated customers, so no recipient is simulated")
        if mapping is None:
            raise guard.SimulationRefusedError(f"{self.feed.name}: its declaration has no acknowledgements")
        new: list[str] = []
        for manifest, page, arrived_at in self._arrived(at):
            faults = faults_of(self.settings.simulation_seed, page.message_id)
            days = HashRandom(self.settings.simulation_seed, "late", page.message_id).between(1, _LATE_DAYS)
            if AnswerFault.LATE in faults and at < arrived_at + dt.timedelta(days=days):
                continue
            rejected = self._rejected(manifest, page)
            new += put_answers(self.store, manifest, page, mapping, rejected, faults)
        return tuple(new)

    def _arrived(self, at: dt.datetime) -> Iterator[tuple[Manifest, Page, dt.datetime]]:
        # The files at the recipient: with a receipt, or delivered if it takes them from the object store.
        audience = self.feed.audience(self.settings.first_business_date)
        for day in audience.dates_between((at - _RECENT).date(), at.date()):
            sent = {receipt.message_id: receipt.sent_at for receipt in receipts(self.store, self.feed.name, day)}
            for manifest in live_deliveries(self.store, self.feed.name, day):
                for page in manifest.pages:
                    if not self.feed.sends_on(day):
                        yield manifest, page, manifest.consent_checked_at
                    elif page.message_id in sent:
                        yield manifest, page, sent[page.message_id]

    def _rejected(self, manifest: Manifest, page: Page) -> tuple[RecordAnswer, ...]:
        # Records of a first delivery only: a corrected one is accepted.
        draws = HashRandom(self.settings.simulation_seed, "rejected", page.message_id)
        if manifest.revision or not draws.one_in(_REJECTS_ONE_IN):
            return ()
        with self.store.local_file(page.key) as path:
            movements = self.feed.format.read(path)["movement_transactions"]
        rows: Sequence[tuple[str, str]] = (
            movements.select("portfolio_number", "transaction_id")
            .unique()
            .sort("portfolio_number", "transaction_id")
            .rows()
        )
        correctable = [row for row in rows if row[1][0] in _REJECTABLE and row[1][1:].isdigit()]
        return tuple(rejection(*row, REJECTED_CODE) for row in draws.some(correctable, draws.between(1, 2)))


def faults_of(seed: int, message_id: str) -> frozenset[AnswerFault]:
    """Return the faults of the answers about a file."""
    return frozenset(fault for fault, often in FREQUENCIES.items() if HashRandom(seed, fault, message_id).one_in(often))


def put_answers(
    store: ObjectStore,
    manifest: Manifest,
    page: Page,
    mapping: AnswerMapping,
    rejected: Collection[RecordAnswer] = (),
    faults: Collection[AnswerFault] = (),
) -> tuple[str, ...]:
    """Put the answers about one file into the inbox; return the keys of the new ones."""
    state = FileState.PARTIALLY_PROCESSED if rejected else FileState.LOADED
    answer = Answer(page.message_id, state, None, tuple(rejected))
    keys = (
        (f"{inbox_prefix(manifest.feed)}{page.message_id}-{name}.{mapping.form}", content)
        for name, content in _messages(answer, mapping, faults)
    )
    return tuple(key for key, content in keys if store.create(key, content))


def _messages(answer: Answer, mapping: AnswerMapping, faults: Collection[AnswerFault]) -> Iterator[tuple[str, bytes]]:
    yield "1", mapping.message(answer)
    if AnswerFault.DUPLICATE in faults:
        yield "2", mapping.message(answer)
    if AnswerFault.CONTRADICTORY in faults:
        yield "3", mapping.message(Answer(answer.message_id, FileState.FAILED, "file is damaged", ()))
    if AnswerFault.OTHER_FILE in faults:
        yield "4", mapping.message(Answer(f"{answer.message_id}9", FileState.LOADED, None, ()))
    if AnswerFault.UNREADABLE in faults:
        yield "5", f"<html>gateway timeout {answer.message_id}</html>".encode()


def rejection(number: str, transaction_id: str | None, code: str | None) -> RecordAnswer:
    """Return the rejection of one record."""
    return RecordAnswer(number, transaction_id, RecordState.REJECTED, code, "not accepted")
