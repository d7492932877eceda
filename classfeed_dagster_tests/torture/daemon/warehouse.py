"""Snowflake away while a delivered date is proven and loaded: the local warehouse hangs, then answers again.

The delivery needs no warehouse and is not disturbed; reconciliation and load are tried again until they are through.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import DagsterRunStatus, RunsFilter

from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local import snowflake_server as server
from classfeed_dagster.runtime import NotBuiltError, Runtime
from classfeed_dagster.service_levels.toil import Launcher, launcher
from classfeed_dagster.settings import Settings
from classfeed_dagster.simulation.data_team import data_team_metrics, publish_metrics
from classfeed_dagster.tags import reconciliation_job_name
from classfeed_dagster.trading_days import previous_business_day
from classfeed_dagster.warehouse.connection import open_warehouse
from classfeed_dagster_tests.torture.daemon.stack import SENSORS, Stack, StuckError, due_dates, running
from classfeed_dagster_tests.torture.outcome import Row

_SECONDS = 75.0


def warehouse_away(folder: Path) -> Row:
    """Return the row for this fault, with a stack of its own."""
    fault = f"Snowflake hangs for {_SECONDS:.0f} s and more, until a load has failed"
    (day,) = due_dates(1)
    with running(folder, [day], sensors=(*SENSORS, f"{FEED.name}_reconciliation_sensor")) as stack:
        home = Path(stack.environment["CLASSFEED_HOME"])
        server.start(home)
        _publish_theirs(stack, home)
        pid = int(_state(home)["pid"])
        try:
            os.kill(pid, signal.SIGSTOP)
            at = time.monotonic()
            stack.until(lambda: stack.status(day).deliveries, "the delivery")
            delivered = time.monotonic() - at
            stack.until(lambda: _failed(stack), "a failed load")
            time.sleep(max(0.0, _SECONDS - (time.monotonic() - at)))
            os.kill(pid, signal.SIGCONT)
            again = time.monotonic()
            stack.until(lambda: _proven(stack), "the proof of the delivered date", 900)
            seconds = time.monotonic() - again
        except StuckError as error:
            return Row("daemon", fault, 1, "not repaired", [str(error)])
        finally:
            os.kill(pid, signal.SIGCONT)
            server.stop(home)
        broken = list(_wrong(stack))
        runs = len(stack.instance.get_runs(RunsFilter(job_name=reconciliation_job_name(FEED.name))))
        count = len(stack.slack.messages)
        outcome = (
            f"delivered undisturbed after {delivered:.0f} s; proven and loaded {seconds:.0f} s after it was back; "
            f"{runs} runs, {count} alert{'' if count == 1 else 's'}, human actions 0"
        )
        return Row("daemon", fault, 1, outcome, broken)


def _publish_theirs(stack: Stack, home: Path) -> None:
    # The data team's figures are there in good time, so that nothing but Snowflake is in the way.
    (day,) = stack.dates
    metrics = data_team_metrics(stack.bigsite, FEED.recipient, day, previous_business_day(day))
    with open_warehouse(Settings(home=home)) as connection:
        publish_metrics(connection, FEED.recipient, day, metrics, dt.datetime.now(dt.UTC))


def _state(home: Path) -> dict[str, int]:
    state = server._read_state(server._folder(home))
    assert state is not None
    return state


def _failed(stack: Stack) -> bool:
    run_filter = RunsFilter(job_name=reconciliation_job_name(FEED.name), statuses=[DagsterRunStatus.FAILURE])
    return bool(stack.instance.get_runs(run_filter, limit=1))


def _proven(stack: Stack) -> bool:
    runtime = Runtime(Settings())
    runtime.__dict__["store"] = stack.store  # without the proxy
    try:
        runtime.load_reference(f"{FEED.name}/data_team_reconciliation", stack.dates[0], ReconciliationSummary)
    except NotBuiltError:
        return False
    return True


def _wrong(stack: Stack) -> Iterator[str]:
    runs = stack.instance.get_runs()
    people = [
        run.run_id
        for run in runs
        if run.job_name == reconciliation_job_name(FEED.name) and "dagster/sensor_name" not in run.tags
    ]
    if people or any(launcher(run.tags) is Launcher.PERSON for run in runs if run.job_name == f"{FEED.name}_job"):
        yield "a person started something"
    if [manifest.revision for manifest in stack.status(stack.dates[0]).deliveries] != [0]:
        yield "not delivered exactly once"
    if len(stack.slack.messages) > 1:  # the date is late from the beginning
        yield f"{len(stack.slack.messages)} alerts: {'; '.join(message.text for message in stack.slack.messages)}"
