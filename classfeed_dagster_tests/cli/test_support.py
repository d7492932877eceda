"""`classfeed rerun` and `classfeed refresh` as a support person types them."""

from __future__ import annotations

import contextlib
import datetime as dt
import getpass
import grp
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer
from typer.testing import CliRunner, Result

from classfeed_dagster.cli import support as cli_support
from classfeed_dagster.orchestration import run_date as runs
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.orchestration.run_date import Outcome, RunReport
from classfeed_dagster.settings import Environment, Settings, get_settings
from classfeed_dagster.store import open_store
from classfeed_dagster.support import reruns
from classfeed_dagster.support import webserver_client as operate
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.morning import deliver_date

REASON = "the recipient says that the file is missing"
GROUP = grp.getgrgid(os.getgid()).gr_name
Command = Callable[..., Result]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path))
    monkeypatch.setenv("CLASSFEED_SUPPORT_GROUP", GROUP)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    get_settings.cache_clear()
    application = typer.Typer()
    application.callback()(lambda: None)
    cli_support.register(application)
    yield lambda *words: CliRunner().invoke(application, words if words[0] == "refresh" else ["rerun", *words])
    get_settings.cache_clear()


def asked(tmp_path: Path) -> tuple[reruns.RerunRequest, ...]:
    return reruns.requests(open_store(str(tmp_path / "store")), "class_super")


def test_rerun_runs_locally_and_is_recorded(app: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, dt.date, dict[str, str]]] = []

    def run_date(_definitions: Any, _instance: Any, feed: str, day: dt.date, *, tags: dict[str, str]) -> RunReport:
        started.append((feed, day, tags))
        return RunReport(Outcome.NOTHING_TO_DO, feed, day, "run", "correlation", "nothing had changed")

    monkeypatch.setattr(runs, "run_date", run_date)
    monkeypatch.setattr("classfeed_dagster.orchestration.definitions.build_definitions", lambda _: None)
    monkeypatch.setattr("classfeed_dagster.local.dagster_instance.open_instance", lambda _: contextlib.nullcontext())
    result = app("--date", "2023-01-04", "--reason", REASON)
    assert result.exit_code == 0, result.output
    (record,) = asked(tmp_path)
    assert (record.requested_by, record.reason, record.outcome) == (getpass.getuser(), REASON, "ACCEPTED")
    ((feed, day, tags),) = started
    assert (feed, day) == ("class_super", dt.date(2023, 1, 4))
    assert tags["classfeed/rerun"] == "reruns/class_super/00000001.json"


def test_rerun_with_webserver_is_launched_there(app: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_OPERATE_URL", "http://operator:3000/operate")
    get_settings.cache_clear()
    monkeypatch.setattr(operate, "under_way", lambda *_: False)
    monkeypatch.setattr(operate, "launch", lambda url, feed, day, tags: f"{url} {feed} {day}")
    result = app("--date", "2023-01-04", "--reason", REASON)
    assert result.exit_code == 0, result.output
    assert "operator:3000/operate class_super 2023-01-04" in result.output
    assert len(asked(tmp_path)) == 1


def test_refresh_delivers_in_full_once_and_refuses_again(
    app: Command, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = desk.two_customers()
    for day in (dt.date(2026, 3, 2), dt.date(2026, 3, 3)):
        desk.end_of_day(day.isoformat())
        deliver_date(desk.runtime, desk.feed("class_super"), day, desk.feeds)
    url = desk.runtime.settings.bigsite_url
    assert url is not None
    monkeypatch.setenv("CLASSFEED_BIGSITE_URL", url.get_secret_value())
    monkeypatch.setenv("CLASSFEED_FIRST_BUSINESS_DATE", "2026-03-02")
    monkeypatch.setenv("CLASSFEED_NOW", morning_after(dt.date(2026, 3, 3)).isoformat())
    get_settings.cache_clear()
    request = ("refresh", first.number, "--reason", REASON)
    delivered = app(*request)
    assert delivered.exit_code == 0, delivered.output
    (entry,) = desk.manifest("2026-03-03", revision=1).portfolios
    assert (entry.number, entry.change, entry.extract) == (first.number, "CURRENT", "FULL")
    assert "was sent in full with 2026-03-03" in str(app(*request).exception)
    assert [record.outcome for record in asked(tmp_path)] == ["ACCEPTED", "REFUSED"]


def test_rerun_without_the_group_is_refused(app: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_SUPPORT_GROUP", "nobody-is-in-this-group")
    get_settings.cache_clear()
    result = app("--date", "2023-01-04", "--reason", REASON)
    assert isinstance(result.exception, reruns.RerunRefusedError)
    assert [request.outcome for request in asked(tmp_path)] == ["REFUSED"]


def test_rerun_in_production_never_runs_in_the_commands_process(app: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_ENV", "prod")
    monkeypatch.setenv("CLASSFEED_STORE_URL", "s3://bucket")
    monkeypatch.setenv("CLASSFEED_FIRST_BUSINESS_DATE", "2023-01-03")
    get_settings.cache_clear()
    assert isinstance(app("--date", "2023-01-04", "--reason", REASON).exception, cli_support.NoDoorError)


@pytest.mark.parametrize("option", ["--fresh-snapshot", "--force", "--by", "--config"])
def test_rerun_has_no_other_options(app: Command, option: str) -> None:
    assert app("--date", "2023-01-04", "--reason", REASON, option, "x").exit_code == 2


@pytest.mark.parametrize(
    ("arn", "name", "groups"),
    [
        ("arn:aws:sts::444455556666:assumed-role/classfeed-prod-support/pat", "pat", {"classfeed-support"}),
        ("arn:aws:sts::444455556666:assumed-role/classfeed-dev-support/pat", "pat", {"classfeed-dev-support"}),
        ("arn:aws:iam::444455556666:user/pat", "", set()),
        ("arn:aws:iam::444455556666:root", "", set()),
    ],
)
def test_person_in_aws_is_the_sessions(monkeypatch: pytest.MonkeyPatch, arn: str, name: str, groups: set[str]) -> None:
    class Sts:
        def get_caller_identity(self) -> dict[str, str]:
            return {"Arn": arn}

    monkeypatch.setattr(boto3, "client", lambda _: Sts())
    person = cli_support.requester(
        Settings(env=Environment.PROD, store_url="s3://bucket", first_business_date=dt.date(2023, 1, 3))
    )
    assert (person.name, person.groups) == (name, frozenset(groups))


def test_group_without_a_name_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgroups", lambda: [999_999_999])
    monkeypatch.setattr(os, "getgid", lambda: 999_999_998)
    assert cli_support.requester(Settings()).groups == frozenset()
