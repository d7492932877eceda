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
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from classfeed_dagster.errors import TemporaryError


class LoadDiffersError(TemporaryError):
    """A table doesn't hold what was put into it: rows lost, doubled or altered on the way."""


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


@dataclass(slots=True)
class _Uploaded:
    """What was uploaded for a table: rows, and the exact sum of every decimal column."""

    rows: int = 0
    sums: dict[str, Decimal] = field(default_factory=dict)

    def add(self, frame: pl.DataFrame) -> None:
        self.rows += frame.height
        for name, dtype in frame.schema.items():
            if isinstance(dtype, pl.Decimal):
                total: Decimal | None = frame.select(pl.col(name).cast(pl.Decimal(38, dtype.scale)).sum()).item()
                column = name.upper()
                self.sums[column] = self.sums.get(column, Decimal(0)) + (total or Decimal(0))


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
        self._uploaded: dict[str, _Uploaded] = {}

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
        self._uploaded[name] = _Uploaded()
        return name

    def put(self, table: str, frame: pl.DataFrame) -> None:
        """Upload rows for a staging table, columns matched by name; ``copy`` brings them in."""
        if not frame.height:
            return
        self._uploaded[table].add(frame)
        self._files += 1
        with tempfile.TemporaryDirectory(prefix="classfeed-load-") as folder:
            path = Path(folder) / f"{self._files:06d}.parquet"
            frame.rename(str.upper).write_parquet(path, compression="zstd")
            put = f"PUT 'file://{path}' @{self._stage}/{table}/ AUTO_COMPRESS=FALSE OVERWRITE=TRUE"
            execute(self._connection, put)

    def copy(self, table: str) -> int:
        """Bring everything uploaded for a staging table into it, in one COPY; the number of rows.

        LoadDiffersError if the table then doesn't hold just that.
        """
        if rows := self._uploaded[table].rows:
            with _cursor(self._connection) as cursor:
                cursor.execute(
                    f"COPY INTO {table} FROM @{self._stage}/{table}/ FILE_FORMAT=(TYPE=PARQUET) "
                    "MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE FORCE=TRUE"
                )
                self.prove(cursor, table, table)
        return rows

    def prove(self, cursor: Cursor, staged: str, table: str, where: str = "") -> None:
        """LoadDiffersError unless the rows of ``table`` are as many and add up to the cent as those uploaded for
        ``staged``: every decimal column's sum.
        """
        uploaded = self._uploaded[staged]
        columns = sorted(uploaded.sums)
        # Snowflake's SUM of a NUMBER is exact; the local server's is a double: the cast gives the column's scale back.
        sums = "".join(f", COALESCE(SUM({column})::NUMBER(38,6), 0::NUMBER(38,6))" for column in columns)
        cursor.execute(f"SELECT COUNT(*){sums} FROM {table} {where}")  # noqa: S608  # names of this package's tables
        (found,) = cursor.fetchall()
        expected = (uploaded.rows, *(uploaded.sums[column] for column in columns))
        wrong = [
            f"{name} {is_there} instead of {due}"
            for name, is_there, due in zip(("rows", *columns), found, expected, strict=True)
            if is_there != due
        ]
        if wrong:
            raise LoadDiffersError(f"{table} doesn't hold what was uploaded for it: {'; '.join(wrong)}; load again")


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
