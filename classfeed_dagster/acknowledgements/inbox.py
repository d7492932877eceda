"""The inbox ``acknowledgements/<feed>/``: each message is read once, matched with its delivered file and kept.

Nothing is lost: the content of every message is kept under ``acknowledged-content/``, and one that cannot be read or
matched is a dead letter with its reason. Names and content are the recipient's: no message stops the reading of the
others. The inbox itself is only read. Messages with equal content are one message.
The recipient's explanations may hold personal data: they are in the content alone, which records refer to by hash.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.acknowledgements.mapping import Answer, AnswerMapping, FileState, RecordState, UnknownAnswerError
from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.delivery.manifest import Manifest, Page
from classfeed_dagster.delivery.state import withheld_key
from classfeed_dagster.store import InvalidKeyError, ObjectStore, check_key
from classfeed_dagster.stored_records import Sha256, StoredRecord, create_record, file_facts, read_record, sha256
from classfeed_dagster.transmission.send import live_deliveries
from classfeed_dagster.warehouse.records import (
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    RecordTrace,
    Side,
)

_MESSAGE_ID = re.compile(r"(?P<feed>[a-z][a-z0-9_]*)-(?P<day>[0-9]{8})-r(?P<revision>[0-9]{1,9})-p[0-9]{1,9}\Z")
_DEAD = "dead-letters"
_MAX_BYTES = 64 << 20  # of a message: an answer about each of 200,000 records has half of it


class RecordAcknowledgement(StoredRecord):
    """Answer about one record, or about a portfolio as a whole."""

    portfolio_number: str
    transaction_id: str | None = None
    state: RecordState
    code: str | None = None


class Acknowledgement(StoredRecord):
    """One message of the recipient about one delivered file."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    message_id: str
    state: FileState
    reason: str | None = Field(default=None, description="in records of earlier releases: see the content")
    records: tuple[RecordAcknowledgement, ...] = ()
    inbox_key: str
    sha256: Sha256
    read_at: AwareDatetime


class DeadLetter(StoredRecord):
    """A message that could not be read or matched."""

    schema_version: Literal[1] = 1
    feed: str
    inbox_key: str
    sha256: Sha256
    reason: str
    read_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class InboxResult:
    """New messages of one reading of the inbox."""

    acknowledgements: tuple[Acknowledgement, ...]
    dead_letters: tuple[DeadLetter, ...]


@dataclass(frozen=True, slots=True)
class FileAnswers:
    """All answers about one delivered file. ``state`` is None without an answer."""

    manifest: Manifest
    page: Page
    answers: tuple[Acknowledgement, ...]

    @property
    def numbers(self) -> frozenset[str]:
        """Return the portfolios in the file. Its revision may have others, in other files."""
        return _numbers_in(self.manifest, self.page.message_id)

    @property
    def state(self) -> FileState | None:
        """Return the worst state among the answers."""
        order = list(FileState)
        return max((answer.state for answer in self.answers), key=order.index, default=None)

    @property
    def contradictory(self) -> bool:
        """Return True if two answers state different things, whatever the order of their records."""
        return len({(answer.state, frozenset(answer.records)) for answer in self.answers}) > 1


def inbox_prefix(feed: str) -> str:
    """Return the prefix under which the recipient puts its messages."""
    return f"acknowledgements/{feed}/"


def inbox_keys(store: ObjectStore, feed: str) -> tuple[str, ...]:
    """Return the keys of the inbox, in order."""
    return tuple(store.list(inbox_prefix(feed)))


def _kept_prefix(feed: str, day: dt.date | None = None) -> str:
    return f"acknowledged/{feed}/" + (f"{day.isoformat()}/" if day else "")


def kept_answers(store: ObjectStore, feed: str) -> frozenset[tuple[dt.date, str]]:
    """Return business date and SHA-256 of every kept answer. Reads no answer."""
    prefix = _kept_prefix(feed)
    keys = (key.removeprefix(prefix).split("/") for key in store.list(prefix))
    return frozenset(
        (dt.date.fromisoformat(day), name.rpartition("-")[2].removesuffix(".json"))
        for day, name in keys
        if day != _DEAD
    )


def read_inbox(store: ObjectStore, feed: str, mapping: AnswerMapping, at: dt.datetime) -> InboxResult:
    """Read the inbox's new messages and keep each as an acknowledgement or a dead letter. Safe to repeat.

    Dead letters are read again: the declaration may have been corrected since.
    """
    known = {digest for _, digest in kept_answers(store, feed)}
    new: list[Acknowledgement] = []
    dead: list[DeadLetter] = []
    for key in inbox_keys(store, feed):
        with _message(store, key) as path:
            size, digest = (0, sha256(_printable(key).encode())) if path is None else file_facts(path)
            if digest in known:
                continue
            known.add(digest)
            try:
                if path is None:
                    raise UnknownAnswerError("its name has other characters than letters, digits and . _ = : -")
                store.create(f"acknowledged-content/{feed}/{digest}", path)
                if size > _MAX_BYTES:
                    raise UnknownAnswerError(f"it has {size} bytes; at most {_MAX_BYTES} are read")
                answer = mapping.read(path.read_bytes())
                manifest = _manifest_of(store, feed, answer)
            except UnknownAnswerError as error:
                letter = DeadLetter(feed=feed, inbox_key=_printable(key), sha256=digest, reason=str(error), read_at=at)
                if create_record(store, f"{_kept_prefix(feed)}{_DEAD}/letter-{digest}.json", letter):
                    dead.append(letter)
                continue
        record = Acknowledgement(
            feed=feed,
            business_date=manifest.business_date,
            revision=manifest.revision,
            message_id=answer.message_id,
            state=answer.state,
            records=tuple(
                RecordAcknowledgement(
                    portfolio_number=one.portfolio_number,
                    transaction_id=one.transaction_id,
                    state=one.state,
                    code=one.code,
                )
                for one in answer.records
            ),
            inbox_key=key,
            sha256=digest,
            read_at=at,
        )
        create_record(store, f"{_kept_prefix(feed, record.business_date)}{answer.message_id}-{digest}.json", record)
        new.append(record)
    return InboxResult(tuple(new), tuple(dead))


@contextlib.contextmanager
def _message(store: ObjectStore, key: str) -> Iterator[Path | None]:
    # None for a name that is no key of ours: the recipient chose it.
    try:
        check_key(key)
    except InvalidKeyError:
        yield None
        return
    with store.local_file(key) as path:
        yield path


def _printable(key: str) -> str:
    return key.encode("ascii", "backslashreplace").decode()


def _manifest_of(store: ObjectStore, feed: str, answer: Answer) -> Manifest:
    match = _MESSAGE_ID.match(answer.message_id)
    if match is None or match["feed"] != feed:
        raise UnknownAnswerError("it names no file of this feed")
    try:
        day = dt.datetime.strptime(match["day"], "%Y%m%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        raise UnknownAnswerError("it names no file of this feed") from None
    for manifest in live_deliveries(store, feed, day):
        if answer.message_id in {page.message_id for page in manifest.pages}:
            if not _numbers_in(manifest, answer.message_id) >= {record.portfolio_number for record in answer.records}:
                raise UnknownAnswerError("it answers about a portfolio that is not in the file")
            return manifest
    withheld = withheld_key(feed, day, int(match["revision"]), answer.message_id)
    if store.exists(withheld):
        raise UnknownAnswerError(
            "its file arrived, though it is withheld since because a consent ended: ask the recipient to remove the "
            f"data of the portfolios in {withheld}"
        )
    raise UnknownAnswerError("no such file was delivered")


def _numbers_in(manifest: Manifest, message_id: str) -> frozenset[str]:
    return frozenset(portfolio.number for portfolio in manifest.portfolios if portfolio.page == message_id)


def acknowledgements(store: ObjectStore, feed: str, day: dt.date) -> tuple[Acknowledgement, ...]:
    """Return the acknowledgements of a business date, in the order of reading."""
    keys = store.list(_kept_prefix(feed, day))
    records = [read_record(store, Acknowledgement, key) for key in keys]
    return tuple(sorted(records, key=lambda record: (record.read_at, record.inbox_key)))


def dead_letters(store: ObjectStore, feed: str) -> tuple[DeadLetter, ...]:
    """Return the feed's dead letters without those that a later reading could read."""
    keys = store.list(f"{_kept_prefix(feed)}{_DEAD}/letter-")
    read = {digest for _, digest in kept_answers(store, feed)}
    letters = (read_record(store, DeadLetter, key) for key in keys)
    return tuple(letter for letter in letters if letter.sha256 not in read)


def file_answers(store: ObjectStore, feed: str, day: dt.date) -> tuple[FileAnswers, ...]:
    """Return every file delivered live for a date with its answers, in order."""
    kept = acknowledgements(store, feed, day)
    return tuple(
        FileAnswers(manifest, page, tuple(one for one in kept if one.message_id == page.message_id))
        for manifest in live_deliveries(store, feed, day)
        for page in manifest.pages
    )


def rejections(files: Iterable[FileAnswers], mapping: AnswerMapping) -> tuple[Break, ...]:
    """Return a break for each rejected record that no later, answered file with its portfolio replaces."""
    listed = list(files)
    by_revision = sorted((file for file in listed if file.answers), key=lambda file: file.manifest.revision)
    answered = {number: file.manifest.revision for file in by_revision for number in file.numbers}
    return tuple(
        _break(file, record, mapping)
        for file in listed
        for answer in file.answers
        for record in answer.records
        if record.state is RecordState.REJECTED and answered[record.portfolio_number] == file.manifest.revision
    )


def _break(file: FileAnswers, record: RecordAcknowledgement, mapping: AnswerMapping) -> Break:
    check = mapping.checks.get(record.code or "")
    covered = f"the check {check} should have found it" if check else "no check of ours covers this code"
    tables = {letter: table for table, letter in LETTERS.items()}
    transaction = record.transaction_id or ""
    table = tables.get(transaction[:1])
    return Break(
        feed=file.manifest.feed,
        business_date=file.manifest.business_date,
        side=Side.RECIPIENT,
        kind=BreakKind.REJECTED,
        severity=BreakSeverity.ERROR,
        portfolio_number=record.portfolio_number,
        record="movement_transactions" if transaction else "accounts",
        subject=transaction or record.portfolio_number,
        field=record.code,  # part of the break's identity: a portfolio may be rejected for several reasons
        other_value=record.code,
        explanations=(BreakExplanation(BreakCause.REJECTED, f"code {record.code or 'missing'}: {covered}"),),
        trace=RecordTrace(
            source_row=f"bigsite.{table}, {table}_id = {transaction[1:]}" if table else None, page=file.page.message_id
        ),
    )
