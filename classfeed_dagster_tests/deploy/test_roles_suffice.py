"""Sufficient permissions: the feeds' calls to the object store on a working day are allowed to their roles.

Every call of the store is written down with the component that made it, and put to the policies of the committed
templates: a permission that is missing shows here, not on the first morning in production.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.repair.consent_events import Queues, consume, redrive
from classfeed_dagster.store import LocalStore
from classfeed_dagster.support.rerun_page import WebserverActions, grant
from classfeed_dagster.support.reruns import Requester
from classfeed_dagster_tests.deploy.iam_simulation import allowed
from classfeed_dagster_tests.fixtures.desk import Desk, desk
from classfeed_dagster_tests.fixtures.templates import role, statements

__all__ = ["desk"]

BUCKET = "arn:aws:s3:::classfeed-prod-data-444455556666"
MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
Call = tuple[str, str, str]  # component, what it did, key or prefix


class Witness:
    """Writes down what is asked of any local store, and by whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.component = ""
        self.calls: set[Call] = set()
        for name in ("read", "exists", "create", "put", "delete", "local_file", "list"):
            monkeypatch.setattr(LocalStore, name, self._watched(name, getattr(LocalStore, name)))

    def _watched(self, name: str, original: Any) -> Any:
        def watched(store: LocalStore, key: str, *arguments: Any, **options: Any) -> Any:
            if self.component:
                self.calls.add((self.component, name, key))
            return original(store, key, *arguments, **options)

        return watched

    @contextlib.contextmanager
    def acting(self, component: str) -> Iterator[None]:
        self.component = component
        try:
            yield
        finally:
            self.component = ""

    def refused(self) -> set[Call]:
        """Return the calls that the component's role in production would not have been allowed to make."""
        return {call for call in self.calls if not may(*call)}


def may(component: str, what: str, key: str) -> bool:
    """Return True if S3 would allow the store's call. ``key`` is a prefix for ``list``."""
    rules = statements(role("prod", component))
    object_ = f"{BUCKET}/{key}"
    match what:
        case "list":
            return allowed(rules, "s3:ListBucket", BUCKET, {"s3:prefix": key})
        case "create":
            return allowed(rules, "s3:PutObject", object_, {"s3:if-none-match": "*"})
        case "put":
            return allowed(rules, "s3:PutObject", object_)
        case "delete":
            return allowed(rules, "s3:DeleteObject", object_)
    # Without leave to list, S3 answers "forbidden" for an object that isn't there, instead of "not found".
    return allowed(rules, "s3:GetObject", object_) and allowed(rules, "s3:ListBucket", BUCKET)


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    return Witness(monkeypatch)


@pytest.mark.usefixtures("local_warehouse")
@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.torture)])
def test_days_work_is_allowed_to_the_roles(desk: Desk, witness: Witness, everything: bool) -> None:
    """``everything``: with the runs that sensors ask for, reconciliation with its warehouse among them; a minute."""
    desk.two_customers(MONDAY, wrong_units=True)
    with witness.acting("worker"):
        assert desk.run(MONDAY).outcome is Outcome.DELIVERED  # one portfolio is held back
    sensors = [sensor.name for sensor in desk.definitions.get_repository_def().sensor_defs]
    assert {"repair", "alerts", "measures", "consent_events"} <= set(sensors)
    with desk.at("2026-03-03T11:00:00+11:00"):
        for sensor in sensors:
            with witness.acting("code"):
                requests, _ = desk.tick(sensor)
            for request in requests[:1] if everything else ():
                with witness.acting("worker"):
                    desk.carry_out(request)
    with desk.at("2026-03-04T11:00:00+11:00"), witness.acting("code"):  # Tuesday's date is late
        for sensor in sensors if everything else ("alerts", "repair", "measures"):
            desk.tick(sensor)
    for job in ("operations_report", "owner_report", "retention", "schema_job"):
        definition = desk.definitions.resolve_job_def(job)
        partition = MONDAY if definition.partitions_def is not None else None
        with desk.at("2026-03-03T12:00:00+11:00"), witness.acting("worker"):
            definition.execute_in_process(instance=desk.instance, partition_key=partition, raise_on_error=False)
    with witness.acting("door"):
        grant(
            desk.runtime, WebserverActions(lambda *_: False, lambda *_: "run"), desk.feed("class_super"), dt.date(2026, 3, 2),
            Requester("pat", frozenset({"classfeed-support"})), "the recipient asks for the file again",
            dt.datetime(2026, 3, 3, 0, 30, tzinfo=dt.UTC),
        )  # fmt: skip
    for component in ("worker", "code", "door"):
        with witness.acting(component):
            assert delivered_state(desk.runtime.store, "class_super", dt.date(2026, 3, 2)).portfolios
    assert {component for component, _, _ in witness.calls} == {"worker", "code", "door"}
    assert len(witness.calls) > 60
    assert sorted(witness.refused()) == []


def test_consent_queues_are_open_to_those_who_use_them(s3_endpoint: str, tmp_path: Path) -> None:
    client = boto3.client("sqs", endpoint_url=s3_endpoint, region_name="ap-southeast-2")
    events, dead = (client.create_queue(QueueName=f"roles-{os.getpid()}{end}")["QueueUrl"] for end in ("", "-dead"))
    queues, store = Queues(client, events, dead), LocalStore(tmp_path)
    calls: list[tuple[str, str]] = []
    client.meta.events.register(
        "provide-client-params.sqs",
        lambda params, model, **_: calls.append((f"sqs:{model.name}", params["QueueUrl"])),
    )

    def refused(component: str) -> set[str]:
        rules = statements(role("prod", component))
        queue = "arn:aws:sqs:ap-southeast-2:444455556666:classfeed-prod-consent-events"
        requests = {(action, queue + "-dead" * url.endswith("-dead")) for action, url in calls}
        calls.clear()
        return {f"{action} {arn}" for action, arn in requests if not allowed(rules, action, arn)}

    client.send_message(QueueUrl=events, MessageBody="not an event")
    calls.clear()
    assert consume(queues, store, dt.datetime(2026, 3, 2, tzinfo=dt.UTC)).dead == 1
    assert queues.waiting_dead_letters() == 1
    assert refused("code") == set()
    assert redrive(queues) == 1
    assert refused("oncall") == set()


def test_witness_reports_a_forbidden_call(witness: Witness, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with witness.acting("code"):
        store.create("delivered/class_super/2026-03-02/r0/manifest.json", b"{}")
        list(store.list("delivered/class_super/"))
    store.put("landing/x", b"not looked at: nobody acts")
    assert witness.refused() == {("code", "create", "delivered/class_super/2026-03-02/r0/manifest.json")}
