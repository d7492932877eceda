"""bigsite's consent events, from SQS. An event only says look: what holds is what the database says when it is asked.

So duplicates and the order of arrival don't matter; duplicates are dropped by event id all the same, for the count.
A message that can't be read goes to the dead-letter queue with its reason and does not hold up the rest of its batch.
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
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import StoredRecord, from_json, to_json

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from classfeed_dagster.settings import Settings

_BATCH = 10  # SQS's own limit
_LOOK = "consent-events/look.json"
_REASON = "reason"
_MAX_REASON = 200
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class ConsentKind(enum.StrEnum):
    """What happened to a consent."""

    GRANTED = "GRANTED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    CHANGED = "CHANGED"


class ConsentEvent(BaseModel):
    """One message, as bigsite publishes it. Fields that are not declared are ignored: bigsite may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    event_id: _Id
    consent_id: PositiveInt
    portfolio_id: PositiveInt
    kind: ConsentKind
    instant: AwareDatetime
    correlation_id: _Id


class Look(StoredRecord):
    """The latest reason to ask bigsite what changed."""

    schema_version: Literal[1] = 1
    at: AwareDatetime = Field(description="when an event last said look; UTC")
    event_id: str
    correlation_id: str


class QueueMissingError(ConfigurationError):
    """A queue that the command needs is not set."""


@dataclass(frozen=True, slots=True)
class Queues:
    """The events' queue and the dead letters', and the client for both."""

    client: SQSClient
    events: str
    dead_letters: str | None

    @classmethod
    def of(cls, settings: Settings) -> Queues | None:
        """The queues of the settings; None if there are none."""
        if settings.consent_queue_url is None:
            return None
        import boto3  # imported here because it is slow, and every process imports this file
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
        client = boto3.client("sqs", endpoint_url=settings.sqs_endpoint_url, config=config)
        return cls(client, settings.consent_queue_url, settings.consent_dead_letter_url)

    def waiting_dead_letters(self) -> int:
        """About how many messages wait in the dead-letter queue."""
        if self.dead_letters is None:
            return 0
        answer = self.client.get_queue_attributes(
            QueueUrl=self.dead_letters, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])


@dataclass(frozen=True, slots=True)
class Consumed:
    """What became of the messages of one look."""

    events: tuple[ConsentEvent, ...] = ()
    duplicates: int = 0
    dead: int = 0


def consume(queues: Queues, store: ObjectStore, now: dt.datetime, *, batches: int = 10) -> Consumed:
    """Take up to ``batches`` batches of messages off the queue. ``now`` is UTC.

    An event is on record before its message is deleted, so that a crash between the two makes a duplicate, never a
    loss. What can't be handled now (the store is down) stays in the queue and comes again.
    """
    events: list[ConsentEvent] = []
    duplicates = dead = 0
    for _ in range(batches):
        messages = _receive(queues, queues.events)
        if not messages:  # SQS may hand over fewer than there are, so only an empty hand means that there are none
            break
        for message in messages:
            try:
                event = ConsentEvent.model_validate_json(message["Body"])
            except ValidationError as error:
                dead += _bury(queues, message, _why(error))
                continue
            if store.create(_event_key(event), event.model_dump_json().encode() + b"\n"):
                store.put(_LOOK, to_json(Look(at=now, event_id=event.event_id, correlation_id=event.correlation_id)))
                events.append(event)
            else:
                duplicates += 1
            _delete(queues, queues.events, message)
    return Consumed(tuple(events), duplicates, dead)


def look_at(store: ObjectStore) -> dt.datetime | None:
    """When an event last said look; None if none ever did."""
    try:
        data = store.read(_LOOK)
    except ObjectNotFoundError:
        return None
    return from_json(Look, data, store.location(_LOOK)).at


def redrive(queues: Queues | None) -> int:
    """Put every dead letter back on the events' queue, without its reason; how many. QueueMissingError without one."""
    if queues is None or queues.dead_letters is None:
        raise QueueMissingError(
            "there is no dead-letter queue: set CLASSFEED_CONSENT_QUEUE_URL and CLASSFEED_CONSENT_DEAD_LETTER_URL"
        )
    moved = 0
    # As many as were there at the start: one that is still unreadable comes back, and would be moved for ever.
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
    # Without a dead-letter queue of ours the message stays, and the queue's own redrive policy takes it.
    get_logger().warning("a consent event can't be read", error_type=reason)
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


def _why(error: ValidationError) -> str:
    # Which field and what kind of fault; the value itself may be anything and is not repeated.
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'the message'}: {fault['type']}" for fault in error.errors()]
    return "; ".join(faults)[:_MAX_REASON]


def _event_key(event: ConsentEvent) -> str:
    return f"consent-events/seen/{event.event_id}.json"
