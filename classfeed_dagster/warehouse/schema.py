"""Migrations of the warehouse's tables: numbered SQL files, each applied once, in order, and never changed after."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import resources

import polars as pl

from classfeed_dagster import trading_days
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.warehouse.database import Connection, Staging, execute, literal, query, transaction

_MARGIN = dt.timedelta(days=31)  # distance from the calendar's ends, so that every day has neighbours
_FILE = re.compile(r"(\d{4})_\w+\.sql\Z")
_RENAME = re.compile(r"ALTER TABLE \w+ RENAME TO (\w+)\Z")
_LOCK = "SCHEMA_MIGRATION"
_STALE_SECONDS = 300  # a migration takes seconds, so an older lock belongs to a process that was killed
_POLL_SECONDS = 1.0
_VERSIONS = """CREATE TABLE IF NOT EXISTS SCHEMA_VERSION (
    VERSION NUMBER(4,0) NOT NULL, NAME VARCHAR(200) NOT NULL, SHA256 VARCHAR(64) NOT NULL, APPLIED_AT TIMESTAMP_NTZ NOT NULL
)"""


def stored_table(table: str) -> str:
    """Return the table that stores the dated rows of ``table``: itself, or the one below the view FACT_MOVEMENT."""
    return "DELIVERED_MOVEMENT" if table == "FACT_MOVEMENT" else table


class SchemaError(ConfigurationError):
    """The warehouse's tables do not match this version of the code."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> list[str]:
        """Return its statements, without comments and semicolons."""
        bare = re.sub(r"--[^\n]*", "", self.text)
        return [statement.strip() for statement in bare.split(";") if statement.strip()]


def migrations() -> tuple[Migration, ...]:
    """Return the files of ``ddl/``, in order."""
    folder = resources.files("classfeed_dagster.warehouse") / "ddl"
    files = [
        Migration(int(match[1]), file.name, file.read_text())
        for file in folder.iterdir()
        if (match := _FILE.match(file.name))
    ]
    return tuple(sorted(files, key=lambda migration: migration.version))


def apply_schema(
    connection: Connection, declared: Iterable[Migration] | None = None, *, exclusive: bool = False
) -> list[str]:
    """Apply the migrations that are missing; return the names of their files. Idempotent.

    One process applies them at a time; the others wait for it, unless the caller has the warehouse to itself
    (``exclusive``). A migration that was interrupted is continued.
    SchemaError if an applied file was changed since, or if the warehouse is newer than this code.
    """
    execute(connection, _VERSIONS)
    files = {migration.version: migration for migration in (migrations() if declared is None else declared)}
    if not _missing(connection, files):
        return []
    with nullcontext() if exclusive else _lock(connection):
        fresh = _missing(connection, files)  # another process may have applied them meanwhile
        for migration in fresh:
            _apply(connection, migration)
    return [migration.name for migration in fresh]


def _missing(connection: Connection, files: Mapping[int, Migration]) -> list[Migration]:
    applied = _applied(connection)
    for version, sha256 in applied.items():
        if version not in files:
            raise SchemaError(f"The warehouse has schema version {version}, unknown to this code: deploy newer code")
        if files[version].sha256 != sha256:
            raise SchemaError(
                f"{files[version].name} was changed after it was applied: undo the change and add a new file"
            )
    return [migration for version, migration in sorted(files.items()) if version not in applied]


def _apply(connection: Connection, migration: Migration) -> None:
    for statement in migration.statements():
        renamed = _RENAME.match(statement)
        if renamed is None or not _exists(connection, renamed[1]):  # all other statements may run twice
            execute(connection, statement)
    execute(
        connection,
        f"INSERT INTO SCHEMA_VERSION VALUES ({migration.version}, {literal(migration.name)}, {literal(migration.sha256)}, SYSDATE())",
    )


@contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    # Snowflake commits at every DDL statement, so no transaction can hold the lock. Creating a table is atomic.
    from snowflake.connector.errors import ProgrammingError

    unexplained, announced = 0, False
    while True:
        try:
            execute(connection, f"CREATE TABLE {_LOCK} AS SELECT SYSDATE() AS SINCE")
            break
        except ProgrammingError:
            age = _lock_age(connection)
            unexplained = unexplained + 1 if age is None else 0
            if unexplained > 2:  # once or twice: the holder has just dropped it
                raise
        if age is not None and age > _STALE_SECONDS:
            execute(connection, f"DROP TABLE IF EXISTS {_LOCK}")
            continue
        if not announced:
            get_logger().warning("waiting for another process that migrates the warehouse")
            announced = True
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        execute(connection, f"DROP TABLE IF EXISTS {_LOCK}")


def _lock_age(connection: Connection) -> int | None:
    # Seconds since the lock was taken; None without a lock.
    from snowflake.connector.errors import ProgrammingError

    try:
        return int(query(connection, f"SELECT DATEDIFF('second', SINCE, SYSDATE()) FROM {_LOCK}")[0][0])
    except ProgrammingError:
        return None


def _exists(connection: Connection, table: str) -> bool:
    from snowflake.connector.errors import ProgrammingError

    try:
        query(connection, f"SELECT 1 FROM {table} LIMIT 0")
    except ProgrammingError:
        return False
    return True


def is_migrated(connection: Connection) -> bool:
    """Return True if the warehouse, which has tables, has every migration of this version of the code."""
    return {migration.version for migration in migrations()} <= set(_applied(connection))


def _applied(connection: Connection) -> dict[int, str]:
    return {int(row[0]): str(row[1]) for row in query(connection, "SELECT VERSION, SHA256 FROM SCHEMA_VERSION")}


def ensure_dates(connection: Connection, day: dt.date) -> int:
    """Fill DIM_DATE from the first supported date to the end of the year after ``day``; return its number of days.

    Dates of the star schema may be years back (transactions) or ahead (settlements), and each must join.
    """
    first = trading_days.FIRST_SUPPORTED + _MARGIN
    last = min(dt.date(day.year + 1, 12, 31), trading_days.LAST_SUPPORTED - _MARGIN)
    (row,) = query(connection, "SELECT COUNT(*), MAX(CALENDAR_DATE) FROM DIM_DATE")
    count, latest = int(row[0]), row[1]
    if count and latest >= last:
        return count
    load_dates(connection, latest + dt.timedelta(days=1) if count else first, last)
    return (last - first).days + 1


def load_dates(connection: Connection, first: dt.date, last: dt.date) -> int:
    """Replace the rows of DIM_DATE from ``first`` to ``last``; return the number of days."""
    days = [first + dt.timedelta(days=at) for at in range((last - first).days + 1)]
    frame = pl.DataFrame(
        {
            "CALENDAR_DATE": days,
            "IS_BUSINESS_DAY": [trading_days.is_business_day(day) for day in days],
            "PREVIOUS_BUSINESS_DAY": [trading_days.previous_business_day(day) for day in days],
            "NEXT_BUSINESS_DAY": [trading_days.next_business_day(day) for day in days],
            "CUTOFF_AT": [trading_days.cutoff(day).replace(tzinfo=None) for day in days],
            "YEAR_NUMBER": [day.year for day in days],
            "MONTH_NUMBER": [day.month for day in days],
            "WEEKDAY_NUMBER": [day.isoweekday() for day in days],
            "FINANCIAL_YEAR": [day.year + (day.month > 6) for day in days],
        }
    )
    with Staging(connection) as staging:
        staged = staging.table("DIM_DATE")
        staging.put(staged, frame)
        staging.copy(staged)
        with transaction(connection) as cursor:
            between = f"BETWEEN {literal(first)} AND {literal(last)}"
            cursor.execute(f"DELETE FROM DIM_DATE WHERE CALENDAR_DATE {between}")
            cursor.execute(f"INSERT INTO DIM_DATE SELECT * FROM {staged}")
    return len(days)
