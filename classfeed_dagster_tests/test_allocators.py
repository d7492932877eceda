"""Allocators are configured before their libraries are loaded, and in one place only."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.site import FIRST, SECOND
from classfeed_dagster import allocators as memory
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite


def test_environment_variables_override_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    monkeypatch.delenv("_RJEM_MALLOC_CONF")
    memory.configure()
    assert os.environ["ARROW_DEFAULT_MEMORY_POOL"] == "system"
    assert os.environ["_RJEM_MALLOC_CONF"] == memory.ENVIRONMENT["_RJEM_MALLOC_CONF"]


@pytest.mark.parametrize("missing", ["linux", "mallopt"])
def test_allocators_on_other_systems_are_unchanged(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.configure()


@pytest.mark.parametrize(("before", "after"), [(700, 50_000), (200_000, 200_000), (0, 0)])
def test_collector_threshold_is_raised_never_lowered(before: int, after: int) -> None:
    default = gc.get_threshold()
    try:
        gc.set_threshold(before, *default[1:])
        memory.configure()
        assert gc.get_threshold() == (after, *default[1:])
    finally:
        gc.set_threshold(*default)


def test_polars_computes_in_one_thread_unless_told_otherwise() -> None:
    command = [sys.executable, "-c", "import classfeed_dagster, polars; print(polars.thread_pool_size())"]
    environment = {name: value for name, value in os.environ.items() if name != "POLARS_MAX_THREADS"}
    for threads, variables in ((1, {}), (2, {"POLARS_MAX_THREADS": "2"})):
        printed = subprocess.run(
            command, env=environment | variables, check=True, capture_output=True, text=True
        ).stdout
        assert int(printed) == threads


def test_freed_memory_returns_to_the_system() -> None:
    code = """
import classfeed_dagster, pandas, polars as pl, pyarrow as pa, time  # pyarrow imports pandas when it is first used
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
assert pa.default_memory_pool().backend_name == "jemalloc"
before = resident()
frame = pl.DataFrame({"n": range(3_000_000)}).with_columns(pl.col("n").cast(pl.String).alias("text"))
table = frame.to_arrow()
held = resident() - before
del frame, table
time.sleep(0.5)
for _ in range(50):  # allocators look at the time when they are used
    pl.Series(range(1000)).sort(); pa.array(range(1000))
print(held, resident() - before)
"""
    clean = {name: value for name, value in os.environ.items() if name not in memory.ENVIRONMENT}
    printed = subprocess.run([sys.executable, "-c", code], env=clean, check=True, capture_output=True, text=True).stdout
    hold, kept = map(int, printed.split())
    assert hold > 100
    assert kept < hold / 2


def test_dagster_process_loads_few_libraries_and_freezes_definitions() -> None:
    code = "import gc, sys, classfeed_dagster.definitions; print(gc.get_freeze_count(), *sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    frozen, *loaded = output.split()
    assert int(frozen) > 100_000
    heavy = {"pandas", "exchange_calendars", "duckdb", "boto3", "botocore", "snowflake.connector", "moto"}
    assert not heavy & set(loaded)


def test_run_of_two_dates_loads_no_pandas(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    bigsite = Bigsite(bigsite_engine)
    bigsite.portfolio().consent().cash_account()
    bigsite.end_of_day(FIRST)
    bigsite.end_of_day(SECOND).save()  # the second date also looks for late rows
    code = """
import sys, pathlib
from dagster import DagsterInstance
from benchmarks.site import FIRST, SECOND, morning_after, runtime_at
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.run_date import run_date
from classfeed_dagster.tags import CLOCK_TAG
definitions = build_definitions(runtime_at(sys.argv[1], pathlib.Path(sys.argv[2])))
with DagsterInstance.ephemeral() as instance:
    for day in (FIRST, SECOND):
        report = run_date(definitions, instance, "class_super", day, tags={CLOCK_TAG: morning_after(day).isoformat()})
        assert report.outcome.name == "DELIVERED", report
print(*sys.modules)
"""
    url = bigsite_engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", code, url, str(tmp_path)]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split()
    assert "polars" in loaded
    assert not {"pandas", "exchange_calendars"} & set(loaded)
