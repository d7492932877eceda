"""Switches from SSM, against a local Parameter Store: turned without a release, and readable when AWS is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.utils import ContainerMetadataFetcher
from openfeature import api
from typer.testing import CliRunner

from classfeed_dagster.alerting.alerts import unreadable_switches
from classfeed_dagster.cli.app import app
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.feed_run.flags import DOMAIN, flag_values, flags_problem, start_flags
from classfeed_dagster.feed_run.ssm_flags import LAST_KNOWN, SsmProvider
from classfeed_dagster.feeds import FEEDS, class_trade
from classfeed_dagster.settings import Environment, Settings, get_settings
from classfeed_dagster.store import open_store

TRADE = class_trade.FEED
runner = CliRunner()


@pytest.fixture
def ssm(s3_endpoint: str) -> Any:
    return boto3.client("ssm", endpoint_url=s3_endpoint)


@pytest.fixture
def settings(ssm: Any, s3_endpoint: str, tmp_path: Path) -> Iterator[Settings]:
    name = f"/classfeed/test-{os.getpid()}-{tmp_path.name}/flags"
    ssm.put_parameter(Name=name, Value="{}", Type="String")
    yield Settings(
        flag_provider="ssm", flags_parameter=name, ssm_endpoint_url=s3_endpoint, home=tmp_path,
        store_url=str(tmp_path / "store"), flags_seconds=1,
    )  # fmt: skip
    api.clear_providers()


def mode() -> FeedMode:
    return flag_values(TRADE, Environment.LOCAL).mode


def provider() -> SsmProvider:
    result = api._provider_registry.get_provider(DOMAIN) if hasattr(api, "_provider_registry") else None
    if result is None:
        from openfeature.provider._registry import provider_registry

        result = provider_registry.get_provider(DOMAIN)
    assert isinstance(result, SsmProvider)
    return result


def turn(ssm: Any, settings: Settings, text: str) -> None:
    ssm.put_parameter(Name=settings.flags_parameter, Value=text, Type="String", Overwrite=True)
    provider()._next_read = 0.0  # the cached second is over


def test_switch_turned_in_ssm_holds_without_restart(ssm: Any, settings: Settings) -> None:
    start_flags(settings, FEEDS)
    assert mode() is FeedMode.SHADOW
    turn(ssm, settings, '{"mode": {"class_trade": "live"}, "include-drp": {"CLASS": false}}')
    flags = flag_values(TRADE, Environment.LOCAL)
    assert (flags.mode, flags.include_drp, flags.provider) == (FeedMode.LIVE, False, "ssm")


def test_value_is_cached_for_the_setting(ssm: Any, settings: Settings) -> None:
    start_flags(settings.model_copy(update={"flags_seconds": 3600}), FEEDS)
    ssm.put_parameter(Name=settings.flags_parameter, Value='{"mode": {"CLASS": "off"}}', Type="String", Overwrite=True)
    assert mode() is FeedMode.SHADOW


@pytest.mark.parametrize("text", ["{", "[]", '{"mode": 1}', '{"mood": {"CLASS": "off"}}', '{"mode": {"clas": "off"}}'])
def test_invalid_parameter_keeps_last_value_and_alerts(ssm: Any, settings: Settings, text: str) -> None:
    start_flags(settings, FEEDS)
    turn(ssm, settings, '{"mode": {"class_trade": "live"}}')
    assert (mode(), flags_problem()) == (FeedMode.LIVE, None)
    turn(ssm, settings, text)
    assert mode() is FeedMode.LIVE
    problem = flags_problem()
    assert problem is not None
    assert problem.serving
    incident = unreadable_switches(problem)
    assert settings.flags_parameter is not None
    assert settings.flags_parameter in incident.what
    assert not incident.page
    turn(ssm, settings, '{"mode": {"class_trade": "off"}}')
    assert (mode(), flags_problem()) == (FeedMode.OFF, None)


def test_process_started_while_ssm_is_down_uses_the_stored_value(ssm: Any, settings: Settings) -> None:
    start_flags(settings, FEEDS)
    turn(ssm, settings, '{"mode": {"class_trade": "live"}}')
    assert mode() is FeedMode.LIVE
    assert json.loads(open_store(settings.store_location).read(LAST_KNOWN))["version"] == 2
    api.clear_providers()
    start_flags(settings.model_copy(update={"ssm_endpoint_url": "http://127.0.0.1:9"}), FEEDS)
    assert mode() is FeedMode.LIVE
    problem = flags_problem()
    assert problem is not None
    assert problem.serving


def test_process_without_any_value_leaves_feeds_off_and_pages(settings: Settings) -> None:
    start_flags(settings.model_copy(update={"flags_parameter": "/classfeed/missing/flags"}), FEEDS)
    flags = flag_values(TRADE, Environment.LOCAL)
    assert flags.mode is FeedMode.OFF
    assert flags.errors
    problem = flags_problem()
    assert problem is not None
    assert "ParameterNotFound" in problem.reason
    assert unreadable_switches(problem).page


def test_process_started_without_credentials_reads_them_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's credentials come from an endpoint of ECS, which may not answer when the process starts."""
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in keys:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)  # a second before each of its attempts
    start_flags(settings.model_copy(update={"store_url": "s3://unreachable"}), FEEDS)
    assert mode() is FeedMode.OFF
    problem = flags_problem()
    assert problem is not None
    assert "CredentialRetrievalError" in problem.reason
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    provider()._next_read = 0.0
    assert (mode(), flags_problem()) == (FeedMode.SHADOW, None)


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("flag_provider", "flags_parameter", "ssm_endpoint_url", "home", "store_url"):
        monkeypatch.setenv(f"CLASSFEED_{name.upper()}", str(getattr(settings, name)))
    get_settings.cache_clear()
    yield lambda *words: runner.invoke(app, list(words))
    get_settings.cache_clear()


def test_flags_commands_show_and_turn_on_record(command: Any, ssm: Any, settings: Settings) -> None:
    turned = command("flags-set", "mode", "class_trade", "off", "--reason", "parity broke on Friday")
    assert turned.exit_code == 0, turned.output
    assert "version 2" in turned.output
    assert command("flags-set", "include-drp", "CLASS", "false", "--reason", "recipient derives DRP").exit_code == 0
    value = json.loads(ssm.get_parameter(Name=settings.flags_parameter)["Parameter"]["Value"])
    assert value == {"mode": {"class_trade": "off"}, "include-drp": {"CLASS": False}}
    output = command("flags").output
    assert "parity broke on Friday" in output
    assert "source: ssm" in output
    assert command("flags-set", "mode", "class_trade", "declared", "--reason", "parity is clean again").exit_code == 0
    value = json.loads(ssm.get_parameter(Name=settings.flags_parameter)["Parameter"]["Value"])
    assert value == {"include-drp": {"CLASS": False}}


@pytest.mark.parametrize(
    "words",
    [
        ("mood", "class_trade", "off", "--reason", "a long reason"),
        ("mode", "nobody", "off", "--reason", "a long reason"),
        ("mode", "class_trade", "on", "--reason", "a long reason"),
        ("mode", "class_trade", "off", "--reason", "short"),
    ],
)
def test_flags_set_without_effect_is_refused(command: Any, ssm: Any, settings: Settings, words: Any) -> None:
    assert command("flags-set", *words).exit_code != 0
    assert ssm.get_parameter(Name=settings.flags_parameter)["Parameter"]["Version"] == 1


def test_flags_of_another_provider_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    refused = runner.invoke(app, ["flags-set", "mode", "class_trade", "off", "--reason", "a long reason"])
    assert "CLASSFEED_FLAGS" in str(refused.exception)
