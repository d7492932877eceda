"""Consent events from a real SQS client: duplicates, disorder, rubbish, and putting dead letters back."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import random
from collections.abc import Mapping
from typing import Any

import boto3
import pytest

from classfeed_dagster.repair.consent_events import (
    ConsumedMessages,
    QueueMissingError,
    Queues,
    consume,
    latest_event_at,
    redrive,
)
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore

NOW = dt.datetime(2026, 3, 2, 20, tzinfo=dt.UTC)
_numbers = itertools.count()


@pytest.fixture
def queues(s3_endpoint: str) -> Queues:
    client = boto3.client("sqs", endpoint_url=s3_endpoint)
    number = f"{os.getpid()}-{next(_numbers)}"
    urls = [client.create_queue(QueueName=f"{name}-{number}")["QueueUrl"] for name in ("consent", "dead")]
    settings = Settings(consent_queue_url=urls[0], consent_dead_letter_url=urls[1], sqs_endpoint_url=s3_endpoint)
    created = Queues.of(settings)
    assert created is not None
    return created


def event(number: int, **given: object) -> str:
    body = {
        "event_id": f"event-{number}",
        "consent_id": number,
        "portfolio_id": number,
        "kind": "GRANTED",
        "instant": "2026-03-02T03:00:00Z",
        "correlation_id": f"correlation-{number}",
        "something_new": True,
        **given,
    }
    return json.dumps(body)


def send(queues: Queues, *bodies: str) -> None:
    for body in bodies:
        queues.client.send_message(QueueUrl=queues.events, MessageBody=body)


def waiting(queues: Queues, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes: Mapping[Any, Any] = queues.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])[
        "Attributes"
    ]
    return sum(int(attributes[name]) for name in names)


def test_duplicate_and_disordered_events_change_nothing(queues: Queues, local_store: ObjectStore) -> None:
    bodies = [event(number) for number in range(1, 13)] * 2
    random.Random(1).shuffle(bodies)
    send(queues, *bodies)
    result = consume(queues, local_store, NOW)
    assert {item.event_id for item in result.events} == {f"event-{number}" for number in range(1, 13)}
    assert (len(result.events), result.duplicates, result.dead) == (12, 12, 0)
    assert waiting(queues, queues.events) == 0
    assert latest_event_at(local_store) == NOW


def test_unreadable_consent_event_becomes_a_dead_letter_with_a_reason(queues: Queues, local_store: ObjectStore) -> None:
    rubbish = [
        "not json",
        event(1, kind="STOLEN"),
        event(2, instant="yesterday"),
        event(3, portfolio_id="Jane Citizen"),
        event(4, event_id="../../x"),
    ]
    send(queues, event(10), *rubbish, event(11))
    result = consume(queues, local_store, NOW)
    assert {item.event_id for item in result.events} == {"event-10", "event-11"}
    assert result.dead == queues.waiting_dead_letters() == 5
    answer = queues.client.receive_message(
        QueueUrl=queues.dead_letters or "", MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
    )
    reasons = {item["Body"]: item["MessageAttributes"]["reason"]["StringValue"] for item in answer["Messages"]}
    assert reasons["not json"] == "the message is not JSON"
    assert reasons[rubbish[3]] == "portfolio_id has an invalid value"
    assert not any("Jane" in reason for reason in reasons.values())


def test_redriven_events_are_read_if_fixed_and_return_if_not(queues: Queues, local_store: ObjectStore) -> None:
    send(queues, "not json")
    consume(queues, local_store, NOW)
    assert redrive(queues) == 1
    assert queues.waiting_dead_letters() == 0
    assert consume(queues, local_store, NOW).dead == 1
    assert queues.waiting_dead_letters() == 1


def test_empty_queue_yields_no_events(queues: Queues, local_store: ObjectStore) -> None:
    assert consume(queues, local_store, NOW) == ConsumedMessages()
    assert latest_event_at(local_store) is None
    assert redrive(queues) == 0


def test_unreadable_event_without_dead_letter_queue_stays(queues: Queues, local_store: ObjectStore) -> None:
    alone = Queues(queues.client, queues.events, None)
    send(alone, "not json", event(1))
    result = consume(alone, local_store, NOW)
    assert (len(result.events), result.dead) == (1, 0)
    assert waiting(alone, alone.events) == 1
    assert alone.waiting_dead_letters() == 0
    with pytest.raises(QueueMissingError, match="CLASSFEED_CONSENT_DEAD_LETTER_URL"):
        redrive(alone)


def test_queues_without_settings_are_absent() -> None:
    assert Queues.of(Settings()) is None
    with pytest.raises(QueueMissingError):
        redrive(None)


def test_event_that_cannot_be_stored_stays_in_the_queue(
    queues: Queues, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(queues, event(1))
    with monkeypatch.context() as patch:

        def full(*_: object) -> bool:
            raise OSError("No space left on device")

        patch.setattr(local_store, "create", full)
        with pytest.raises(OSError, match="No space"):
            consume(queues, local_store, NOW)
    assert waiting(queues, queues.events) == 1
