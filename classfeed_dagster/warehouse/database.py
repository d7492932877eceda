"""Access to the warehouse: statements, transactions and staged bulk loads over a DB-API connection.

The connection is Snowflake's in production and a local server's in a demo or a test. The SQL is valid for both.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import polars as pl

from classfeed_dagster.errors import TemporaryError

if TYPE_CHECKING:
    from snowflake.connector.cursor import SnowflakeCursor

Cursor: TypeAlias = "SnowflakeCursor"


class Connection(Protocol):
    """DB-API connection: Snowflake's, or a view of the local warehouse's file."""

    def cursor(self) -> Any:
        """Open a cursor."""
        ...


class LoadDiffersError(TemporaryError):
    """A table differs from the uploaded rows: some were lost, duplicated or altered."""


def query(connection: Connection, statement: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement, params)
        return [tuple(row) for row in cursor.fetchall()]


def execute(connection: Connection, *statements: str) -> None:
    """Run statements one by one."""
    with closing(connection.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)


# Transactions that find nothing to delete take no lock, and each would insert its rows. So every transaction first
# updates the row of the first migration, which Snowflake locks until the transaction ends. Its instant moves by a
# microsecond, since the local server locks no row whose values stay.
_LOCK = "UPDATE SCHEMA_VERSION SET APPLIED_AT = DATEADD('microsecond', 1, APPLIED_AT) WHERE VERSION = 1"


@contextmanager
def transaction(connection: Connection) -> Iterator[Cursor]:
    """Open a transaction: committed at the end, rolled back on any error. Without DDL, which Snowflake would commit.

    One transaction writes at a time. Another waits for its end, and then reads what it wrote.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute(_LOCK)
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK")  # a failed open transaction refuses all further statements
            raise
        cursor.execute("COMMIT")


@dataclass(slots=True)
class _Upload:
    """Uploaded rows of a table, with the exact sum of each decimal column."""

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
    """Staging tables, bulk-loaded by PUT and COPY from Parquet and private to one load.

    A context manager: the tables are dropped at the end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = secrets.token_hex(6).upper()
        self._stage = f"LOAD_STAGE_{self._id}"
        self._tables: list[str] = []
        self._files = 0
        self._uploaded: dict[str, _Upload] = {}

    def __enter__(self) -> Staging:
        execute(self._connection, f"CREATE TEMPORARY STAGE {self._stage}")
        return self

    def __exit__(self, *_: object) -> None:
        # The temporary stage and its files end with the session; the local server has no DROP STAGE.
        execute(self._connection, *(f"DROP TABLE IF EXISTS {table}" for table in self._tables))

    def table(self, like: str) -> str:
        """Create an empty staging table with the columns of ``like``; return its name.

        Transient, not temporary: the local server's COPY does not find temporary tables. The random name separates
        concurrent loads. After a killed load there are at most unused rows.
        """
        name = f"STAGED_{like}_{self._id}"
        execute(self._connection, f"CREATE TRANSIENT TABLE {name} LIKE {like}")
        self._tables.append(name)
        self._uploaded[name] = _Upload()
        return name

    def put(self, table: str, frame: pl.DataFrame) -> None:
        """Upload rows for a staging table, with columns matched by name; ``copy`` loads them."""
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
        """Load all uploaded rows of a staging table in one COPY; return their number.

        LoadDiffersError if the table then differs from the uploaded rows.
        """
        if rows := self._uploaded[table].rows:
            with closing(self._connection.cursor()) as cursor:
                cursor.execute(
                    f"COPY INTO {table} FROM @{self._stage}/{table}/ FILE_FORMAT=(TYPE=PARQUET) "
                    "MATCH_BY_COLUMN_NAME=CASE_INSENSITIVE FORCE=TRUE"
                )
                self.prove(cursor, table, table)
        return rows

    def prove(self, cursor: Cursor, staged: str, table: str, condition: str = "") -> None:
        """Raise LoadDiffersError unless ``table`` has the row count and decimal sums of the upload for ``staged``."""
        uploaded = self._uploaded[staged]
        columns = sorted(uploaded.sums)
        # Snowflake's SUM of a NUMBER is exact. The local server sums doubles unless the argument is a cast.
        sums = "".join(f", COALESCE(SUM({column}::NUMBER(38,6)), 0::NUMBER(38,6))" for column in columns)
        cursor.execute(f"SELECT COUNT(*){sums} FROM {table} {condition}")  # noqa: S608  # names of this package's tables
        (row,) = cursor.fetchall()
        expected = (uploaded.rows, *(uploaded.sums[column] for column in columns))
        wrong = [
            f"{name} {actual} instead of {value}"
            for name, actual, value in zip(("rows", *columns), row, expected, strict=True)
            if actual != value
        ]
        if wrong:
            raise LoadDiffersError(f"{table} differs from the uploaded rows: {'; '.join(wrong)}. Load the date again")


def literal(value: str | dt.date | dt.datetime | Decimal | int | bool | None) -> str:
    """Return a value as an SQL literal. Instants become UTC without a zone."""
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
