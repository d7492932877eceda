"""A real local warehouse, reached by the real Snowflake connector; a fresh schema a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from classfeed_dagster.warehouse import server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def warehouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("warehouse")
    try:
        yield server.start(home)
    finally:
        server.stop(home)


@pytest.fixture
def empty_warehouse(warehouse_server: dict[str, Any]) -> Iterator[Any]:
    """A connection to a schema without tables."""
    import snowflake.connector

    connection = snowflake.connector.connect(**{**warehouse_server, "schema": f"FEED_{next(_numbers)}"})
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def warehouse(empty_warehouse: Any) -> Any:
    """A connection to a schema with the warehouse's tables."""
    from classfeed_dagster.warehouse.schema import apply_schema

    apply_schema(empty_warehouse)
    return empty_warehouse
