"""Killed runs of the command line: the next one detects it, marks the run failed, and delivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import DagsterRunStatus
from typer.testing import CliRunner

from classfeed_dagster.cli import app as cli
from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.orchestration.run_recovery import pool_holders
from classfeed_dagster.settings import get_settings

RUN = ["run", "--date", "2023-01-03"]


@pytest.fixture
def home(bigsite_engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path))
    monkeypatch.setenv("CLASSFEED_BIGSITE_URL", bigsite_engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("CLASSFEED_SIMULATION_PORTFOLIOS", "4")
    get_settings.cache_clear()
    assert CliRunner().invoke(cli.app, ["simulate"]).exit_code == 0
    yield tmp_path
    get_settings.cache_clear()


@pytest.mark.slow
def test_run_killed_while_it_lands_does_not_stall_the_next(home: Path, bigsite_engine: sa.Engine) -> None:
    with open_instance(home) as instance, bigsite_engine.connect() as connection, connection.begin() as locked:
        connection.execute(sa.text("LOCK TABLE bigsite.trade IN ACCESS EXCLUSIVE MODE"))  # landing can't go on
        killed = subprocess.Popen([sys.executable, "-m", "classfeed_dagster.cli.app", *RUN], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while not pool_holders(instance) and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        (holder,) = pool_holders(instance)
        assert holder.owner is not None
        assert holder.owner.pid == killed.pid
        waiting = CliRunner().invoke(cli.app, [*RUN, "--wait", "1"])
        assert "is being read by class_super 2023-01-03" in str(waiting.exception)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        locked.rollback()
    result = CliRunner().invoke(cli.app, RUN)
    assert result.exit_code == 0, result.output
    assert "delivered  class_super 2023-01-03" in result.output
    with open_instance(home) as instance:
        assert sorted(run.status.value for run in instance.get_runs()) == [
            DagsterRunStatus.FAILURE.value, DagsterRunStatus.SUCCESS.value
        ]  # fmt: skip
        assert pool_holders(instance) == []
