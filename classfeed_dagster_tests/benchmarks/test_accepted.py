"""The guard against regressions: ratios compared with the accepted ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import accepted, report, whole_job
from benchmarks.measure import BenchmarkError, Measured, Part, Run


def _part(old: float, ours: float, portfolios: int = 1000) -> Part:
    def way(name: str, seconds: float) -> Measured:
        return Measured(name, (Run(seconds, seconds, 0.0, 1, 1, {}),))

    return Part("whole job, FULL", portfolios, "", (way(whole_job.OLD, old), way(whole_job.PLAIN, ours)))


def test_ratio_without_baseline_in_its_part_is_absent() -> None:
    alone = Part("whole job, FULL", 100_000, "", _part(1, 1).ways[1:])
    assert accepted.ratios([_part(20, 4), alone]) == {"whole job, FULL, 1000": 5.0}


@pytest.mark.parametrize(("ours", "lost"), [(4.0, False), (4.9, False), (5.1, True)])
def test_require_refuses_more_than_a_fifth_lost(tmp_path: Path, ours: float, lost: bool) -> None:
    path = tmp_path / "accepted.json"
    accepted.accept(accepted.ratios([_part(20, 4)]), path)
    accepted.accept({"whole job, FULL, 10000": 6.0}, path)
    assert json.loads(path.read_text()) == {"whole job, FULL, 1000": 5.0, "whole job, FULL, 10000": 6.0}
    measured = accepted.ratios([_part(20, ours)])
    if lost:
        with pytest.raises(BenchmarkError, match="FULL, 1000: 3.9 × against 5.0 × accepted"):
            accepted.require(measured, path)
    else:
        accepted.require(measured, path)


def test_require_without_common_ratios_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    accepted.accept({"whole job, FULL, 1000": 5.0}, path)
    with pytest.raises(BenchmarkError, match="no accepted ratio was measured"):
        accepted.require({}, path)


def test_command_accepts_ratios_and_checks_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accepted.json"
    monkeypatch.setattr(accepted, "ACCEPTED", path)
    monkeypatch.setattr(command, "summary", lambda bench, table: "")

    def run(ours: float, *flags: str) -> None:
        earlier = tmp_path / "earlier.json"
        figures = {"machine": {}, "began": "2026-11-29T00:00:00+00:00", "parts": [report.as_json(_part(20, ours))]}
        earlier.write_text(json.dumps(figures))
        monkeypatch.setattr("sys.argv", ["bench", "--from", str(earlier), *flags])
        command.main()

    run(4, "--accept")
    run(4.5, "--check")
    with pytest.raises(SystemExit, match="slower than accepted"):
        run(6, "--check")


def test_guard_keeps_its_processes_on_one_processor() -> None:
    child = "import os; print(len(os.sched_getaffinity(0)))"
    code = f"import subprocess, sys; from benchmarks import accepted; accepted.use_one_processor(); subprocess.run([sys.executable, '-c', {child!r}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("flags", "order"), [(["--check"], ["pinned", "measured"]), ([], ["measured"])])
def test_command_measures_for_the_guard_on_one_processor(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], order: list[str]
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(accepted, "use_one_processor", lambda: steps.append("pinned"))
    monkeypatch.setattr(command, "measure", lambda bench: steps.append("measured"))
    monkeypatch.setattr(accepted, "require", lambda measured, path: None)
    monkeypatch.setattr("sys.argv", ["bench", *flags])
    command.main()
    assert steps == order
