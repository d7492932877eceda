"""What every statement to the warehouse goes through: a DB-API connection, one transaction a change, staged bulk loads.

Nothing here knows Dagster: the connection comes from its Snowflake resource in production and from a local server in
a demo or a test. SQL is what both understand.
"""

# SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import polars as pl


class Cursor(Protocol):
    """The part of a DB-API cursor that is used."""

    @property
    def rowcount(self) -> int | None:
        """Rows changed by the last statement."""
        ...

    def execute(self, command: str, params: Sequence[Any] | None = None) -> Any:
        """Run one statement; ``%s`` for parameters."""
        ...

    def fetchall(self) -> list[Any]:
        """The rows of the last query."""
        ...

    def close(self) -> Any:
        """Let go of it."""
        ...


class Connection(Protocol):
    """The part of a DB-API connection that is used."""

    def cursor(self) -> Any:
        """A new cursor."""
        ...


def query(connection: Connection, statement: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """A query's rows."""
    with _cursor(connection) as cursor:
        cursor.execute(statement, params)
        return [tuple(row) for row in cursor.fetchall()]


def execute(connection: Connection, *statements: str) -> None:
    """Run statements, each on its own."""
    with _cursor(connection) as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def _cursor(connection: Connection) -> Iterator[Cursor]:
    cursor: Cursor = connection.cursor()
    try:
        yield cursor
    finally:
        cursor.close()


@contextmanager
def transaction(connection: Connection) -> Iterator[Cursor]:
    """One transaction: committed at the end, rolled back on any error. No DDL within: Snowflake would commit it."""
    with _cursor(connection) as cursor:
        cursor.execute("BEGIN")
        try:
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK")  # an open failed transaction refuses every further statement
            raise
        cursor.execute("COMMIT")


class Staging:
    """Tables of its own like given ones, filled by PUT and COPY from Parquet: bulk, apart from everyone else's.

    Use as a context manager; its tables are dropped at the end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = secrets.token_hex(6).upper()
        self._stage = f"LOAD_STAGE_{self._id}"
        self._tables: list[str] = []
        self._files = 0
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Staging:
        execute(self._connection, f"CREATE TEMPORARY STAGE {self._stage}")
        return self

    def __exit__(self, *_: object) -> None:
        # The stage is temporary and ends with the session, its files with it; the local server knows no DROP STAGE.
        execute(self._connection, *(f"DROP TABLE IF EXISTS {table}" for table in self._tables))

    def table(self, like: str) -> str:
        """The name of a new, empty staging table with the columns of ``like``.

        Transient, not temporary: the local server's COPY doesn't find temporary tables. The random name keeps
        loads that run at once apart, and a killed load leaves at most rows that nobody reads.
        """
        name = f"STAGED_{like}_{self._id}"
        execute(self._connection, f"CREATE TRANSIENT TABLE {name} LIKE {like}")
        self._tables.append(name)
        return name

    def put(self, table: str, frame: pl.DataFrame) -> None:
        """Upload rows for a staging table, columns matched by name; ``copy`` brings them in."""
        if not frame.height:
            return
        self._rows[table] = self._rows.get(table, 0) + frame.height
        self._files += 1
        with tempfile.TemporaryDirectory(prefix="classfeed-load-") as folder:
            path = Path(folder) / f"{self._files:06d}.parquet"
            frame.rename(str.upper).write_parquet(path, compression="zstd")
            put = f"PUT 'file://{path}' @{self._stage}/{table}/ AUTO_COMPRESS=FALSE OVERWRITE=TRUE"
            execute(self._connection, put)

    def copy(self, table: str) -> int:
        """Bring everything uploaded for a staging table into it, in one COPY; the number of rows."""
        rows = self._rows.get(table, 0)
        if rows:
            execute(
                self._connection,
                f"COPY INTO {table} FROM @{self._stage}/{table}/ FILE_FORMAT=(TYPE=PARQUET) "
                "MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE FORCE=TRUE",
            )
        return rows


def literal(value: str | dt.date | dt.datetime | Decimal | int | bool | None) -> str:
    """A value as SQL. Instants become UTC without a zone."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, dt.datetime):
        return f"'{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}'::TIMESTAMP_NTZ"
    if isinstance(value, dt.date):
        return f"'{value.isoformat()}'::DATE"
    if isinstance(value, (Decimal, int)):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
