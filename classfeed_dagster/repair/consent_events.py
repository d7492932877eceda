"""bigsite's consent events, from SQS. An event only triggers a query; the database's answer decides.

So duplicates and the order of arrival have no effect. Duplicates are dropped by event id, for the count. An unreadable
message is moved to the dead-letter queue with its reason and does not delay the rest of its batch.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, find_record, in_words, to_json

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from classfeed_dagster.settings import Settings

_BATCH = 10  # SQS's own limit
_LOOK = "consent-events/look.json"
_REASON = "reason"
_MAX_REASON = 200
_EventId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class ConsentKind(enum.StrEnum):
    """Change of a consent."""

    GRANTED = "GRANTED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    CHANGED = "CHANGED"


class ConsentEvent(BaseModel):
    """One message, as bigsite publishes it. Undeclared fields are ignored: bigsite may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    event_id: _EventId
    consent_id: PositiveInt
    portfolio_id: PositiveInt
    kind: ConsentKind
    instant: AwareDatetime
    correlation_id: _EventId


class LatestEvent(StoredRecord):
    """Latest consent event, the reason to query bigsite's changes."""

    schema_version: Literal[1] = 1
    at: AwareDatetime = Field(description="instant at which it was read; UTC")
    event_id: str
    correlation_id: str


class QueueMissingError(ConfigurationError):
    """A required queue is not set."""


@dataclass(frozen=True, slots=True)
class Queues:
    """Queues of events and dead letters, with their client."""

    client: SQSClient
    events: str
    dead_letters: str | None

    @classmethod
    def of(cls, settings: Settings) -> Queues | None:
        """Return the queues of the settings; None if there are none."""
        if settings.consent_queue_url is None:
            return None
        import boto3  # imported here because it is slow, and every process imports this file
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
        client = boto3.client("sqs", endpoint_url=settings.sqs_endpoint_url, config=config)
        return cls(client, settings.consent_queue_url, settings.consent_dead_letter_url)

    def waiting_dead_letters(self) -> int:
        """Return the approximate number of messages in the dead-letter queue."""
        if self.dead_letters is None:
            return 0
        answer = self.client.get_queue_attributes(
            QueueUrl=self.dead_letters, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])


@dataclass(frozen=True, slots=True)
class ConsumedMessages:
    """Messages taken off the queue at one evaluation."""

    events: tuple[ConsentEvent, ...] = ()
    duplicates: int = 0
    dead: int = 0


def consume(queues: Queues, store: ObjectStore, now: dt.datetime) -> ConsumedMessages:
    """Take up to ten batches of messages off the queue. ``now`` is UTC.

    An event is recorded before its message is deleted: a crash between the two causes a duplicate, never a loss. A
    message that cannot be processed now (the store is down) stays in the queue.
    """
    events: list[ConsentEvent] = []
    duplicates = dead = 0
    for _ in range(10):
        messages = _receive(queues, queues.events)
        if not messages:  # SQS may return fewer than there are: only an empty answer means that none are left
            break
        for message in messages:
            try:
                event = ConsentEvent.model_validate_json(message["Body"])
            except ValidationError as error:
                dead += _bury(queues, message, _reason(error))
                continue
            if store.create(_event_key(event), event.model_dump_json().encode() + b"\n"):
                store.put(
                    _LOOK, to_json(LatestEvent(at=now, event_id=event.event_id, correlation_id=event.correlation_id))
                )
                events.append(event)
            else:
                duplicates += 1
            _delete(queues, queues.events, message)
    return ConsumedMessages(tuple(events), duplicates, dead)


def latest_event_at(store: ObjectStore) -> dt.datetime | None:
    """Return the instant (UTC) at which the latest event was read; None if there is none."""
    event = find_record(store, LatestEvent, _LOOK)
    return None if event is None else event.at


def redrive(queues: Queues | None) -> int:
    """Move all dead letters back to the events' queue; return their number. QueueMissingError without a queue."""
    if queues is None or queues.dead_letters is None:
        raise QueueMissingError(
            "No dead-letter queue is set: set CLASSFEED_CONSENT_QUEUE_URL and CLASSFEED_CONSENT_DEAD_LETTER_URL"
        )
    moved = 0
    # As many as there are at the start: a message that is still unreadable returns, and would be moved endlessly.
    waiting = queues.waiting_dead_letters()
    while moved < waiting:
        messages = _receive(queues, queues.dead_letters)
        if not messages:
            break
        for message in messages:
            queues.client.send_message(QueueUrl=queues.events, MessageBody=message["Body"])
            _delete(queues, queues.dead_letters, message)
            moved += 1
    return moved


def _receive(queues: Queues, queue: str) -> Sequence[MessageTypeDef]:
    answer = queues.client.receive_message(QueueUrl=queue, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=0)
    return answer.get("Messages", [])


def _bury(queues: Queues, message: MessageTypeDef, reason: str) -> int:
    # Without a dead-letter queue the message stays, and the queue's own redrive policy moves it.
    get_logger().warning("unreadable consent event", error_type=reason)
    if queues.dead_letters is None:
        return 0
    queues.client.send_message(
        QueueUrl=queues.dead_letters,
        MessageBody=message["Body"],
        MessageAttributes={_REASON: {"DataType": "String", "StringValue": reason}},
    )
    _delete(queues, queues.events, message)
    return 1


def _delete(queues: Queues, queue: str, message: MessageTypeDef) -> None:
    queues.client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


def _reason(error: ValidationError) -> str:
    # Field and kind of fault. The value may be anything and is not repeated.
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'the message'} {in_words(fault)}" for fault in error.errors()]
    return "; ".join(faults)[:_MAX_REASON]


def _event_key(event: ConsentEvent) -> str:
    return f"consent-events/seen/{event.event_id}.json"
