"""How the warehouse is reached: a key pair in production, never a password; the stand-in on a laptop alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from classfeed_dagster.settings import Settings
from classfeed_dagster.warehouse.connection import WarehouseNotConfiguredError, connection_arguments

COMPLETE: dict[str, Any] = {"store_url": "s3://feeds/prod", "first_business_date": "2026-03-02"}
PRODUCTION: dict[str, Any] = {
    **COMPLETE,
    "env": "prod",
    "snowflake_account": "broker-x1",
    "snowflake_user": "CLASSFEED",
}


def test_production_uses_a_key_pair_and_no_password() -> None:
    found = connection_arguments(Settings(**PRODUCTION, snowflake_private_key="the key", snowflake_role="LOADER"))
    assert found["private_key"] == "the key"
    assert (found["account"], found["user"], found["role"]) == ("broker-x1", "CLASSFEED", "LOADER")
    assert "password" not in found


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
def test_what_is_missing_is_named(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(WarehouseNotConfiguredError, match=says):
        connection_arguments(Settings(home=tmp_path, **values))
