"""Lineage of the star schema: its columns equal the warehouse's, and each has a meaning."""

from __future__ import annotations

from typing import Any

import pytest

from classfeed_dagster.warehouse.columns import SEEN, columns_in, warehouse_tables
from classfeed_dagster.warehouse.rows import FRAMES, frame_columns


def test_columns_equal_the_warehouses(warehouse: Any) -> None:
    cursor = warehouse.cursor()
    for table, columns in warehouse_tables().items():
        cursor.execute(f"SELECT * FROM {table} LIMIT 0")
        assert [column.name for column in columns] == [described[0] for described in cursor.description], table


def test_columns_of_read_tables_have_a_meaning() -> None:
    nameless = [
        (table, column.name)
        for table, columns in warehouse_tables().items()
        for column in columns
        if not table.startswith("SEEN_") and not column.meaning
    ]
    assert nameless == []


def test_types_units_and_requirement_are_read_from_the_tables() -> None:
    by_name = {column.name: column for column in warehouse_tables()["FACT_HOLDING_DAILY"]}
    value = by_name["MARKET_VALUE"]
    assert (value.type, value.nullable, value.unit, value.made_of) == (
        "NUMBER(38,6)", True, "currency", (("investment_holdings", "market_value"),),
    )  # fmt: skip
    assert not by_name["UNITS"].nullable
    assert set(SEEN.values()) <= FRAMES.keys()


def test_security_is_described_by_its_holdings_alone() -> None:
    assert frame_columns("SEEN_SECURITY", "currency") == (("investment_holdings", "currency"),)
    assert frame_columns("SEEN_SECURITY", "isin") == (
        ("investment_holdings", "isin"), ("movement_transactions", "isin"),
    )  # fmt: skip
    assert frame_columns("DIM_DATE", "calendar_date") == ()


def test_invalid_column_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid column of T: nonsense"):
        columns_in("T", "  nonsense\n")
