"""The watchers see what they are there to see: a secret kept somewhere, steps under way, spans that overlap."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from classfeed_dagster_tests.torture.workers.watching import Steps, at_once, leaks


@pytest.mark.parametrize(
    ("column", "value"), [("plain", "redis://:hunter2@host"), ("packed", zlib.compress(b"a hunter2 b"))]
)
def test_secret_is_found_in_any_place(tmp_path: Path, column: str, value: object) -> None:
    url = f"sqlite:///{tmp_path / 'dagster.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE runs (id INTEGER PRIMARY KEY, plain TEXT, packed BLOB)"))
        connection.execute(sa.text("INSERT INTO runs VALUES (1, 'nothing', x'00')"))
        assert leaks(url, ["hunter2"]) == []
        connection.execute(sa.text(f"UPDATE runs SET {column} = :value"), {"value": value})
    engine.dispose()
    assert leaks(url, ["hunter2"]) == [f"runs.{column}"]


def test_step_is_running_from_its_start_to_its_end() -> None:
    steps = Steps(taken=[("a", "one"), ("b", "two"), ("ab", "two")], begun=Counter(a=1, b=1), ended={"b"})
    assert list(steps.under_way("a")) == [("a", "one")]
    assert list(steps.under_way("b")) == []
    assert steps.by_worker == {"one": 1, "two": 2}
    assert steps.again == 0
    steps.taken.append(("a", "two"))
    assert steps.again == 1


@pytest.mark.parametrize(
    ("spans", "most"), [([], 0), ([(0, 1)], 1), ([(0, 1), (1, 2)], 1), ([(0, 3), (1, 2)], 2), ([(0, 1), (0.5, 2)], 2)]
)
def test_spans_that_overlap_are_counted(spans: list[tuple[float, float]], most: int) -> None:
    assert at_once(spans) == most
