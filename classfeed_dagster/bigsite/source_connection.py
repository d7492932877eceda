"""One read-only, repeatable-read transaction on bigsite, and COPY from it straight into Arrow.

Through psycopg 3 rows travel as COPY's text, which Arrow parses: exact, and some five times as fast as objects. Any
other driver of PostgreSQL hands over objects, from a cursor on the server; a test proves both ways equal.

Every statement passes through ``rows`` or ``copy``, which tell an observer: tests list what was asked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from classfeed_dagster.errors import ConfigurationError, SourceReadError

_BLOCK = 4 << 20  # bytes of CSV parsed at a time: a compromise of memory and calls
_ROWS = 10_000  # objects fetched at a time where there is no COPY
_STATE = re.compile(r"[0-9A-F]+(-[0-9A-F]+)*")
_SESSION = """
SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
       set_config('work_mem', '64MB', true), set_config('jit', 'off', true), transaction_timestamp()
"""


class UnsupportedSourceError(ConfigurationError):
    """The database's kind can't be read yet."""


class ReadOnlyTransaction:
    """Statements within one transaction that sees one state of bigsite and can't write to it.

    ``state`` is that of another transaction, which is still open: this one then sees exactly the same.
    """

    def __init__(
        self, connection: sa.Connection, observe: Callable[[str], None] | None, state: str | None = None
    ) -> None:
        self._connection = connection
        self._observer = observe
        self.statements: list[str] = []  # the texts of what was asked so far
        if state is not None:
            # The first statement, or PostgreSQL refuses; it takes no parameter here.
            statement = sa.text(f"SET TRANSACTION SNAPSHOT {_literal(state)}")
            self._observe(str(statement))
            connection.execute(statement)
        self.started_at: dt.datetime = self.rows(sa.text(_SESSION))[0][4].astimezone(dt.UTC)

    def state(self) -> str:
        """The name of what this transaction sees, for others to see the same while it is open."""
        return str(self.rows(sa.text("SELECT pg_export_snapshot()"))[0][0])

    def rows(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        """All rows of a small result."""
        self._observe(str(statement))
        return self._connection.execute(statement).all()

    def stream(self, statement: sa.Executable) -> Iterator[sa.Row[Any]]:
        """The rows of a large result one by one, from a cursor on the server."""
        self._observe(str(statement))
        yield from self._connection.execute(statement, execution_options={"yield_per": _ROWS})

    def _observe(self, statement: str) -> None:
        self.statements.append(statement)
        if self._observer is not None:
            self._observer(statement)

    def copy(self, query: str, parameters: Mapping[str, object], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The query's rows in batches, typed exactly as ``schema`` says; constant memory however many there are.

        The text of a NUMERIC goes into decimal128 digit by digit; an empty string and a null stay apart.
        """
        self._observe(query)
        driver = self._connection.connection.driver_connection
        if not isinstance(driver, psycopg.Connection):
            yield from self.fetch(query, parameters, schema)
            return
        # The query is this package's own text; its values travel as parameters.
        statement = f"COPY ({query}) TO STDOUT (FORMAT csv)".encode()
        with driver.cursor() as cursor, cursor.copy(statement, parameters) as source:
            text = _CopyText(source)
            if text.empty():
                return
            source_file: Any = pa.PythonFile(text, mode="r")  # the stubs know only files with names
            yield from pa_csv.open_csv(
                source_file,
                read_options=pa_csv.ReadOptions(column_names=schema.names, block_size=_BLOCK),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=schema,
                    null_values=[""],
                    true_values=["t"],
                    false_values=["f"],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )

    def fetch(self, query: str, parameters: Mapping[str, object], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """What ``copy`` returns, through any driver: rows as objects, from a cursor on the server."""
        streaming = {"stream_results": True, "max_row_buffer": _ROWS}
        found = self._connection.exec_driver_sql(query, dict(parameters), execution_options=streaming)
        for rows in found.partitions(_ROWS):
            values = zip(*rows, strict=True)
            columns = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _literal(state: str) -> str:
    if not _STATE.fullmatch(state):
        raise ValueError(f"not the name of a PostgreSQL snapshot: {state!r}")
    return f"'{state}'"


class _CopyText(io.RawIOBase):
    # COPY's blocks as a file for Arrow's CSV reader.

    def __init__(self, source: psycopg.Copy) -> None:
        self._source = source
        self._pending = bytearray(source.read())

    def empty(self) -> bool:
        return not self._pending

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        pending = self._pending
        while size < 0 or len(pending) < size:
            block = self._source.read()
            if not block:
                break
            pending += block
        size = len(pending) if size < 0 else size
        taken = bytes(memoryview(pending)[:size])
        del pending[:size]
        return taken


@contextlib.contextmanager
def read_only(
    engine: sa.Engine, observe: Callable[[str], None] | None = None, state: str | None = None
) -> Iterator[ReadOnlyTransaction]:
    """A transaction that is READ ONLY and REPEATABLE READ, on one connection, rolled back at the end.

    ``observe`` is told the text of every statement. ``state`` is that of another transaction: see ``state()``. Raises
    SourceReadError if bigsite fails, UnsupportedSourceError if it is not PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        raise UnsupportedSourceError(
            f"bigsite on {engine.dialect.name}+{engine.dialect.driver} can't be read: use a postgresql+psycopg:// URL"
        )
    try:
        with engine.connect().execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        ) as connection:
            yield ReadOnlyTransaction(connection, observe, state)
    except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        state = getattr(cause, "sqlstate", None)
        raise SourceReadError(
            f"bigsite could not be read ({type(cause).__name__}{f', SQLSTATE {state}' if state else ''}): nothing was "
            "landed. Check that bigsite is up and its tables are as the contract says, and run again."
        ) from error
    except pa.ArrowInvalid as error:
        # Its text may quote the value, which may be personal: the cause is not shown, only that there is one.
        raise SourceReadError(
            f"bigsite holds a value that its contract does not admit ({type(error).__name__}), such as NaN, a number "
            "that is too long or a date beyond the year 9999: nothing was landed. Mend the row and run again."
        ) from None
