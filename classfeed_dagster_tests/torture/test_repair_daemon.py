"""The real daemon, a run worker killed in the middle, and nobody at hand: the date is delivered exactly once.

pytest -m torture classfeed_dagster_tests/torture
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from dagster import DagsterInstance, RunRecord, RunsFilter

from classfeed_dagster import trading_days
from classfeed_dagster.delivery.look import date_status
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.operations.due import latest_due
from classfeed_dagster.operations.toil import Launcher, launcher
from classfeed_dagster.store import open_store
from classfeed_dagster_tests.bigsite_builder import Bigsite

pytestmark = pytest.mark.torture
ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")


@pytest.fixture
def day() -> dt.date:
    """The business date that is due now, by the real clock."""
    now = dt.datetime.now(dt.UTC)
    audience = FEED.audience(dt.date(2023, 1, 3))
    due = latest_due(FEED, audience, now - dt.timedelta(minutes=20), 1)
    return due[-1].business_date


@contextlib.contextmanager
def daemon(home: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`dagster-daemon run` with our definitions, in a session of its own; killed with all its children."""
    command = [
        str(Path(sys.executable).with_name("dagster-daemon")),
        "run",
        "-m",
        "classfeed_dagster.definitions",
    ]
    with (home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(seconds: int, look: Callable[[], _T | None], what: str, home: Path) -> _T:
    """What ``look`` finds, asked again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.2)
    log = (home / "daemon.log").read_text()[-4000:]
    raise AssertionError(f"{what} did not happen within {seconds} s; the daemon's log ends:\n{log}")


def fill(engine: sa.Engine, day: dt.date) -> None:
    bigsite = Bigsite(engine)
    before = trading_days.previous_business_day(day)
    bhp = bigsite.security("BHP", price={before: "45.10", day: "45.50"})
    for number in ("SW00000001", "SW00000002"):
        one = bigsite.portfolio(number).consent(granted_at="2026-01-01T00:00:00Z")
        one.deposit("10000.00", before)
        one.buy(bhp, "100", "45.00", before)
    bigsite.end_of_day(day).save()


def test_a_killed_worker_is_replaced_and_the_date_delivered_exactly_once(
    tmp_path: Path, bigsite_engine: sa.Engine, day: dt.date
) -> None:
    fill(bigsite_engine, day)
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    environment = {
        "DAGSTER_HOME": str(home),
        "CLASSFEED_ENV": "dev",  # sensors are on
        "CLASSFEED_HOME": str(tmp_path),
        "CLASSFEED_STORE_URL": str(tmp_path / "store"),
        "CLASSFEED_BIGSITE_URL": bigsite_engine.url.render_as_string(hide_password=False),
        "CLASSFEED_FIRST_BUSINESS_DATE": day.isoformat(),
    }
    store = open_store(str(tmp_path / "store"))
    with DagsterInstance.from_config(str(home)) as instance, daemon(home, environment):

        def runs() -> list[RunRecord]:
            return list(instance.get_run_records(RunsFilter(job_name="class_super_job"), ascending=True))

        def worker() -> int | None:
            # As soon as the worker is at work, before it has delivered.
            for record in runs():
                for entry in instance.all_logs(record.dagster_run.run_id):
                    if found := re.search(r"\(pid: (\d+)\)", entry.message or entry.user_message or ""):
                        return int(found[1])
            return None

        pid = until(300, worker, "a run of the date", home)
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        assert date_status(store, "class_super", day).deliveries == ()

        def delivered() -> bool | None:
            return bool(date_status(store, "class_super", day).deliveries) or None

        until(900, delivered, "the delivery", home)
        seconds = time.monotonic() - killed_at

        def settled() -> bool | None:
            return all(record.dagster_run.is_finished for record in runs()) or None

        until(300, settled, "the end of all runs", home)
        status = date_status(store, "class_super", day)
        assert [manifest.revision for manifest in status.deliveries] == [0]
        assert status.delivered == 2
        assert status.complete
        by = [launcher(record.dagster_run.tags) for record in runs()]
        assert Launcher.PERSON not in by
        assert len(by) >= 2
        print(f"worker killed: repaired after {seconds:.0f} s, {len(by)} runs, human actions 0")
