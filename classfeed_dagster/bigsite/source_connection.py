"""Read-only, repeatable-read transactions on bigsite, with COPY into Arrow.

With psycopg 3, rows arrive as COPY's text, which Arrow parses exactly and about five times as fast as objects. Other
PostgreSQL drivers return the same text from a server-side cursor. A test compares the rows of both.

An observer receives every statement, so that tests can list the queries.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import sqlalchemy as sa

from classfeed_dagster.bigsite.unreadable_values import Report, parse_rows, readable_rows
from classfeed_dagster.errors import ConfigurationError, DataError, SourceReadError

_BLOCK = 8 << 20  # bytes of CSV parsed at a time: a compromise between memory and calls
_ROWS = 10_000  # objects fetched at a time without COPY
_SNAPSHOT_ID = re.compile(r"[0-9A-F]+(-[0-9A-F]+)*")
_SESSION = """
SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
       set_config('work_mem', '64MB', true), set_config('jit', 'off', true), transaction_timestamp()
"""


class UnsupportedSourceError(ConfigurationError):
    """bigsite runs on an unsupported database."""


class UnreadableSourceError(DataError):
    """Too many values of bigsite cannot be landed: the whole source is at fault."""


class ReadOnlyTransaction:
    """Statements within one transaction that sees one state of bigsite and cannot write to it.

    With the exported ``snapshot`` of another open transaction, this one sees exactly the same state.
    """

    def __init__(
        self, connection: sa.Connection, observe: Callable[[str], None] | None, snapshot: str | None = None
    ) -> None:
        self._connection = connection
        self._observer = observe
        self.statements: list[str] = []  # texts of the statements so far
        if snapshot is not None:
            # PostgreSQL requires this to be the first statement and accepts no parameter here.
            statement = sa.text(f"SET TRANSACTION SNAPSHOT {_literal(snapshot)}")
            self._observe(str(statement))
            connection.execute(statement)
        self.started_at: dt.datetime = self.rows(sa.text(_SESSION))[0][4].astimezone(dt.UTC)

    def export_snapshot(self) -> str:
        """Return the id with which other transactions see the same state, while this one is open."""
        return str(self.rows(sa.text("SELECT pg_export_snapshot()"))[0][0])

    def rows(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        """Return all rows of a small result."""
        self._observe(str(statement))
        return self._connection.execute(statement).all()

    def stream(self, statement: sa.Executable) -> Iterator[sa.Row[Any]]:
        """Yield the rows of a large result from a server-side cursor."""
        self._observe(str(statement))
        yield from self._connection.execute(statement, execution_options={"yield_per": _ROWS})

    def _observe(self, statement: str) -> None:
        self.statements.append(statement)
        if self._observer is not None:
            self._observer(statement)

    def copy(
        self,
        query: str,
        parameters: Mapping[str, object],
        schema: pa.Schema,
        *,
        table: str = "",
        report: Report | None = None,
    ) -> Generator[pa.RecordBatch, None, None]:
        """Yield the query's rows in batches, typed exactly as ``schema``, in constant memory.

        The text of a NUMERIC becomes a decimal128 digit by digit; an empty string and a null stay distinct. A row of
        ``table`` with a value that its column cannot hold is passed to ``report`` and left out; without ``report`` it
        raises ArrowInvalid.
        """
        self._observe(query)
        driver = self._connection.connection.driver_connection
        if not isinstance(driver, psycopg.Connection):
            yield from self.fetch(query, parameters, schema, table=table, report=report)
            return
        # The query is this package's own text; its values are parameters.
        statement = f"COPY ({query}) TO STDOUT (FORMAT csv)".encode()
        with driver.cursor() as cursor, cursor.copy(statement, parameters) as source:
            for block in _blocks(source):
                yield from _typed(table, block, schema, report)

    def fetch(
        self,
        query: str,
        parameters: Mapping[str, object],
        schema: pa.Schema,
        *,
        table: str = "",
        report: Report | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the batches of ``copy`` through any driver: rows as text, from a server-side cursor.

        bigsite writes the text: a driver's own objects cannot hold every value that a column can.
        """
        import pyarrow.csv as pa_csv  # imported here: commands that read no rows do not need it

        streaming = {"stream_results": True, "max_row_buffer": _ROWS}
        names = [pa.field(name, pa.string()) for name in schema.names]
        text = _as_text(query, schema)
        with contextlib.closing(
            self._connection.exec_driver_sql(text, dict(parameters), execution_options=streaming)
        ) as found:
            for rows in found.partitions(_ROWS):
                texts = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
                block = io.BytesIO()
                batch = pa.RecordBatch.from_arrays(texts, schema=pa.schema(names))
                pa_csv.write_csv(pa.Table.from_batches([batch]), block, pa_csv.WriteOptions(include_header=False))
                yield from _typed(table, block.getvalue(), schema, report)


def _typed(table: str, block: bytes, schema: pa.Schema, report: Report | None) -> list[pa.RecordBatch]:
    try:
        rows = parse_rows(block, schema)
    except pa.ArrowInvalid:
        if report is None:
            raise
        rows = readable_rows(table, block, schema, report)
    return rows.combine_chunks().to_batches()


def _as_text(query: str, schema: pa.Schema) -> str:
    # The words of COPY: a boolean is t or f.
    columns = ", ".join(
        f"CASE WHEN q.c{at} THEN 't' WHEN NOT q.c{at} THEN 'f' END"
        if pa.types.is_boolean(field.type)
        else f"CAST(q.c{at} AS text)"
        for at, field in enumerate(schema)
    )
    return f"SELECT {columns} FROM ({query}) AS q ({', '.join(f'c{at}' for at in range(len(schema)))})"  # noqa: S608


def _literal(snapshot: str) -> str:
    if not _SNAPSHOT_ID.fullmatch(snapshot):
        raise ValueError(f"Invalid PostgreSQL snapshot id: {snapshot!r}")
    return f"'{snapshot}'"


def _blocks(source: psycopg.Copy) -> Iterator[bytes]:
    # COPY's messages are whole rows (PostgreSQL protocol, "COPY Operations"), so a block never ends inside a row.
    block = bytearray()
    while data := source.read():
        block += data
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


@contextlib.contextmanager
def read_only(
    engine: sa.Engine, observe: Callable[[str], None] | None = None, snapshot: str | None = None
) -> Iterator[ReadOnlyTransaction]:
    """Open a READ ONLY, REPEATABLE READ transaction on one connection, and roll it back at the end.

    ``observe`` receives the text of every statement. ``snapshot`` is the result of another transaction's
    ``export_snapshot``. SourceReadError if bigsite fails, UnreadableSourceError if it holds values that cannot be
    landed, UnsupportedSourceError if it is not PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise UnsupportedSourceError(
            f"bigsite on {engine.dialect.name}+{engine.dialect.driver} is unsupported: use a postgresql+psycopg:// URL"
        )
    try:
        with engine.connect().execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        ) as connection:
            yield ReadOnlyTransaction(connection, observe, snapshot)
    except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        sqlstate = getattr(cause, "sqlstate", None)
        state = f", SQLSTATE {sqlstate}" if sqlstate else ""
        raise SourceReadError(
            f"bigsite could not be read ({type(cause).__name__}{state}): nothing was landed. "
            "Check that bigsite is up, its tables match the contract and its user may read every row, then run again."
        ) from error
    except pa.ArrowInvalid as error:
        # The error's text may quote a personal value: only its type is shown.
        raise UnreadableSourceError(
            f"bigsite holds a value that its contract does not allow ({type(error).__name__}): NaN, a number that is "
            "too long or a date beyond the year 9999. Nothing was landed. Correct the row and run again."
        ) from None
