"""Connection to the warehouse: a key pair in production, never a password; the local server only on a laptop."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pytest

from classfeed_dagster.local import snowflake_server
from classfeed_dagster.settings import Settings
from classfeed_dagster.warehouse import connection as connection_module
from classfeed_dagster.warehouse.breaks import stored_breaks
from classfeed_dagster.warehouse.connection import (
    WarehouseNotConfiguredError,
    connection_arguments,
    query_tag,
    read_warehouse,
)
from classfeed_dagster.warehouse.schema import Migration, migrations

COMPLETE: dict[str, Any] = {"store_url": "s3://feeds/prod", "first_business_date": "2026-03-02"}
PRODUCTION: dict[str, Any] = {
    **COMPLETE,
    "env": "prod",
    "snowflake_account": "broker-x1",
    "snowflake_user": "CLASSFEED",
}


def test_production_uses_a_key_pair_and_no_password() -> None:
    result = connection_arguments(Settings(**PRODUCTION, snowflake_private_key="the key", snowflake_role="LOADER"))
    assert result["private_key"] == "the key"
    assert (result["account"], result["user"], result["role"]) == ("broker-x1", "CLASSFEED", "LOADER")
    assert "password" not in result


def test_statements_carry_feed_date_and_correlation_id() -> None:
    tag = {"feed": "class_super", "date": "2026-03-02", "correlation_id": "c1"}
    settings = Settings(**PRODUCTION, snowflake_private_key="the key")
    parameters = connection_arguments(settings, tag)["additional_snowflake_connection_args"]["session_parameters"]
    assert json.loads(parameters["QUERY_TAG"]) == {"app": "classfeed", **tag}
    assert json.loads(query_tag(None)) == {"app": "classfeed"}


def test_session_does_not_depend_on_the_accounts_defaults() -> None:
    settings = Settings(**PRODUCTION, snowflake_private_key="the key")
    parameters = connection_arguments(settings)["additional_snowflake_connection_args"]["session_parameters"]
    formats = {name: value for name, value in parameters.items() if name.endswith("_FORMAT")}
    assert formats == {
        "DATE_INPUT_FORMAT": "AUTO",
        "TIMESTAMP_INPUT_FORMAT": "AUTO",
        "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
        "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
    }
    assert (parameters["AUTOCOMMIT"], parameters["TIMEZONE"]) == (True, "UTC")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({**COMPLETE, "env": "prod"}, "CLASSFEED_SNOWFLAKE_ACCOUNT is not set"),
        (PRODUCTION, "CLASSFEED_SNOWFLAKE_PRIVATE_KEY"),
        (
            {**COMPLETE, "env": "stg", "snowflake_account": "x"},
            "CLASSFEED_SNOWFLAKE_USER and CLASSFEED_SNOWFLAKE_PRIVATE_KEY",
        ),
    ],
)
def test_missing_settings_are_named(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(WarehouseNotConfiguredError, match=says):
        connection_arguments(Settings(home=tmp_path, **values))


def _write(home: Path, *statements: str) -> None:
    folder = home / "snowflake"
    folder.mkdir(exist_ok=True)
    with duckdb.connect(str(folder / "CLASSFEED.db")) as database:
        for statement in ("CREATE SCHEMA IF NOT EXISTS FEED", "USE CLASSFEED.FEED", *statements):
            database.execute(statement)


def _versions(applied: Sequence[Migration]) -> list[str]:
    rows = ", ".join(f"({migration.version}, '{migration.sha256}')" for migration in applied)
    return [
        "CREATE TABLE SCHEMA_VERSION (VERSION INTEGER, SHA256 VARCHAR)",
        f"INSERT INTO SCHEMA_VERSION VALUES {rows}",
    ]


def test_read_warehouse_without_a_running_server_reads_its_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with read_warehouse(settings) as connection:
        assert connection is None  # nothing was ever stored
    _write(tmp_path)
    with read_warehouse(settings) as connection:
        assert connection is None  # a server was started, and nothing reconciled
    ddl = resources.files("classfeed_dagster.warehouse").joinpath("ddl/0003_breaks.sql").read_text()
    row = "'id', 'class_super', 'source', DATE '2023-01-03', 'late', 'warning', 'SW1', 'trade', 'T1'"
    observed = "TIMESTAMP '2023-01-04 06:00:00'"
    _write(
        tmp_path,
        *_versions(migrations()),
        ddl.replace("TIMESTAMP_NTZ", "TIMESTAMP").replace("NUMBER(", "DECIMAL("),
        f"INSERT INTO RECONCILIATION_BREAK SELECT {row}, NULL, NULL, NULL, NULL, 'late row', 'x', NULL, NULL, NULL, "
        f"NULL, {observed}, {observed}, NULL, 'a', 'a'",
    )
    with read_warehouse(settings) as connection:
        assert connection is not None
        (break_,) = stored_breaks(connection, feed="class_super", day=dt.date(2023, 1, 3), only_open=True)
        assert stored_breaks(connection, feed="class_cash") == []
    assert (break_.portfolio_number, break_.resolved_at) == ("SW1", None)
    assert not (tmp_path / "snowflake" / "server.json").exists()  # no server was started for it


def test_read_warehouse_of_an_older_version_is_migrated_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, *_versions(migrations()[:-1]), "CREATE TABLE RECONCILIATION_BREAK (BREAK_ID VARCHAR)")
    opened = object()
    monkeypatch.setattr(connection_module, "open_warehouse", lambda settings: contextlib.nullcontext(opened))
    with read_warehouse(Settings(home=tmp_path)) as connection:
        assert connection is opened


def test_read_warehouse_joins_a_server_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    monkeypatch.setattr(snowflake_server, "_running", lambda folder: 1)
    opened = object()
    monkeypatch.setattr(connection_module, "open_warehouse", lambda settings: contextlib.nullcontext(opened))
    with read_warehouse(Settings(home=tmp_path)) as connection:
        assert connection is opened
