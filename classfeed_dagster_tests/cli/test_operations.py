"""The operator's commands, through the installed program's own door."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import boto3
import pytest
import structlog
from typer.testing import CliRunner

from classfeed_dagster.cli.app import app
from classfeed_dagster.logs import get_logger
from classfeed_dagster.settings import get_settings
from classfeed_dagster.store import open_store
from classfeed_dagster_tests.fixtures.switchboard import Switchboard

runner = CliRunner()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, switchboard: Switchboard) -> pytest.MonkeyPatch:
    """Prepare production with an empty store, on the morning after the feed's first business date."""
    for name, value in {
        "ENV": "dev",
        "HOME": str(tmp_path),
        "STORE_URL": str(tmp_path / "store"),
        "FIRST_BUSINESS_DATE": "2026-03-02",
        "NOW": "2026-03-03T09:30:00+11:00",
        "SLACK_TOKEN": "xoxb-local",
        "SLACK_URL": f"{switchboard.url}/api/",
    }.items():
        monkeypatch.setenv(f"CLASSFEED_{name}", value)
    get_settings.cache_clear()
    return monkeypatch


@pytest.fixture(autouse=True)
def _fresh_settings() -> None:
    get_settings.cache_clear()


def test_watchdog_exits_with_3_and_notifies(environment: pytest.MonkeyPatch, switchboard: Switchboard) -> None:
    result = runner.invoke(app, ["watchdog"])
    assert result.exit_code == 3, result.output
    assert "missing  class_super 2026-03-02, due by 2026-03-02 22:00 UTC" in result.output
    assert "the repair sensor has recorded no heartbeat" in result.output
    (message,) = switchboard.messages
    assert message.text.startswith("The watchdog outside Dagster reports: 1 due delivery")
    assert runner.invoke(app, ["watchdog"]).exit_code == 3
    assert len(switchboard.messages) == 1


def test_watchdog_passes_before_the_deadline(environment: pytest.MonkeyPatch, switchboard: Switchboard) -> None:
    environment.setenv("CLASSFEED_NOW", "2026-03-03T08:30:00+11:00")
    get_settings.cache_clear()
    result = runner.invoke(app, ["watchdog", "--no-sensors"])
    assert (result.exit_code, switchboard.messages) == (0, [])
    assert "nothing is missing" in result.output
    assert runner.invoke(app, ["watchdog", "--no-tell"]).exit_code == 3
    assert switchboard.messages == []


def test_redrive_counts_what_it_moved(environment: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    client = boto3.client("sqs", endpoint_url=s3_endpoint)
    for name in ("CONSENT_QUEUE_URL", "CONSENT_DEAD_LETTER_URL"):
        url = client.create_queue(QueueName=f"cli-{name.replace('_', '-')}-{os.getpid()}")["QueueUrl"]
        environment.setenv(f"CLASSFEED_{name}", url)
    client.send_message(QueueUrl=url, MessageBody="x")
    environment.setenv("CLASSFEED_SQS_ENDPOINT_URL", s3_endpoint)
    get_settings.cache_clear()
    assert "1 event returned to the queue" in runner.invoke(app, ["redrive"]).output


def test_redrive_without_queues_names_the_settings(environment: pytest.MonkeyPatch) -> None:
    result = runner.invoke(app, ["redrive"])
    assert result.exit_code != 0
    assert "CLASSFEED_CONSENT_DEAD_LETTER_URL" in str(result.exception)


def test_worker_takes_steps_from_the_queues_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from classfeed_dagster.orchestration import celery_executor as celery_steps

    class Application:
        def worker_main(self, arguments: list[str]) -> None:
            self.arguments = arguments

    created = Application()
    monkeypatch.setattr(celery_steps, "application", lambda settings: created)
    result = runner.invoke(app, ["worker", "--name", "two", "--queue", "near", "--queue", "dagster"])
    assert result.exit_code == 0, result.output
    text = created.arguments
    values = {text[at]: text[at + 1] for at in range(1, len(text) - 1)}
    assert (text[0], values["--hostname"], values["--queues"], values["--concurrency"]) == (
        "worker", "two@%h", "near,dagster", "1",
    )  # fmt: skip
    assert runner.invoke(app, ["worker"]).exit_code == 0
    assert "dagster" in created.arguments


def test_worker_without_a_broker_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLASSFEED_CELERY_BROKER_URL", raising=False)
    result = runner.invoke(app, ["worker"])
    assert "set CLASSFEED_CELERY_BROKER_URL" in str(result.exception)


@pytest.mark.parametrize(("component", "logged"), [(None, False), ("steps", True)])
def test_log_of_a_deployed_component_has_what_a_terminal_omits(
    monkeypatch: pytest.MonkeyPatch, component: str | None, logged: bool
) -> None:
    if component is not None:
        monkeypatch.setenv("CLASSFEED_COMPONENT", component)
    get_settings.cache_clear()
    before = structlog.get_config()
    try:
        assert CliRunner().invoke(app, ["flags"]).exit_code == 0
        assert get_logger().is_enabled_for(logging.INFO) is logged
    finally:
        structlog.configure(**before)
        get_settings.cache_clear()


@pytest.mark.parametrize("key", ["incidents/other.json", "heartbeats/repair.json", "incidents/watchdog.json"])
@pytest.mark.parametrize("data", [b"{", b'{"at": "2026-03-02T21:59:00Z", "field": "of a newer version"}'])
def test_watchdog_notifies_in_spite_of_an_unreadable_record(
    environment: pytest.MonkeyPatch, switchboard: Switchboard, key: str, data: bytes
) -> None:
    open_store(os.environ["CLASSFEED_STORE_URL"]).put(key, data)
    result = runner.invoke(app, ["watchdog"])
    assert result.exit_code == 3, result.output
    assert len(switchboard.messages) == 1
