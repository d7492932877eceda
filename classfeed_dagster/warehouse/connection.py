"""Connection to the warehouse: Dagster's Snowflake resource with a key pair, or the local server on a laptop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.local import snowflake_server as server
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.warehouse.database import Connection
from classfeed_dagster.warehouse.schema import apply_schema, is_migrated

if TYPE_CHECKING:
    import duckdb

APPLICATION = "classfeed"  # in the tag of every statement
# Formats by which dates are read and digests computed: Snowflake's defaults, which an account or a user may override.
_SESSION = {
    "AUTOCOMMIT": True,
    "TIMEZONE": "UTC",
    "DATE_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
}
# Arguments without a field in Dagster's resource are passed to the connector unchanged.
_EXTRA = ("host", "port", "protocol", "network_timeout", "session_parameters")


class WarehouseNotConfiguredError(ConfigurationError):
    """The settings do not name Snowflake, outside a laptop."""


def query_tag(tag: Mapping[str, str] | None) -> str:
    """Return the tag of every statement, by which Snowflake's query history sums the credits of a date."""
    return json.dumps({"app": APPLICATION, **(tag or {})}, sort_keys=True)


def connection_arguments(settings: Settings, tag: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the arguments of Dagster's SnowflakeResource; without an account, those of the local server.

    The local server is started if necessary. WarehouseNotConfiguredError if required settings are missing.
    """
    if settings.snowflake_account is None:
        if settings.env is not Environment.LOCAL:
            raise WarehouseNotConfiguredError(
                f"CLASSFEED_SNOWFLAKE_ACCOUNT is not set, and {settings.env} has no local server: set the "
                "CLASSFEED_SNOWFLAKE_ variables (see docs/settings.md)"
            )
        local = server.start(settings.home)
        extra = {name: local.pop(name) for name in _EXTRA if name in local}
        return {**local, "additional_snowflake_connection_args": extra}
    missing = [
        f"CLASSFEED_SNOWFLAKE_{name.upper()}"
        for name, value in (("user", settings.snowflake_user), ("private_key", settings.snowflake_private_key))
        if value is None
    ]
    if missing or settings.snowflake_user is None or settings.snowflake_private_key is None:
        raise WarehouseNotConfiguredError(f"Snowflake needs more settings: set {' and '.join(missing)} too")
    return {
        "account": settings.snowflake_account,
        "user": settings.snowflake_user,
        "private_key": settings.snowflake_private_key.get_secret_value(),
        "role": settings.snowflake_role,
        "warehouse": settings.snowflake_warehouse,
        "database": settings.snowflake_database,
        "schema": settings.snowflake_schema,
        "additional_snowflake_connection_args": {"session_parameters": {**_SESSION, "QUERY_TAG": query_tag(tag)}},
    }


_TABLES = "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = 'RECONCILIATION_BREAK'"


@dataclass(frozen=True, slots=True)
class _LocalFile:
    # The local warehouse's file as a connection, whose cursors resolve tables as Snowflake's do.
    database: duckdb.DuckDBPyConnection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        cursor = self.database.cursor()
        cursor.execute(f"USE {server.DATABASE}.{server.SCHEMA}")
        return cursor


@contextmanager
def read_warehouse(settings: Settings) -> Iterator[Connection | None]:
    """Yield a connection for queries; None if the warehouse is empty.

    On a laptop the local warehouse's file is read in place, unless its server already runs or an older version of the
    code wrote it: starting a server takes longer than any query.
    """
    local = settings.snowflake_account is None and settings.env is Environment.LOCAL
    if local and not server.exists(settings.home):
        yield None
        return
    if local:
        import duckdb  # imported here: most commands never read the warehouse

        with server.idle_file(settings.home) as file:
            if file is not None:
                with duckdb.connect(str(file), read_only=True) as database:
                    stored = _LocalFile(database)
                    tables = database.execute(_TABLES, [server.SCHEMA]).fetchall()
                    if not tables or is_migrated(stored):
                        yield stored if tables else None
                        return
    with open_warehouse(settings) as connection:
        yield connection


@contextmanager
def open_warehouse(settings: Settings, tag: Mapping[str, str] | None = None) -> Iterator[Connection]:
    """Open a connection to the warehouse, with its tables migrated to this version of the code."""
    # Imported here: importing the connector takes six seconds.
    from dagster_snowflake import SnowflakeResource

    local = settings.snowflake_account is None and settings.env is Environment.LOCAL
    with (
        server.turn(settings.home) if local else nullcontext(),
        SnowflakeResource(**connection_arguments(settings, tag)).get_connection() as connection,
    ):
        apply_schema(connection, exclusive=local)
        yield connection
