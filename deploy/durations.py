"""Durations of a pipeline's jobs, from the jobs API's answer: working apart from waiting (for a runner, an approval).

``python deploy/durations.py jobs.json durations.jsonl`` appends one line a job and prints a table. Of many runs' lines,
``summary`` gives the median and the 95th percentile, which is what a claim of being faster rests on.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def durations(answer: Any) -> list[dict[str, Any]]:
    """Return one record a finished job: name, outcome, seconds waited and worked. ``answer``: one or several pages."""
    pages = answer if isinstance(answer, list) else [answer]
    records = []
    for job in (job for page in pages for job in page["jobs"]):
        if job.get("completed_at") and job.get("started_at") and job.get("conclusion") != "skipped":
            created, started, completed = (
                dt.datetime.fromisoformat(job[name]) for name in ("created_at", "started_at", "completed_at")
            )
            records.append(
                {
                    "run": job["run_id"],
                    "job": job["name"],
                    "outcome": job["conclusion"],
                    "waited_seconds": max(0, int((started - created).total_seconds())),
                    "worked_seconds": int((completed - started).total_seconds()),
                }
            )
    return records


def summary(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, float, float]]:
    """By job: how many runs, median and 95th percentile of the seconds worked. Failed jobs don't count."""
    worked: dict[str, list[int]] = defaultdict(list)
    for record in records:
        if record["outcome"] == "success":
            worked[record["job"]].append(record["worked_seconds"])
    return {
        job: (
            len(seconds),
            statistics.median(seconds),
            statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else float(seconds[0]),
        )
        for job, seconds in sorted(worked.items())
    }


def main() -> None:
    """Append the lines, print the table."""
    source, target = map(Path, sys.argv[1:3])
    records = durations(json.loads(source.read_text()))
    with target.open("a") as lines:
        lines.writelines(json.dumps(record, sort_keys=True) + "\n" for record in records)
    rows = [
        f"| {record['job']} | {record['outcome']} | {record['waited_seconds']} | {record['worked_seconds']} |"
        for record in records
    ]
    sys.stdout.write("\n".join(["| job | outcome | waited, s | worked, s |", "|---|---|---|---|", *rows]) + "\n")


if __name__ == "__main__":
    main()
