"""Cost of a date: Snowflake's credits by the tag that its statements carry.

The local server has no ACCOUNT_USAGE: a table of the same name and columns takes the view's place. That Snowflake
writes the view, and when, is not tested here.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
import sqlglot

from classfeed_dagster.service_levels.observations import (
    CREDITS_STATEMENT,
    CreditsNotGrantedError,
    Usage,
    credit_observations,
)
from classfeed_dagster.warehouse.connection import query_tag
from classfeed_dagster_tests.fixtures.warehouse import empty_warehouse, warehouse_server

__all__ = ["empty_warehouse", "warehouse_server"]

CREDITS_VIEW = "SNOWFLAKE.ACCOUNT_USAGE.QUERY_ATTRIBUTION_HISTORY"
NOW = dt.datetime(2026, 3, 5, 0, 0, tzinfo=dt.UTC)
SINCE = NOW - dt.timedelta(days=3)
A, B = "a" * 32, "b" * 32


def tag(feed: str = "class_super", day: str = "2026-03-02", correlation_id: str = A) -> str:
    return query_tag({"feed": feed, "date": day, "correlation_id": correlation_id})


def test_credits_are_summed_by_feed_date_and_attempt(empty_warehouse: Any) -> None:
    cursor = empty_warehouse.cursor()
    database, schema, _ = CREDITS_VIEW.split(".")
    cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database}")
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {database}.{schema}")
    cursor.execute(
        f"CREATE OR REPLACE TABLE {CREDITS_VIEW} (QUERY_TAG VARCHAR, START_TIME TIMESTAMP_LTZ, END_TIME TIMESTAMP_LTZ, "
        "CREDITS_ATTRIBUTED_COMPUTE FLOAT)"
    )
    rows = [
        (tag(), "2026-03-03 01:00:00", "0.125"),
        (tag(), "2026-03-03 02:00:00", "0.0625"),
        (tag(correlation_id=B), "2026-03-03 03:00:00", "0.5"),
        (tag(day="2026-03-04", correlation_id=B), "2026-03-04 13:00:00", "9"),  # later than the view is complete
        (tag(), "2026-03-01 23:00:00", "9"),  # before the period
        (tag(feed="another"), "2026-03-03 01:00:00", "9"),
        (tag(correlation_id="x'; --"), "2026-03-03 01:00:00", "9"),
        (query_tag(None), "2026-03-03 01:00:00", "9"),
        ("not JSON", "2026-03-03 01:00:00", "9"),
        ('{"app": "others"}', "2026-03-03 01:00:00", "9"),
    ]
    for text, at, credits_used in rows:
        instant = f"'{at} +00:00'::TIMESTAMP_TZ"
        escaped = text.replace("'", "''")
        cursor.execute(f"INSERT INTO {CREDITS_VIEW} VALUES ('{escaped}', {instant}, {instant}, {credits_used})")
    attempts = list(credit_observations(empty_warehouse, ["class_super"], SINCE, NOW))
    assert [(attempt.business_date, attempt.correlation_id, attempt.values) for attempt in attempts] == [
        (dt.date(2026, 3, 2), A, {"snowflake_credits": Decimal("0.1875")}),
        (dt.date(2026, 3, 2), B, {"snowflake_credits": Decimal("0.5")}),
    ]
    assert {(attempt.source, attempt.feed, attempt.at) for attempt in attempts} == {("credits", "class_super", NOW)}


def test_credits_statement_is_snowflakes_sql() -> None:
    (parsed,) = sqlglot.parse(CREDITS_STATEMENT.replace("%s", "'x'"), dialect="snowflake")
    assert parsed is not None
    assert [table.sql() for table in parsed.find_all(sqlglot.exp.Table)] == [CREDITS_VIEW]


def test_role_without_the_view_is_named_with_the_grant(empty_warehouse: Any) -> None:
    empty_warehouse.cursor().execute(f"DROP TABLE IF EXISTS {CREDITS_VIEW}")
    with pytest.raises(CreditsNotGrantedError, match=r"grant the database role SNOWFLAKE\.USAGE_VIEWER"):
        list(credit_observations(empty_warehouse, ["class_super"], SINCE, NOW))


def test_usage_adds_up_and_subtracts() -> None:
    assert Usage(5, 3, 100) + Usage(1, 1, 1) - Usage(2, 0, 1) == Usage(4, 4, 100)
