from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import snowflake.connector
import structlog

from classfeed_dagster.warehouse import schema
from classfeed_dagster.warehouse.database import Connection, execute, literal, query
from classfeed_dagster.warehouse.schema import Migration, SchemaError, apply_schema, load_dates, migrations


def test_schema_is_applied_once(empty_warehouse: Any) -> None:
    assert apply_schema(empty_warehouse) == [migration.name for migration in migrations()]
    assert apply_schema(empty_warehouse) == []
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_schema_amounts_are_exact() -> None:
    for migration in migrations():
        for forbidden in ("FLOAT", "DOUBLE", "REAL"):
            assert forbidden not in " ".join(migration.statements()).upper().split()
        amounts = {column for column in ("UNITS", "AMOUNT", "PRICE", "BALANCE") if column in migration.text}
        assert "NUMBER(38,6)" in migration.text or "VIEW" in migration.text or not amounts


def test_file_changed_after_it_was_applied_is_refused(empty_warehouse: Any) -> None:
    first = Migration(1, "0001_a.sql", "CREATE TABLE A (X NUMBER(1,0)); -- a comment; with a semicolon")
    assert apply_schema(empty_warehouse, [first]) == ["0001_a.sql"]
    with pytest.raises(SchemaError, match="changed after it was applied"):
        apply_schema(empty_warehouse, [Migration(1, "0001_a.sql", "CREATE TABLE B (X NUMBER(1,0))")])
    with pytest.raises(SchemaError, match="deploy newer code"):
        apply_schema(empty_warehouse, [])


def test_movements_of_an_older_warehouse_are_kept_behind_the_view(empty_warehouse: Any) -> None:
    apply_schema(empty_warehouse, [migration for migration in migrations() if migration.version < 5])
    names = "FEED, BUSINESS_DATE, PORTFOLIO_KEY, PORTFOLIO_NUMBER, TRANSACTION_ID, TRANSACTION_TYPE, TRANSACTION_DATE"
    values = "'f', '2025-04-17', 'k', 'SW1', 'T1', 'BUY', '2025-04-17', '2025-04-17', 'm', 'c'"
    query(
        empty_warehouse,
        f"INSERT INTO FACT_MOVEMENT ({names}, RECORDED_AT, MESSAGE_ID, CORRELATION_ID) VALUES ({values})",
    )
    apply_schema(empty_warehouse)
    for table in ("DELIVERED_MOVEMENT", "FACT_MOVEMENT", "MOVEMENT_STANDING"):
        assert query(empty_warehouse, f"SELECT TRANSACTION_ID FROM {table}") == [("T1",)], table


def test_schema_of_a_new_warehouse_is_applied_by_one_of_three_at_once(
    warehouse_server: dict[str, Any], empty_warehouse: Any
) -> None:
    """As the reconciliations of three feeds do on a deployment's first date."""
    (name,) = query(empty_warehouse, "SELECT CURRENT_SCHEMA()")[0]

    def apply(_: int) -> list[str]:
        with snowflake.connector.connect(**{**warehouse_server, "schema": name}) as connection:
            return apply_schema(connection)

    with ThreadPoolExecutor(3) as pool:
        names = [file for applied in pool.map(apply, range(3)) for file in applied]
    assert names == [migration.name for migration in migrations()]
    assert query(empty_warehouse, "SELECT COUNT(*) FROM DELIVERED_MOVEMENT") == [(0,)]


def test_migrations_applied_while_waiting_are_not_applied_again(
    warehouse_server: dict[str, Any], empty_warehouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process has read which migrations are missing; the first applies them before it takes the lock."""
    (name,) = query(empty_warehouse, "SELECT CURRENT_SCHEMA()")[0]
    take = schema._lock

    def late(connection: Connection) -> AbstractContextManager[None]:
        monkeypatch.setattr(schema, "_lock", take)
        with snowflake.connector.connect(**{**warehouse_server, "schema": name}) as first:
            assert len(apply_schema(first)) == len(migrations())
        return take(connection)

    monkeypatch.setattr(schema, "_lock", late)
    assert apply_schema(empty_warehouse) == []
    assert query(empty_warehouse, "SELECT COUNT(*) FROM FACT_MOVEMENT") == [(0,)]


@pytest.mark.parametrize(
    "done", [1, 3, pytest.param(0, marks=pytest.mark.nightly), pytest.param(2, marks=pytest.mark.nightly)]
)
def test_interrupted_migration_is_continued(empty_warehouse: Any, done: int) -> None:
    """Stop after each statement of the migration that renames a table; the lock of the killed process is old."""
    *earlier, renaming = migrations()
    apply_schema(empty_warehouse, earlier)
    execute(empty_warehouse, *renaming.statements()[:done])
    execute(empty_warehouse, "CREATE TABLE SCHEMA_MIGRATION AS SELECT DATEADD('second', -301, SYSDATE()) AS SINCE")
    assert apply_schema(empty_warehouse) == [renaming.name]
    assert query(empty_warehouse, "SELECT COUNT(*) FROM FACT_MOVEMENT") == [(0,)]
    assert apply_schema(empty_warehouse) == []


def test_migration_waits_for_another_process(empty_warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(empty_warehouse, "CREATE TABLE SCHEMA_MIGRATION AS SELECT SYSDATE() AS SINCE")
    waits: list[float] = []

    def finish(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            execute(empty_warehouse, "DROP TABLE SCHEMA_MIGRATION")

    monkeypatch.setattr("classfeed_dagster.warehouse.schema.time.sleep", finish)
    with structlog.testing.capture_logs() as logs:
        assert len(apply_schema(empty_warehouse)) == len(migrations())
    assert len(waits) == 2
    assert [entry["event"] for entry in logs] == ["waiting for another process that migrates the warehouse"]


def test_migration_with_the_warehouse_to_itself_needs_no_lock(
    empty_warehouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process's lock must not delay the local warehouse's next user."""
    execute(empty_warehouse, "CREATE TABLE SCHEMA_MIGRATION AS SELECT SYSDATE() AS SINCE")
    monkeypatch.setattr("classfeed_dagster.warehouse.schema.time.sleep", pytest.fail)
    assert len(apply_schema(empty_warehouse, exclusive=True)) == len(migrations())


def test_lock_that_cannot_be_taken_is_an_error(empty_warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classfeed_dagster.warehouse.schema._LOCK", "MISSING.SCHEMA_MIGRATION")
    monkeypatch.setattr("classfeed_dagster.warehouse.schema.time.sleep", lambda _: None)
    with pytest.raises(snowflake.connector.errors.ProgrammingError):
        apply_schema(empty_warehouse)


def test_warehouse_dates_are_read_back(warehouse: Any) -> None:
    assert load_dates(warehouse, dt.date(2025, 4, 17), dt.date(2025, 4, 26)) == 10
    assert load_dates(warehouse, dt.date(2025, 4, 17), dt.date(2025, 4, 26)) == 10
    assert query(warehouse, "SELECT COUNT(*) FROM DIM_DATE") == [(10,)]
    (easter,) = query(
        warehouse,
        "SELECT IS_BUSINESS_DAY, PREVIOUS_BUSINESS_DAY, NEXT_BUSINESS_DAY, CUTOFF_AT, WEEKDAY_NUMBER, FINANCIAL_YEAR FROM DIM_DATE "
        "WHERE CALENDAR_DATE = '2025-04-18'::DATE",
    )
    assert easter == (
        False,
        dt.date(2025, 4, 17),
        dt.date(2025, 4, 22),
        dt.datetime.fromisoformat("2025-04-18T14:00"),
        5,
        2025,
    )


HOSTILE = [
    "'; DROP TABLE DIM_DATE; --",
    "\\'; SELECT 1; --",
    "\\",
    "''",
    "$$x$$",
    "%s %(a)s",
    "two\nlines",
    "é\u202e名",
]


@pytest.mark.parametrize(
    "value", [*HOSTILE, "O'Brien & co", "back\\slash '", "50 %", None, dt.date(2025, 1, 2), True, 7]
)
def test_literals_are_read_back_unchanged(empty_warehouse: Any, value: Any) -> None:
    assert query(empty_warehouse, f"SELECT {literal(value)}") == [(value,)]
