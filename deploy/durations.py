"""Durations of a pipeline's jobs, from the jobs API's answer: working apart from waiting (for a runner, an approval).

``deploy/baseline.json`` keeps the old pipeline's shape. A run is compared with the old pipeline's documented time or,
without one, with its own steps replayed in that shape.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("baseline.json")


def durations(answer: Any) -> list[dict[str, Any]]:
    """Return one record a finished job: name, outcome, seconds waited, worked and of its start-up steps.

    ``answer``: one or several pages.
    """
    prefixes = tuple(json.loads(BASELINE.read_text())["start_up"])
    pages = answer if isinstance(answer, list) else [answer]
    return [
        {
            "run": job["run_id"],
            "job": job["name"],
            "outcome": job["conclusion"],
            "waited_seconds": max(0, _seconds(job, "created_at", "started_at")),
            "worked_seconds": _seconds(job, "started_at", "completed_at"),
            "start_up_seconds": sum(
                _seconds(step, "started_at", "completed_at")
                for step in job.get("steps", ())
                if step["name"].startswith(prefixes) and step.get("completed_at") and step.get("started_at")
            ),
        }
        for page in pages
        for job in page["jobs"]
        if job.get("completed_at") and job.get("started_at") and job.get("conclusion") != "skipped"
    ]


def comparison(records: Iterable[Mapping[str, Any]]) -> dict[str, Decimal]:
    """Return the run's seconds, the old pipeline's and the target.

    Empty unless every job of the baseline succeeded.
    """
    baseline = json.loads(BASELINE.read_text())
    done = {record["job"]: record for record in records if record["outcome"] == "success"}
    if not baseline["jobs"].keys() <= done.keys():
        return {}
    worked = sum(done[job]["worked_seconds"] for job in baseline["jobs"])
    repeated = sum((len(nodes) - 1) * done[job]["start_up_seconds"] for job, nodes in baseline["jobs"].items())
    old = Decimal(baseline["documented_seconds"] or worked + repeated)
    return {
        "pipeline_seconds": Decimal(worked),
        "pipeline_baseline_seconds": old,
        "pipeline_target_seconds": old * Decimal(baseline["target_share"]),
    }


def table(records: Iterable[Mapping[str, Any]], compared: Mapping[str, Decimal]) -> str:
    """Return the run's summary as Markdown."""
    rows = [
        f"| {record['job']} | {record['outcome']} | {record['waited_seconds']} | {record['start_up_seconds']} "
        f"| {record['worked_seconds']} |"
        for record in records
    ]
    lines = ["| job | outcome | waited, s | start-up, s | worked, s |", "|---|---|---|---|---|", *rows]
    if compared:
        new, old, target = compared.values()
        lines += ["", f"{new} s; the old pipeline: {old} s; target: {target.normalize():f} s"]
    return "\n".join(lines) + "\n"


def _seconds(record: Mapping[str, Any], begin: str, end: str) -> int:
    return int((dt.datetime.fromisoformat(record[end]) - dt.datetime.fromisoformat(record[begin])).total_seconds())
