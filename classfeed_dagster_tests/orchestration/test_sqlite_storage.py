"""The local storage with kept engines: the same files as Dagster's own, safe with kills, forks and two processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, job, op
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.orchestration import sqlite_storage
from classfeed_dagster.orchestration.sqlite_storage import EngineCache, LocalStorage

WRITER = """
import sys
from pathlib import Path
from dagster import job, op
from classfeed_dagster.local.dagster_instance import open_instance
@op
def step(): pass
@job
def small(): step()
with open_instance(Path(sys.argv[1])) as instance:
    while True:
        print(small.execute_in_process(instance=instance).run_id, flush=True)
"""


@op
def step() -> None:
    """Do nothing."""


@job
def small() -> None:
    """Run one step."""
    step()


@pytest.fixture(autouse=True)
def _no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with open_instance(tmp_path) as instance:
        yield instance


def test_shipped_instance_file_names_the_storage(instance: DagsterInstance) -> None:
    storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    assert [type(storage) for storage in storages] == [
        sqlite_storage._RunStorage, sqlite_storage._EventLogStorage, sqlite_storage._ScheduleStorage
    ]  # fmt: skip


def test_run_creates_few_engines(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    small.execute_in_process(instance=instance)
    created: list[str] = []
    create = sa.create_engine

    def counted(url: str, **words: object) -> sa.Engine:
        created.append(str(url))
        return create(url, **words)

    monkeypatch.setattr(sa, "create_engine", counted)
    monkeypatch.setattr(sqlite_event_log, "create_engine", counted)
    result = small.execute_in_process(instance=instance)
    assert result.success
    assert [url.rpartition("/")[2] for url in created] == [f"{result.run_id}.db"]


def test_files_are_readable_by_dagsters_own_storage(instance: DagsterInstance, tmp_path: Path) -> None:
    run_id = small.execute_in_process(instance=instance).run_id
    stock = DagsterSqliteStorage(str(tmp_path / "dagster"))
    (run,) = stock.run_storage.get_runs(RunsFilter(run_ids=[run_id]))
    assert run.status is DagsterRunStatus.SUCCESS
    assert len(stock.event_log_storage.get_logs_for_run(run_id)) == len(instance.all_logs(run_id))


def test_killed_writer_damages_nothing_for_a_second_process(instance: DagsterInstance, tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        theirs = [writer.stdout.readline().strip()]
        ours = [small.execute_in_process(instance=instance).run_id for _ in range(3)]  # both write at once
        theirs.append(writer.stdout.readline().strip())
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    ours.append(small.execute_in_process(instance=instance).run_id)
    for run_id in (*theirs, *ours):
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is DagsterRunStatus.SUCCESS
    for file in (tmp_path / "dagster" / "history").rglob("*.db"):
        with sa.create_engine(f"sqlite:///{file}", poolclass=sa.pool.NullPool).connect() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"


def test_engines_are_bounded_and_closed(tmp_path: Path) -> None:
    engines = EngineCache()
    first = engines.get(f"sqlite:///{tmp_path}/0.db")
    with first.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x)"))
    assert engines.get(f"sqlite:///{tmp_path}/0.db") is first
    for number in range(1, 40):
        with engines.get(f"sqlite:///{tmp_path}/{number}.db").connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    assert len(engines._engines) == 16
    assert engines.get(f"sqlite:///{tmp_path}/0.db") is not first
    engines.dispose()
    assert not engines._engines


def test_connections_flush_the_disk_at_checkpoints_only(tmp_path: Path) -> None:
    engines = EngineCache()
    with engines.get(f"sqlite:///{tmp_path}/a.db").connect() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 1  # NORMAL; SQLite's default is FULL, 2
    engines.dispose()


def test_forked_child_makes_engines_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = EngineCache()
    url = f"sqlite:///{tmp_path}/a.db"
    parent = engines.get(url)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert engines.get(url) is not parent
    parent.dispose()
    engines.dispose()


def test_storage_works_after_runs_are_wiped(instance: DagsterInstance) -> None:
    small.execute_in_process(instance=instance)
    instance.wipe()
    assert instance.get_runs() == []
    assert small.execute_in_process(instance=instance).success


def test_storage_without_a_folder_is_in_dagsters_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    storage = LocalStorage.from_config_value(None, {})  # type: ignore[arg-type]
    assert storage.base_dir == str(tmp_path)
    storage.dispose()


_OPEN = """
import sys, time
from classfeed_dagster.orchestration.sqlite_storage import LocalStorage
print(flush=True)
sys.stdin.readline()
LocalStorage(sys.argv[1])
"""


def test_processes_that_begin_at_once_create_one_version_of_the_schema(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OPEN, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert _versions(tmp_path) == [1, 1, 1]


def test_home_with_two_versions_of_the_schema_opens_again(tmp_path: Path) -> None:
    with open_instance(tmp_path) as instance:
        run_id = small.execute_in_process(instance=instance).run_id
    for file in _databases(tmp_path):
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("INSERT INTO alembic_version VALUES ('5771160a95ad')")
    with open_instance(tmp_path) as instance:
        again = small.execute_in_process(instance=instance).run_id
        assert {run.run_id for run in instance.get_runs()} == {run_id, again}
    assert _versions(tmp_path) == [1, 1, 1]


def test_opening_a_home_again_reads_no_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_instance(tmp_path) as instance:
        run_id = small.execute_in_process(instance=instance).run_id
    monkeypatch.setattr(ScriptDirectory, "from_config", lambda config: pytest.fail("read Dagster's migrations"))
    with open_instance(tmp_path) as instance:
        assert instance.event_log_storage.supports_asset_checks
        assert instance.all_logs(run_id)


def test_missing_table_is_looked_for_until_it_is_there(instance: DagsterInstance) -> None:
    storage = cast("sqlite_storage._EventLogStorage", instance.event_log_storage)
    assert not storage.has_table("newer")
    with storage.index_connection() as connection:
        connection.execute(sa.text("CREATE TABLE newer (id INTEGER)"))
    assert storage.has_table("newer")


def _databases(folder: Path) -> list[Path]:
    return [next(folder.rglob(name)) for name in ("runs.db", "index.db", "schedules.db")]


def _versions(folder: Path) -> list[int]:
    versions = []
    for file in _databases(folder):
        with contextlib.closing(sqlite3.connect(file)) as database:
            versions.append(database.execute("SELECT count(*) FROM alembic_version").fetchone()[0])
    return versions
