"""The old pipeline's shape and this one's, replayed on one machine: nodes as ``deploy/baseline.json`` has them.

Each node starts up, does its steps and ends. A hosted runner is not allocated here, which every node of both awaits.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from classfeed_dagster.service_levels.owner_months import median_and_p95
from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy import durations, owner_numbers

_BASELINE = json.loads(durations.BASELINE.read_text())
_TARGET = Decimal(_BASELINE["target_share"])


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one deployment by the old pipeline's nodes and by this one's."""

    old: Decimal
    new: Decimal


def shapes(environment: str) -> dict[str, list[list[str]]]:
    """Return the nodes that deploy an environment, each a list of steps, by ``old`` and ``new``."""
    (steps,) = (steps for job, steps in _BASELINE["jobs"].items() if job.endswith(f"Deploy to {environment}"))
    begin, end = _BASELINE["start_up"][:3], _BASELINE["start_up"][3:]
    return {"old": [[*begin, step, *end] for step in steps], "new": [[*begin, *steps, *end]]}


def replay(environment: str, rounds: int, steps: Mapping[str, Callable[[], object]]) -> Iterator[Round]:
    """Yield the seconds of each round. The two take turns in being first."""
    for number in range(rounds):
        seconds = {}
        for shape, nodes in sorted(shapes(environment).items(), reverse=bool(number % 2)):
            began = time.monotonic()
            for step in (step for node in nodes for step in node):
                steps[step]()
            seconds[shape] = Decimal(f"{time.monotonic() - began:.3f}")
        yield Round(**seconds)


def start_up(tokens: Any, role: str) -> dict[str, Callable[[], object]]:
    """Return the steps that begin and end a node: a workspace, a clone with its history, a role's credentials."""
    workspaces: list[tempfile.TemporaryDirectory[str]] = []

    def clone() -> None:
        folder = Path(workspaces[-1].name) / "checkout"
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", f"file://{ROOT}", str(folder)], check=True
        )

    return dict(
        zip(
            _BASELINE["start_up"],
            (
                lambda: workspaces.append(tempfile.TemporaryDirectory(prefix="classfeed-node-")),
                clone,
                lambda: tokens.assume_role(RoleArn=role, RoleSessionName="replay"),
                lambda: None,  # a hosted runner is thrown away with what the actions left
                lambda: workspaces.pop().cleanup(),
            ),
            strict=True,
        )
    )


def table(rounds: Sequence[Round]) -> str:
    """Return the comparison as Markdown."""
    (old, old_p95), (new, new_p95) = (
        median_and_p95([getattr(each, shape) for each in rounds]) for shape in ("old", "new")
    )
    return (
        f"| {len(rounds)} rounds | median, s | 95th percentile, s |\n|---|---|---|\n"
        f"| a node each for migration, deployment and smoke test | {old:.1f} | {old_p95:.1f} |\n"
        f"| one node | {new:.1f} | {new_p95:.1f} |\n\n"
        f"One node takes {new / old:.0%} of the time. Target: {_TARGET:.0%}, {'met' if new / old <= _TARGET else 'not met'}.\n"
    )


def keep(rounds: Sequence[Round], folder: Path) -> None:
    """Write each round as an observation below ``folder``, an object store, for the owner's page."""
    for number, each in enumerate(rounds):
        values = {
            "pipeline_seconds": each.new,
            "pipeline_baseline_seconds": each.old,
            "pipeline_target_seconds": each.old * _TARGET,
        }
        owner_numbers.write("pipeline", f"replay-{time.time_ns()}-{number}", values, folder=folder)
