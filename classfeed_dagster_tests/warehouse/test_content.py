"""Rows of the warehouse and figures of the data team that changed after they were loaded and agreed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.load import TableContent, changed_tables
from classfeed_dagster_tests.fixtures import planted_warehouse as planted


@pytest.fixture
def case(bigsite_engine: sa.Engine, local_store: ObjectStore, warehouse: Any) -> planted.LoadedCase:
    created = planted.LoadedCase(bigsite_engine, local_store, warehouse=warehouse)
    created.deliver()
    return created


@pytest.mark.slow
def test_content_audit_finds_planted_changes_only(case: planted.LoadedCase) -> None:
    assert planted.play(case, (), planted.INNOCENT).report == ""
    for faults in separable(planted.FAULTS):
        report = planted.play(case, faults, ()).report
        names = [fault.name for fault in faults]
        tables = {fault.table.replace("DELIVERED_", "FACT_") for fault in faults} - {planted.FIGURES}
        assert {line.split()[0] for line in report.splitlines() if line.endswith(" now)")} == tables, (names, report)
        figures = any(fault.table == planted.FIGURES for fault in faults)
        assert ("| break |" in report) is figures, (names, report)


def separable(faults: Iterable[planted.WarehouseEdit]) -> Iterable[tuple[planted.WarehouseEdit, ...]]:
    """Yield the faults in groups, a fault of each table: a finding names its table."""
    by_table: dict[str, list[planted.WarehouseEdit]] = {}
    for fault in faults:
        by_table.setdefault(fault.table, []).append(fault)
    for group in zip_longest(*by_table.values()):
        yield tuple(fault for fault in group if fault is not None)


def test_changed_tables_names_rows_then_and_now() -> None:
    then = {"A": TableContent(rows=2, digest="x"), "B": TableContent(rows=1, digest="y")}
    now = {"A": TableContent(rows=3, digest="z"), "B": TableContent(rows=1, digest="y")}
    assert changed_tables(then, now) == ["A (2 rows when it was loaded, 3 now)"]
