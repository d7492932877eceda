"""Fixtures of the source's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster_tests.conftest import fresh_bigsite


@pytest.fixture(scope="session")
def _changing_engine(postgres_url: str) -> Iterator[sa.Engine]:
    with fresh_bigsite(postgres_url) as engine:
        yield engine


@pytest.fixture
def changing_bigsite(_changing_engine: sa.Engine) -> sa.Engine:
    """bigsite's tables, fresh and without rows, to apply DDL to. One database serves all tests: making one is slow."""
    with _changing_engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
    return _changing_engine


@pytest.fixture
def asked(changing_bigsite: sa.Engine) -> Iterator[list[str]]:
    """Every statement that ``changing_bigsite`` is sent during the test."""
    statements: list[str] = []

    def listen(*args: Any) -> None:
        statements.append(args[2])

    sa.event.listen(changing_bigsite, "before_cursor_execute", listen)
    yield statements
    sa.event.remove(changing_bigsite, "before_cursor_execute", listen)
