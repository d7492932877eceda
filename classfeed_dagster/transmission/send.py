"""Sending of a delivered business date to the feed's destination, in order, with a receipt for each file.

A receipt is created after the destination has the file. It counts: a file with a receipt is not sent again. An attempt
that ends between sending and its receipt repeats the file, which the destination recognizes while it has it.

A file with data of a portfolio whose consent ended is withheld: it is never sent (docs/adr/0020).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView, shadow_key
from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS
from classfeed_dagster.delivery.manifest import Manifest, Page
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import WithheldFile, delivered_state, withheld_key
from classfeed_dagster.errors import DamagedRecordError, DataError, GateRefusedError, StaleBuildError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import (
    Sha256,
    StoredRecord,
    create_record,
    file_facts,
    is_none,
    manifest_key,
    read_record,
)
from classfeed_dagster.transmission.destination import (
    Credentials,
    Destination,
    NotSentError,
    OutgoingFile,
    Send,
    file_name,
)
from classfeed_dagster.transmission.encryption import EXTENSION
from classfeed_dagster.wording import counted

_CONSENT_SECONDS = 60.0  # after which consent is queried again while files are sent


class ConsentEndedError(StaleBuildError):
    """A consent ended after the delivery and before its files were sent. The files are withheld: build again."""

    def __init__(self, feed: str, numbers: Sequence[str]) -> None:
        super().__init__(
            f"{feed}: consent ended for {counted(len(numbers), 'portfolio')} of files that are delivered and not sent "
            f"({', '.join(numbers[:20])}). These files are withheld, and a new revision without these portfolios is "
            "built"
        )


class ReceiptsLostError(DataError):
    """The store lacks receipts of files that were sent: it was restored from an older backup."""

    def __init__(self, feed: str, day: dt.date, sent: int, present: int) -> None:
        super().__init__(
            f"{feed} of {day.isoformat()}: the store has {counted(present, 'receipt')}, but {counted(sent, 'file')} "
            "had one. The store is older than the deliveries: restore the newer version of transmitted/ and outgoing/, "
            "and run again. No file of the date is sent until then: the recipient may have taken those files."
        )


class OutgoingFileRecord(StoredRecord):
    """Record that decides on a file: the first attempt to create it sends the file or withholds it."""

    schema_version: Literal[1] = 1
    message_id: str
    began_at: AwareDatetime | None = Field(description="start of sending: it may have arrived. Null: it is withheld")


class EncryptedFile(StoredRecord):
    """The file that was sent in place of the delivered one."""

    bytes: NonNegativeInt
    sha256: Sha256
    fingerprint: str = Field(description="of the recipient's key")


class Receipt(StoredRecord):
    """Proof that one file reached its destination."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    message_id: str
    destination: str = Field(description="address, without a credential")
    name: str = Field(description="file name at the destination")
    bytes: NonNegativeInt = Field(description="size of the file as delivered")
    sha256: Sha256 = Field(description="SHA-256 of the file as delivered")
    encrypted: EncryptedFile | None = Field(
        default=None, description="what was sent, if the file was encrypted", exclude_if=is_none
    )
    answer: str = Field(description="the destination's answer")
    sent_at: AwareDatetime
    correlation_id: str


def receipts_prefix(feed: str, day: dt.date) -> str:
    """Return the prefix of a business date's receipts."""
    return f"transmitted/{feed}/{day.isoformat()}/"


def receipt_key(feed: str, day: dt.date, revision: int, message_id: str) -> str:
    """Return the key of one file's receipt."""
    return f"{receipts_prefix(feed, day)}r{revision}/{message_id}.json"


def receipts(store: ObjectStore, feed: str, day: dt.date) -> tuple[Receipt, ...]:
    """Return the receipts of a business date, by revision and message id."""
    keys = store.list(receipts_prefix(feed, day))
    return tuple(read_record(store, Receipt, key) for key in keys)


def require_receipts(store: ObjectStore, feed: str, day: dt.date, known: int) -> None:
    """Raise ReceiptsLostError if the store has fewer than ``known`` receipts of a business date."""
    present = sum(1 for _ in store.list(receipts_prefix(feed, day)))
    if present < known:
        raise ReceiptsLostError(feed, day, known, present)


def live_deliveries(store: ObjectStore, feed: str, day: dt.date) -> tuple[Manifest, ...]:
    """Return the date's deliveries that are the recipient's: not those of the shadow. ``store`` is the plain store."""
    state = delivered_state(FeedStoreView(store, feed, FeedMode.LIVE), feed, day)
    return tuple(
        manifest
        for manifest in state.deliveries
        if not store.exists(shadow_key(manifest_key(feed, day, manifest.revision)))
    )


def outgoing_key(feed: str, day: dt.date, revision: int, message_id: str) -> str:
    """Return the key of the record that decides on a file."""
    return f"outgoing/{feed}/{day.isoformat()}/r{revision}/{message_id}.json"


def unsent(store: ObjectStore, feed: str, day: dt.date) -> tuple[tuple[Manifest, Page], ...]:
    """Return the delivered files without a receipt, in order."""
    sent = set(store.list(receipts_prefix(feed, day)))
    return tuple(
        (manifest, page)
        for manifest in live_deliveries(store, feed, day)
        for page in manifest.pages
        if receipt_key(feed, day, manifest.revision, page.message_id) not in sent
    )


def awaiting_reissue(store: ObjectStore, feed: str, day: dt.date) -> frozenset[str]:
    """Return the portfolios on withheld files that no revision delivered since and that are not recorded as held."""
    state = delivered_state(FeedStoreView(store, feed, FeedMode.LIVE), feed, day)
    waiting = state.withheld_numbers - state.portfolios.keys()
    return waiting - {record.number for record in held(store, feed, day)} if waiting else waiting


def outstanding(store: ObjectStore, feed: str, day: dt.date) -> int:
    """Return the number of files that are still to be sent: unsent ones, and one for a pending re-issue."""
    return len(unsent(store, feed, day)) + bool(awaiting_reissue(store, feed, day))


@dataclass(frozen=True, slots=True)
class Transmission:
    """One attempt at sending a feed's business date.

    Attributes:
        store: the plain store
        consented_now: asks bigsite for the numbers that consent
        now: returns the instant, UTC
    """

    store: ObjectStore
    feed: str
    day: dt.date
    destination: Destination
    audience: RecipientSchedule
    credentials: Credentials
    consented_now: Callable[[], Collection[str]]
    now: Callable[[], dt.datetime]
    correlation_id: str

    def send(self) -> tuple[Receipt, ...]:
        """Send the date's files that have no receipt, revision by revision; return the new receipts.

        Safe to repeat. Raise NotSentError if the business date before is not sent or the destination fails, and
        GateRefusedError if a delivery lacks a verdict. Raise ConsentEndedError if files are withheld now: build the
        date again, then send the rest.
        """
        waiting = unsent(self.store, self.feed, self.day)
        if not waiting:
            return ()  # whatever became of the destination since
        self._require_previous()
        for manifest in {manifest.revision: manifest for manifest, _ in waiting}.values():
            _require_verdicts(manifest)
        self._withhold_ended(waiting)
        if self.destination.encrypts_to is not None:
            self.destination.encrypts_to.usable(self.now())
        new: list[Receipt] = []
        asked_at = time.monotonic()
        with self.destination.connect(self.credentials) as send:
            for at, (manifest, page) in enumerate(waiting):
                if time.monotonic() - asked_at > _CONSENT_SECONDS:
                    self._withhold_ended(waiting[at:])
                    asked_at = time.monotonic()
                new += self._send(send, manifest, page)
        return tuple(new)

    def _require_previous(self) -> None:
        previous = self.audience.previous(self.day)
        if previous is None or not self.destination.sends_on(previous):
            return
        if outstanding(self.store, self.feed, previous):
            raise NotSentError(
                f"{self.feed}: {previous.isoformat()} is not sent yet, and business dates are sent in order"
            )

    def _withhold_ended(self, waiting: Sequence[tuple[Manifest, Page]]) -> None:
        consented, numbers = set(self.consented_now()), set[str]()
        for manifest, page in waiting:
            ended = _with_data(manifest, page) - consented
            receipt = receipt_key(self.feed, self.day, manifest.revision, page.message_id)
            if not ended or self.store.exists(receipt):  # sent by another attempt meanwhile
                continue
            numbers |= ended
            self._withhold(manifest.revision, page.message_id, ended, self._may_arrive(manifest, page, None))
        if numbers:
            raise ConsentEndedError(self.feed, sorted(numbers))

    def _withhold(self, revision: int, message_id: str, ended: Collection[str], may_have_arrived: bool) -> None:
        record = WithheldFile(
            feed=self.feed,
            business_date=self.day,
            revision=revision,
            message_id=message_id,
            ended=tuple(sorted(ended)),
            may_have_arrived=may_have_arrived,
            withheld_at=self.now(),
            correlation_id=self.correlation_id,
        )
        key = withheld_key(self.feed, self.day, revision, message_id)
        create_record(self.store, key, record, {"correlation-id": self.correlation_id})

    def _may_arrive(self, manifest: Manifest, page: Page, began_at: dt.datetime | None) -> bool:
        # Decides to send the file, or with None to withhold it, unless an attempt decided before; True if it is sent.
        key = outgoing_key(self.feed, self.day, manifest.revision, page.message_id)
        record = OutgoingFileRecord(message_id=page.message_id, began_at=began_at)
        if not create_record(self.store, key, record):
            record = read_record(self.store, OutgoingFileRecord, key)
        return record.began_at is not None

    def _send(self, send: Send, manifest: Manifest, page: Page) -> list[Receipt]:
        place = (self.feed, self.day, manifest.revision, page.message_id)
        if self.store.exists(receipt_key(*place)):  # sent by another attempt meanwhile; the recipient may have taken it
            return []
        if not self._may_arrive(manifest, page, self.now()):
            self._withhold(manifest.revision, page.message_id, (), may_have_arrived=False)  # its attempt may have died
        if self.store.exists(withheld_key(*place)):  # by another attempt, since this one asked
            raise ConsentEndedError(self.feed, [])
        key = self.destination.encrypts_to
        with self._outgoing(page, place) as file:
            answer = send(file)
            encrypted = (
                None if key is None else EncryptedFile(bytes=file.size, sha256=file.sha256, fingerprint=key.pinned)
            )
        receipt = Receipt(
            feed=self.feed,
            business_date=self.day,
            revision=manifest.revision,
            message_id=page.message_id,
            destination=self.destination.location,
            name=file.name,
            bytes=page.bytes,
            sha256=page.sha256,
            encrypted=encrypted,
            answer=answer,
            sent_at=self.now(),
            correlation_id=self.correlation_id,
        )
        created = create_record(self.store, receipt_key(*place), receipt, {"correlation-id": self.correlation_id})
        return [receipt] if created else []

    @contextlib.contextmanager
    def _outgoing(self, page: Page, place: tuple[str, dt.date, int, str]) -> Iterator[OutgoingFile]:
        name, key = file_name(page.key), self.destination.encrypts_to
        with self.store.local_file(page.key) as path:
            if file_facts(path) != (page.bytes, page.sha256):
                raise DamagedRecordError(self.store.location(page.key), "the file is not the one delivered")
            if key is None:
                yield OutgoingFile(page.message_id, name, path, page.sha256)
                return
            # Encrypted once: every attempt sends the same bytes.
            stored = outgoing_key(*place).removesuffix(".json") + f"-{key.pinned}{EXTENSION}"
            if not self.store.exists(stored):
                with tempfile.TemporaryDirectory(prefix="classfeed-encrypted-") as folder:
                    target = Path(folder) / name
                    key.encrypt(path, target, self.now())
                    self.store.create(stored, target)
        with self.store.local_file(stored) as encrypted:
            yield OutgoingFile(page.message_id, name + EXTENSION, encrypted, file_facts(encrypted)[1])


def _with_data(manifest: Manifest, page: Page) -> set[str]:
    return {
        portfolio.number
        for portfolio in manifest.portfolios
        if portfolio.page == page.message_id and portfolio.change != "REMOVED" and portfolio.bytes
    }


def _require_verdicts(manifest: Manifest) -> None:
    passed = {verdict.check for verdict in manifest.verdicts if verdict.passed}
    if missing := [check for check in REQUIRED_VERDICTS if check not in passed]:
        raise GateRefusedError(manifest.build_id, [f"{check} has no passed verdict" for check in missing])
