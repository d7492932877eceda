"""Sending of a delivered business date to the feed's destination, in order, with a receipt for each file.

A receipt is created after the destination has the file. It counts: a file with a receipt is not sent again. An attempt
that ends between sending and its receipt repeats the file, which the destination recognizes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from classfeed_dagster.delivery.feed_mode import FeedMode, shadow_key, switched
from classfeed_dagster.delivery.gate import REQUIRED_VERDICTS
from classfeed_dagster.delivery.manifest import Manifest, Page, Sha256
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import DamagedRecordError, DeliveryError, GateRefusedError
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, create_record, file_facts, from_json, manifest_key
from classfeed_dagster.transmission.destination import Credentials, Destination, NotSentError, OutgoingFile, file_name


class ConsentEndedError(DeliveryError):
    """A consent ended after the delivery and before its files were sent."""

    def __init__(self, feed: str, numbers: Sequence[str]) -> None:
        super().__init__(
            f"{feed}: consent ended for {len(numbers)} portfolio(s) of files that are delivered and not sent "
            f"({', '.join(numbers[:20])}): nothing of the date is sent. See the runbook, not-sent"
        )


class Receipt(StoredRecord):
    """Proof that one file reached its destination."""

    schema_version: Literal[1] = 1
    feed: str
    business_date: dt.date
    revision: NonNegativeInt
    message_id: str
    destination: str = Field(description="address, without a credential")
    name: str = Field(description="file name at the destination")
    bytes: NonNegativeInt
    sha256: Sha256
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
    return tuple(from_json(Receipt, store.read(key), store.location(key)) for key in keys)


def live_deliveries(store: ObjectStore, feed: str, day: dt.date) -> tuple[Manifest, ...]:
    """Return the date's deliveries that are the recipient's: not those of the shadow. ``store`` is the plain store."""
    state = delivered_state(switched(store, feed, FeedMode.LIVE), feed, day)
    return tuple(
        manifest
        for manifest in state.deliveries
        if not store.exists(shadow_key(manifest_key(feed, day, manifest.revision)))
    )


def unsent(store: ObjectStore, feed: str, day: dt.date) -> tuple[tuple[Manifest, Page], ...]:
    """Return the delivered files without a receipt, in order."""
    sent = set(store.list(receipts_prefix(feed, day)))
    return tuple(
        (manifest, page)
        for manifest in live_deliveries(store, feed, day)
        for page in manifest.pages
        if receipt_key(feed, day, manifest.revision, page.message_id) not in sent
    )


def send_date(
    store: ObjectStore,
    feed: str,
    day: dt.date,
    destination: Destination,
    *,
    audience: RecipientSchedule,
    credentials: Credentials,
    consented_now: Callable[[], Collection[str]],
    now: Callable[[], dt.datetime],
    correlation_id: str,
) -> tuple[Receipt, ...]:
    """Send the date's files that have no receipt, revision by revision; return the new receipts.

    Raise NotSentError if the business date before is not sent or the destination fails, GateRefusedError if a delivery
    lacks a verdict, ConsentEndedError if a portfolio in an unsent file no longer consents. Safe to repeat.
    """
    waiting = unsent(store, feed, day)
    previous = audience.previous(day)
    if waiting and previous is not None and destination.sends_on(previous) and unsent(store, feed, previous):
        raise NotSentError(f"{feed}: {previous.isoformat()} is not sent yet, and business dates are sent in order")
    for manifest in {manifest.revision: manifest for manifest, _ in waiting}.values():
        _require_verdicts(manifest)
    if waiting:
        _require_consent(feed, waiting, consented_now())
    new: list[Receipt] = []
    with destination.connect(credentials) as send:
        for manifest, page in waiting:
            with store.local_file(page.key) as path:
                if file_facts(path) != (page.bytes, page.sha256):
                    raise DamagedRecordError(store.location(page.key), "the file is not the one delivered")
                file = OutgoingFile(page.message_id, file_name(page.key), path, page.sha256)
                answer = send(file)
            receipt = Receipt(
                feed=feed,
                business_date=day,
                revision=manifest.revision,
                message_id=page.message_id,
                destination=destination.location,
                name=file.name,
                bytes=page.bytes,
                sha256=page.sha256,
                answer=answer,
                sent_at=now(),
                correlation_id=correlation_id,
            )
            key = receipt_key(feed, day, manifest.revision, page.message_id)
            if create_record(store, key, receipt, {"correlation-id": correlation_id}):
                new.append(receipt)
    return tuple(new)


def _require_verdicts(manifest: Manifest) -> None:
    passed = {verdict.check for verdict in manifest.verdicts if verdict.passed}
    if missing := [check for check in REQUIRED_VERDICTS if check not in passed]:
        raise GateRefusedError(manifest.build_id, [f"{check} has no passed verdict" for check in missing])


def _require_consent(feed: str, waiting: Iterable[tuple[Manifest, Page]], consented: Collection[str]) -> None:
    data = {
        portfolio.number
        for manifest, page in waiting
        for portfolio in manifest.portfolios
        if portfolio.page == page.message_id and portfolio.change != "REMOVED" and portfolio.bytes
    }
    if ended := data - set(consented):
        raise ConsentEndedError(feed, sorted(ended))
