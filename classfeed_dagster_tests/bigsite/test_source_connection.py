"""The transaction that reads bigsite writes nothing, sees one state, and reports errors without data."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import source_connection
from classfeed_dagster.bigsite.source_connection import UnreadableSourceError, UnsupportedSourceError, read_only
from classfeed_dagster.bigsite.unreadable_values import UnreadableValue
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite

_COUNT = sa.text("SELECT count(*) FROM bigsite.portfolio")


def test_source_session_sees_one_moment_and_cannot_write(bigsite_engine: sa.Engine) -> None:
    bigsite = Bigsite(bigsite_engine)
    bigsite.portfolio()
    bigsite.save()
    with read_only(bigsite_engine) as reading:
        assert reading.rows(_COUNT)[0][0] == 1
        bigsite.portfolio()
        bigsite.save()
        assert reading.rows(_COUNT)[0][0] == 1
        output = reading.rows(sa.text("SELECT current_setting('transaction_isolation'), current_setting('TimeZone')"))
        assert tuple(output[0]) == ("repeatable read", "UTC")
        assert len(reading.statements) == 4
    with read_only(bigsite_engine) as reading:
        assert reading.rows(_COUNT)[0][0] == 2
    with (
        pytest.raises(SourceReadError, match=r"ReadOnlySqlTransaction, SQLSTATE 25006"),
        read_only(bigsite_engine) as it,
    ):
        it.rows(sa.text("DELETE FROM bigsite.portfolio RETURNING 1"))
    with bigsite_engine.begin() as connection:  # the pool's connections are unchanged
        connection.execute(sa.text("UPDATE bigsite.portfolio SET portfolio_name = 'x'"))
        assert connection.execute(sa.text("SELECT current_setting('TimeZone')")).scalar_one() is not None


def test_query_returns_many_rows_in_batches_and_nulls_as_none(bigsite_engine: sa.Engine) -> None:
    fields: list[pa.Field[Any]] = [pa.field("n", pa.int32()), pa.field("text", pa.string())]
    schema = pa.schema(fields)
    with read_only(bigsite_engine) as reading:
        query = "SELECT n, repeat('x', 100) FROM generate_series(1, %(last)s) AS n"
        batches = list(reading.copy(query, {"last": 100_000}, schema))
        assert len(batches) > 1
        assert sum(batch.num_rows for batch in batches) == 100_000
        assert batches[-1].column(0)[-1].as_py() == 100_000
        assert {batch.schema.equals(schema) for batch in batches} == {True}
        assert list(reading.copy(query, {"last": 0}, schema)) == []


def test_object_reader_equals_copy_to_the_digit(bigsite_engine: sa.Engine) -> None:
    types: dict[str, pa.DataType] = {
        "id": pa.int64(),
        "whole": pa.int32(),
        "day": pa.date32(),
        "instant": pa.timestamp("us", "UTC"),
        "text": pa.string(),
        "money": pa.decimal128(18, 2),
        "units": pa.decimal128(38, 6),
        "flag": pa.bool_(),
    }
    schema = pa.schema(list(types.items()))
    query = """SELECT n::bigint * 4000000000, n, DATE '2023-01-03' - n, '2023-01-03 13:00:00.000001Z'::timestamptz
           + n * interval '1 minute', CASE mod(n, 4) WHEN 0 THEN '' WHEN 1 THEN NULL WHEN 2 THEN E'"a",\nb' ELSE 'é' END,
       CASE WHEN mod(n, 7) = 0 THEN NULL ELSE (9999999999999999.99 - n / 100.0)::numeric(18, 2) END,
       (n / 3.0)::numeric(38, 6) * 1000000000000000000000000, mod(n, 2) = 0
FROM generate_series(1, %(last)s::int) AS n WHERE DATE '2023-01-03' <= %(day)s ORDER BY n"""
    parameters = {"last": 25_000, "day": dt.date(2023, 1, 3)}
    with read_only(bigsite_engine) as reading:
        copied = pa.Table.from_batches(reading.copy(query, parameters, schema))
        fetched = list(reading.fetch(query, parameters, schema))
        assert pa.Table.from_batches(fetched).equals(copied)
        assert len(fetched) == 3
        assert list(reading.fetch(query, {**parameters, "last": 0}, schema)) == []


def test_readers_report_the_same_unreadable_rows(bigsite_engine: sa.Engine) -> None:
    types: dict[str, pa.DataType] = {
        "portfolio_id": pa.int64(),
        "trade_id": pa.int64(),
        "price": pa.decimal128(18, 6),
        "trade_date": pa.date32(),
        "recorded_at": pa.timestamp("us", "UTC"),
        "undoes_exactly": pa.bool_(),
        "text": pa.string(),
    }
    schema = pa.schema(list(types.items()))
    query = """SELECT 1, n, CASE n WHEN 2 THEN 'NaN' WHEN 3 THEN 1e15 ELSE n END::numeric,
       CASE n WHEN 4 THEN 'infinity' WHEN 5 THEN '20020-01-01' ELSE '2023-01-03' END::date,
       CASE n WHEN 6 THEN '-infinity' WHEN 7 THEN '0044-03-15 BC' ELSE '2023-01-03 13:00Z' END::timestamptz,
       CASE n WHEN 1 THEN TRUE WHEN 8 THEN FALSE END, CASE n WHEN 1 THEN '' WHEN 8 THEN 'a "b",' || chr(10) END
FROM generate_series(1, %(last)s::int) AS n ORDER BY 2"""
    ways: list[tuple[list[dict[str, Any]], list[str]]] = []
    with read_only(bigsite_engine) as reading:
        for read in (reading.copy, reading.fetch):
            reported: list[UnreadableValue] = []
            rows = read(query, {"last": 8}, schema, table="trade", report=reported.append)
            ways.append((pa.Table.from_batches(rows, schema).to_pylist(), [value.reason for value in reported]))
    assert ways[0] == ways[1]
    read_rows, reasons = ways[0]
    assert [row["trade_id"] for row in read_rows] == [1, 8]
    assert sorted(reason.split()[6] for reason in reasons) == ["2", "3", "4", "5", "6", "7"]
    with pytest.raises(UnreadableSourceError), read_only(bigsite_engine) as reading:
        list(reading.fetch(query, {"last": 8}, schema))


def test_copy_blocks_end_at_rows_and_lose_nothing(bigsite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_connection, "_BLOCK", 50)
    copy = "COPY (SELECT n, E'a\\n' || n FROM generate_series(1, 3000) n) TO STDOUT (FORMAT csv)"
    with bigsite_engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.cursor() as cursor, cursor.copy(copy) as source:
            blocks = list(source_connection._blocks(source))
    assert b"".join(blocks) == "".join(f'{n},"a\n{n}"\n' for n in range(1, 3001)).encode()
    assert len(blocks) > 500
    assert all(block.endswith(b'"\n') for block in blocks)


def test_unreachable_bigsite_is_an_error_without_its_address() -> None:
    engine = sa.create_engine("postgresql+psycopg://someone:secret@/x?host=/nowhere/at/all")
    with pytest.raises(SourceReadError, match="Check that bigsite is up") as caught, read_only(engine):
        pass
    assert "secret" not in str(caught.value)


def test_database_other_than_postgresql_is_refused() -> None:
    with pytest.raises(UnsupportedSourceError, match=r"sqlite\+pysqlite"), read_only(sa.create_engine("sqlite://")):
        pass


def test_snapshot_id_that_no_transaction_exported_is_refused(bigsite_engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="Invalid PostgreSQL snapshot id"), read_only(bigsite_engine, None, "'"):
        pass
    with pytest.raises(SourceReadError, match="could not be read"), read_only(bigsite_engine, None, "0000-1"):
        pass
