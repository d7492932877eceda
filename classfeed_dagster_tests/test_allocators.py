"""Allocators are told to give memory back before the libraries that they belong to are loaded, and by nobody else."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from classfeed_dagster import allocators as memory


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    monkeypatch.delenv("_RJEM_MALLOC_CONF")
    memory.configure()
    assert os.environ["ARROW_DEFAULT_MEMORY_POOL"] == "system"
    assert os.environ["_RJEM_MALLOC_CONF"] == memory.ENVIRONMENT["_RJEM_MALLOC_CONF"]


@pytest.mark.parametrize("missing", ["linux", "mallopt"])
def test_other_systems_go_without(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.configure()


def test_what_is_freed_goes_back_to_the_system() -> None:
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
    held, kept = map(int, printed.split())
    assert held > 100
    assert kept < held / 2


def test_a_process_of_dagster_loads_nothing_that_few_steps_need() -> None:
    code = "import sys, classfeed_dagster.definitions; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"pandas", "exchange_calendars", "duckdb", "boto3", "botocore", "snowflake.connector", "moto"}
    assert not heavy & set(loaded)
