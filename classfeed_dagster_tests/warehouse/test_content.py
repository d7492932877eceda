"""Rows of the warehouse and figures of the data team that changed after they were loaded and agreed."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.content import TableContent, changed_tables
from classfeed_dagster_tests.fixtures import planted_warehouse as planted


@pytest.fixture
def case(bigsite_engine: sa.Engine, local_store: ObjectStore, warehouse: Any) -> planted.LoadedCase:
    created = planted.LoadedCase(bigsite_engine, local_store, warehouse=warehouse)
    created.deliver()
    return created


@pytest.mark.slow
def test_content_audit_finds_planted_changes_only(case: planted.LoadedCase) -> None:
    alone = len(planted.FAULTS) + len(planted.INNOCENT)
    verdicts = [planted.play(case, *edits) for edits, _ in zip(planted.combinations(7), range(alone), strict=False)]
    wrong = [
        f"{', '.join(edit.name for edit in (*verdict.faults, *verdict.innocent))}: {verdict.report}"
        for verdict in verdicts
        if not verdict.right
    ]
    assert wrong == []


def test_changed_tables_names_rows_then_and_now() -> None:
    then = {"A": TableContent(rows=2, digest="x"), "B": TableContent(rows=1, digest="y")}
    now = {"A": TableContent(rows=3, digest="z"), "B": TableContent(rows=1, digest="y")}
    assert changed_tables(then, now) == ["A (2 rows when it was loaded, 3 now)"]
