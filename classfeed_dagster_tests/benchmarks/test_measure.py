"""Measuring itself: rounds, fresh processes, what counts, and what happens when a run fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import BenchmarkError, Measured, Run, Way, Work, compare, run_once

HELD = 120_000_000


def prepare_memory(scratch: Path, size: int) -> Work:
    large = bytearray(HELD)  # held while preparing alone: not part of the work's peak
    large[::4096] = b"x" * len(large[::4096])
    del large

    def work() -> dict[str, object]:
        kept = b"x" * size
        return {"answer": len(list(scratch.iterdir())), "process": os.getpid(), "kept": len(kept)}

    return work


def prepare_child(scratch: Path) -> Work:
    code = "import time\nwhile time.process_time() < 0.3: pass"

    def work() -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    return work


def prepare_failure(scratch: Path) -> Work:
    def work() -> None:
        raise ValueError("no such luck")

    return work


def prepare_death(scratch: Path) -> Work:
    return lambda: os._exit(9)


def answer(scratch: Path, value: int) -> Work:
    return lambda: {"answer": value}


def test_run_counts_its_own_memory_in_its_own_process() -> None:
    lean, heavy = (run_once(Way(str(size), prepare_memory, {"size": size})) for size in (1000, 60_000_000))
    assert heavy.peak - heavy.prepared >= 55_000_000  # Linux counts in batches
    assert lean.peak < HELD
    assert os.getpid() not in (lean.facts["process"], heavy.facts["process"])
    assert lean.facts["process"] != heavy.facts["process"]


def test_processor_time_includes_children() -> None:
    run = run_once(Way("child", prepare_child))
    assert run.processor >= 0.3
    assert run.wall >= 0.3


def test_failed_run_reports_its_error() -> None:
    with pytest.raises(BenchmarkError, match="no such luck"):
        run_once(Way("failing", prepare_failure))


def test_run_whose_process_dies_is_reported() -> None:
    with pytest.raises(BenchmarkError, match="died with 9"):
        run_once(Way("dying", prepare_death))


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def run(way: Way, server: Path | None = None) -> Run:
        calls.append(way.name)
        return Run(1.0, 1.0, 0.0, 1, 1, way.prepare(Path(), **way.arguments)() or {})

    monkeypatch.setattr(measure, "run_once", run)
    return calls


def test_compare_alternates_the_ways(order: list[str]) -> None:
    ways = [Way(name, answer, {"value": 1}) for name in "ABC"]
    part = compare("turns", 1, "nothing", ways, rounds=3)
    assert "".join(order) == "ABCABCABC"
    assert [len(way.runs) for way in part.ways] == [3, 3, 3]


def test_round_after_the_budget_is_skipped_except_the_first(order: list[str]) -> None:
    ways = [Way(name, answer, {"value": 1}) for name in "AB"]
    compare("late", 1, "nothing", ways, rounds=5, until=time.monotonic() - 1)
    assert "".join(order) == "AB"


def test_compare_with_different_answers_is_refused(order: list[str]) -> None:
    ways = [Way("A", answer, {"value": 1}), Way("B", answer, {"value": 2})]
    with pytest.raises(BenchmarkError, match="answers differ"):
        compare("different", 1, "nothing", ways, rounds=1)


def test_median_covers_all_runs() -> None:
    runs = tuple(Run(wall, wall * 2, 0.0, 10, 5, {"steps": {"one": wall}}) for wall in (1.0, 9.0, 2.0))
    way = Measured("way", runs)
    assert (way.wall, way.processor, way.peak, way.fact("steps", "one")) == (2.0, 4.0, 10, 2.0)


def test_machine_is_described() -> None:
    message = measure.machine()
    assert message["cores"] >= 1
    assert message["python"].startswith("3.")
    assert not measure.fits(1e18)
