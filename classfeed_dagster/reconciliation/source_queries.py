"""Queries of bigsite for reconciliation: digests per portfolio first, then rows of portfolios that differ."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
from classfeed_dagster.reconciliation.record_scope import EVIDENCE
from classfeed_dagster.reconciliation.records import RecordKind


class Bigsite:
    """bigsite within one repeatable-read transaction. ``asked_at``: its own clock at the start, UTC."""

    def __init__(self, cursor: Any, asked_at: dt.datetime) -> None:
        self._cursor = cursor
        self.asked_at = asked_at

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return all rows of a small result."""
        return list(self._cursor.execute(query).fetchall())

    def any_of(self, numbers: Sequence[str]) -> str:
        """Return the SQL condition that a text is one of ``numbers``."""
        from psycopg import sql

        return f"= ANY({sql.Literal(list(numbers)).as_string(self._cursor)}::text[])"

    def digests(self, expected: ExpectedRecords, kind: RecordKind, path: Path) -> None:
        """Write number, rows and digests per portfolio, computed in PostgreSQL, as Parquet."""
        names = ["portfolio_number", "n", "one", "two"]
        self._copy(expected.digests(kind), names, path)

    def rows(self, expected: ExpectedRecords, kind: RecordKind, numbers: Sequence[str], path: Path) -> None:
        """Write the records of some portfolios, all text, with evidence, as Parquet."""
        self._copy(expected.rows(kind, self.any_of(numbers)), [*kind.names, *EVIDENCE], path)

    def _copy(self, query: str, names: Sequence[str], path: Path) -> None:
        schema = pa.schema([(name, pa.string()) for name in names])
        text = path.with_suffix(".csv")
        with text.open("wb") as target, self._cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as copy:
            for block in copy:
                target.write(block)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            if text.stat().st_size:
                reader = pc.open_csv(
                    text,
                    read_options=pc.ReadOptions(column_names=list(names), block_size=1 << 22),
                    parse_options=pc.ParseOptions(newlines_in_values=True),
                    convert_options=pc.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()),
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                        null_values=[""],
                    ),
                )
                for batch in reader:
                    writer.write_batch(batch)
        text.unlink()


@contextmanager
def open_source(engine: sa.Engine) -> Iterator[Bigsite]:
    """Open bigsite read only, in one state for all queries. SourceReadError if it cannot be read."""
    import psycopg

    try:
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)  # noqa: S101  # bigsite is PostgreSQL, its driver psycopg 3
            with raw.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute("SET LOCAL DateStyle = 'ISO, YMD'")
                row = cursor.execute("SELECT now()").fetchone()
                assert row is not None  # noqa: S101
                yield Bigsite(cursor, row[0].astimezone(dt.UTC))
            connection.rollback()
    except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
        raise SourceReadError(
            f"bigsite could not be read ({type(error).__name__}): nothing was reconciled. "
            "Check its connection and run again."
        ) from error
