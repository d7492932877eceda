"""Dagster's SQLite storage with cached engines, for the local ``dagster.yaml``.

Dagster creates an engine and a connection for every statement: more than a thousand a run. Files, tables, transactions
and the write-ahead log are Dagster's own, so either storage reads the other's data.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from dagster._serdes import ConfigurableClassData

from classfeed_dagster.file_access import owner_only
from classfeed_dagster.local.processes import ProcessIdentity
from classfeed_dagster.tags import PROCESS_TAG

_MOST_ENGINES = 16  # every run has its own file: a service that reads thousands must not keep them all open


class EngineCache:
    """The most recently used engines by URL. A forked child has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: OrderedDict[str, sa.Engine] = OrderedDict()
        self._pid = os.getpid()

    def get(self, url: str) -> sa.Engine:
        """Return the engine for ``url``, created on first use. One thread at a time uses its connections."""
        with self._lock:
            if self._pid != os.getpid():  # a child must neither use nor close its parent's connection
                self._engines, self._pid = OrderedDict(), os.getpid()
            engine = self._engines.pop(url, None)
            if engine is None:
                arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
                engine = sa.create_engine(url, pool_size=2, max_overflow=-1, connect_args=arguments)
                sa.event.listen(engine, "connect", _leave_flushes_to_the_system)
            self._engines[url] = engine
            while len(self._engines) > _MOST_ENGINES:
                self._engines.popitem(last=False)[1].dispose()
            return engine

    def dispose(self) -> None:
        """Close every idle connection."""
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


def _leave_flushes_to_the_system(connection: sqlite3.Connection, _record: object) -> None:
    """Flush the disk at checkpoints only, not at each of a run's 850 commits.

    With the write-ahead log, a killed process loses nothing and a power cut at most the newest events of a run, which
    it ends anyway (https://www.sqlite.org/pragma.html#pragma_synchronous). What was delivered is on record elsewhere.
    """
    connection.execute("PRAGMA synchronous = NORMAL")


class _CachedConnections:
    engines: EngineCache
    _conn_string: str

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with self.engines.get(self._conn_string).begin() as connection:
            yield connection


class _RunStorage(_CachedConnections, SqliteRunStorage):
    pass


class _ScheduleStorage(_CachedConnections, SqliteScheduleStorage):
    pass


class _EventLogStorage(SqliteEventLogStorage):
    def __init__(self, base_dir: str, engines: EngineCache) -> None:
        self.engines = engines
        self._tables: set[str] = set()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock:
            engine = self.engines.get(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                if schema_versions(Path(self.path_for_shard(shard))) != 1:
                    self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store the event. With a run's first one, its process: the number alone may be another process's later."""
        if event.dagster_event_type is dg.DagsterEventType.RUN_START:
            self._instance.add_run_tags(event.run_id, {PROCESS_TAG: f"{event.run_id} {ProcessIdentity.current()}"})
        super().store_event(event)

    def has_table(self, table_name: str) -> bool:
        """Return True if the index has the table. Dagster asks before each check's event, and drops no table."""
        if table_name not in self._tables:
            # No ``index_connection``: Dagster asks while it holds one.
            with self.engines.get(self.conn_string_for_shard("index")).connect() as connection:
                if not sa.inspect(connection).has_table(table_name):
                    return False
            self._tables.add(table_name)
        return True

    def wipe(self) -> None:
        self.engines.dispose()  # the files are deleted, so their connections would write to unlinked files
        super().wipe()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # Webserver and daemon begin at once. Two processes that create the tables leave two versions of the schema, and no
    # later process opens it.
    with open(folder / "storage.lock", "w", opener=owner_only) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def schema_versions(file: Path) -> int:
    """Return how many versions of Dagster's schema a database is stamped with: 0 if its tables are not created yet.

    Dagster reads all of its migrations to learn the same, at each opening of each file, and changes a file without a
    version only.
    """
    if not file.exists():
        return 0
    with closing(sqlite3.connect(file, SQLITE_BUSY_TIMEOUT_SECONDS)) as database:
        stamped = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        return int(database.execute("SELECT count(*) FROM alembic_version").fetchone()[0]) if stamped else 0


def _drop_versions(file: Path) -> None:
    # Of homes of releases without the lock. All tables are there; Dagster stamps a file that has no version.
    with closing(sqlite3.connect(file, SQLITE_BUSY_TIMEOUT_SECONDS)) as database, database:
        database.execute("DELETE FROM alembic_version")


class LocalStorage(DagsterSqliteStorage):
    """Storage of the local instance. ``base_dir``: its folder; default: DAGSTER_HOME."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        runs, schedules = _runs_directory(base_dir), _schedule_directory(base_dir)
        events = _event_logs_directory(base_dir)
        files = [Path(runs, "runs.db"), Path(events, "index.db"), Path(schedules, "schedules.db")]
        with _alone(Path(base_dir)):
            versions = {file: schema_versions(file) for file in files}
            for file in (file for file in files if versions[file] > 1):
                _drop_versions(file)
            if set(versions.values()) != {1}:
                DagsterSqliteStorage(base_dir)  # creates the tables
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        self.base_dir, self._inst_data = base_dir, inst_data
        self._engines = EngineCache()
        self._run_storage = _RunStorage(create_db_conn_string(runs, "runs"))
        self._run_storage.engines = self._engines
        self._event_log_storage = _EventLogStorage(events, self._engines)
        self._schedule_storage = _ScheduleStorage(create_db_conn_string(schedules, "schedules"))
        self._schedule_storage.engines = self._engines

    @classmethod
    def config_type(cls) -> Any:
        """Return the configuration's schema."""
        return {"base_dir": dg.Field(dg.Noneable(dg.StringSource), is_required=False, default_value=None)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> LocalStorage:
        """Return the storage for the configuration of ``dagster.yaml``."""
        folder = config_value.get("base_dir") or os.environ.get("DAGSTER_HOME") or str(Path(".classfeed/dagster"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        return cls(str(Path(folder).absolute()), inst_data)

    def dispose(self) -> None:
        """Close every connection."""
        super().dispose()
        self._engines.dispose()
