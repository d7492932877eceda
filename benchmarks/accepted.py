"""Accepted ratios of the whole job to the old exporter, and the regressions against them.

Ratios of one run, not seconds: a slower or busier machine slows both. ``docs/results/accepted-ratios.json`` holds the
ratios that a person accepted last, with ``--accept``; the nightly run compares with them. Both measure on one
processor: on two, the threads of this project delay each other as much as the machine lets them run at once, and the old
exporter has one thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import whole_job
from benchmarks.measure import BenchmarkError, Part

ACCEPTED = Path(__file__).parent.parent / "docs" / "results" / "accepted-ratios.json"
MOST_LOST = 0.2  # share of an accepted ratio that a run may fall short by


def use_one_processor() -> None:
    """Keep this process and its children on the first processor that it may use."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ratios(parts: Iterable[Part]) -> dict[str, float]:
    """Return how many times less processor time the whole job takes than the old exporter, by part and size."""
    return {
        f"{part.name}, {part.portfolios}": part.way(whole_job.OLD).processor / part.way(whole_job.PLAIN).processor
        for part in parts
        if {whole_job.OLD, whole_job.PLAIN} <= {way.name for way in part.ways}
    }


def regressions(measured: Mapping[str, float], accepted: Mapping[str, float]) -> list[str]:
    """Return the ratios that are lost by more than MOST_LOST. Raise BenchmarkError if there is nothing to compare."""
    compared = sorted(measured.keys() & accepted.keys())
    if not compared:
        raise BenchmarkError("no accepted ratio was measured: run the parts whole and delta at 1,000 portfolios")
    return [
        f"{name}: {measured[name]:.1f} × against {accepted[name]:.1f} × accepted"
        for name in compared
        if measured[name] < accepted[name] * (1 - MOST_LOST)
    ]


def accept(measured: Mapping[str, float], path: Path) -> None:
    """Record the measured ratios as the accepted ones. Those of other sizes are kept."""
    before = json.loads(path.read_text()) if path.exists() else {}
    rounded = {name: round(ratio, 2) for name, ratio in measured.items()}
    path.write_text(json.dumps(dict(sorted({**before, **rounded}.items())), indent=1) + "\n")


def require(measured: Mapping[str, float], path: Path) -> None:
    """Raise BenchmarkError, naming every regression against the accepted ratios."""
    lost = regressions(measured, json.loads(path.read_text()))
    if lost:
        raise BenchmarkError(f"slower than accepted by more than {MOST_LOST:.0%}: {'; '.join(lost)}")
