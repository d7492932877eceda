"""Numbers that the pipelines put on record for the owner: ``python3 -m deploy.owner_numbers``, ``deploy/release keep``.

``coverage`` and ``noticed`` print a percentage for the job's outputs, ``compare`` a run against the old pipeline. Each
other command writes one observation below ``owner-numbers/`` in the current folder, under the key that it gets in the
object store. Its form is that of ``classfeed_dagster/service_levels/observations.py``; the pipelines' runners have no
environment to import that.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from deploy import durations
from deploy.forge import API, Forge, ForgeError, forge_values

_NOTICED = ("killed", "timeout")
_Parts = Mapping[str, Mapping[str, int]]


def write(source: str, name: str, values: Mapping[str, Any], parts: _Parts | None = None, *, folder: Path) -> Path:
    """Write the observation ``name`` of a source, made now, and return its file."""
    at = dt.datetime.now(dt.UTC).replace(microsecond=0)
    record = {
        "schema_version": 1,
        "source": source,
        "at": at.isoformat().replace("+00:00", "Z"),
        "values": {key: str(value) for key, value in values.items()},
        "parts": {part: {key: str(value) for key, value in of.items()} for part, of in (parts or {}).items()},
    }
    month = f"{at.astimezone(ZoneInfo('Australia/Sydney')):%Y-%m}"
    target = folder / "owner-numbers" / month / source / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n")
    return target


def covered(report: Path) -> Decimal:
    """Return the share of lines and branches that a coverage report states as covered, in percent."""
    heading = re.search(r"<coverage\b[^>]*>", report.read_text())
    if heading is None:
        sys.exit(f"owner_numbers: {report} is no coverage report")
    totals = {name: int(number) for name, number in re.findall(r'([\w-]+)="(\d+)"', heading[0])}
    done, all_ = (totals[f"lines-{what}"] + totals.get(f"branches-{what}", 0) for what in ("covered", "valid"))
    return (Decimal(100 * done) / all_).quantize(Decimal("0.01"))


def noticed(report: Path) -> Decimal:
    """Return the share of mutants that the tests noticed, in percent."""
    results = [
        mutant["result"] for mutant in json.loads(report.read_text())["results"] if mutant["result"] != "unjudged"
    ]
    if not results:
        sys.exit(f"owner_numbers: {report} has no judged mutant: give the mutation run more time")
    return (Decimal(100 * sum(result in _NOTICED for result in results)) / len(results)).quantize(Decimal("0.01"))


def pipeline(report: Path, coverage: str, *, folder: Path) -> str:
    """Write the durations and the coverage of a run, and return its summary as Markdown."""
    answer = json.loads(report.read_text())
    records = durations.durations(answer)
    compared = durations.comparison(records)
    values: dict[str, Any] = compared | ({"coverage_percent": coverage} if coverage else {})
    parts = {
        record["job"]: {
            **{name: value for name, value in record.items() if name.endswith("_seconds")},
            "succeeded": int(record["outcome"] == "success"),
        }
        for record in records
    }
    write("pipeline", _run(), values, parts, folder=folder)
    return durations.table(records, compared)


def compare(forge: Forge, run: int | None) -> str:
    """Return a run's durations against the old pipeline's as Markdown. Nothing is written."""
    records = durations.durations({"jobs": forge.run_jobs("pipeline.yml", run)})
    return durations.table(records, durations.comparison(records))


def _run() -> str:
    # The run and its attempt: a second attempt has an observation of its own.
    return f"{int(os.environ['GITHUB_RUN_ID'])}-{int(os.environ.get('GITHUB_RUN_ATTEMPT', '1'))}"


def main(arguments: list[str] | None = None, *, folder: Path = Path()) -> None:
    """Run the command. Exit code 1 with one sentence if the forge cannot be read."""
    parser = argparse.ArgumentParser(description="numbers of the pipelines")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("coverage", help="print percent=…").add_argument("report", type=Path)
    commands.add_parser("noticed", help="print percent=… of torture.mutation --out").add_argument("report", type=Path)
    commands.add_parser("mutation").add_argument("percent", help="empty if the mutation run had no result")
    jobs = commands.add_parser("pipeline", help="of the jobs API's answer")
    jobs.add_argument("report", type=Path)
    jobs.add_argument("--coverage", default="", help="percent")
    forge = commands.add_parser("forge", help="tickets and reviews; the token is in GH_TOKEN")
    compared = commands.add_parser("compare", help="a pipeline's run with the old pipeline; the token is in GH_TOKEN")
    compared.add_argument("--run", type=int, help="the run's id; by default the latest successful one on main")
    for command in (forge, compared):
        command.add_argument("repository", help="owner/name")
        command.add_argument("--api", default=API)
    given = parser.parse_args(arguments)
    try:
        match given.command:
            case "coverage":
                print(f"percent={covered(given.report)}")
            case "noticed":
                print(f"percent={noticed(given.report)}")
            case "mutation" if given.percent:
                write("mutation", _run(), {"mutation_percent": Decimal(given.percent)}, folder=folder)
            case "pipeline":
                sys.stdout.write(pipeline(given.report, given.coverage, folder=folder))
            case "forge":
                asked = Forge(given.repository, os.environ.get("GH_TOKEN", ""), given.api)
                write("forge", _run(), forge_values(asked, dt.datetime.now(dt.UTC)), folder=folder)
            case "compare":
                asked = Forge(given.repository, os.environ.get("GH_TOKEN", ""), given.api)
                sys.stdout.write(compare(asked, given.run))
    except ForgeError as error:
        sys.exit(f"owner_numbers: {error}")


if __name__ == "__main__":
    main()
