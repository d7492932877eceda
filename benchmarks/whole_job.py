"""The whole job of one date, from bigsite's rows to published pages: the old exporter, this project, and Dagster.

On the first date all portfolios are NEW (FULL extracts: 30 holdings and 100 movements each), on the second CURRENT, an
ordinary DELTA. The old exporter's file is not published, so its publishing is not measured.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.documents import TREE_BYTES
from benchmarks.measure import Facts, Part, Way, Work, compare, fits, memory, processor_seconds
from benchmarks.site import AUDIENCE, FIRST, PUBLISHED, SECOND, Day, Site, copy, morning_after, runtime_at
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.portfolio_list import FILE_NAME
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local.dagster_instance import open_instance
from classfeed_dagster.local.embedded_postgres import engine_from
from classfeed_dagster.tags import CLOCK_TAG

OLD = "old exporter"
PLAIN = "this project, without Dagster"
EPHEMERAL = "this project in Dagster, instance in memory"
SQLITE = "this project in Dagster, instance in SQLite"
FULL_RECORDS, DELTA_RECORDS = 132, 33  # a portfolio, at most


def prepare_old(scratch: Path, url: str, day: dt.date) -> Work:
    """Prepare a connection to bigsite."""
    from benchmarks import old_exporter  # imported lazily: its ORM must not be measured with the others

    engine = engine_from(url)
    engine.connect().close()
    path = scratch / "export.xml.gz"

    def work() -> Facts:
        records = old_exporter.export(
            engine,
            path,
            feed=FEED.name,
            recipient=FEED.recipient,
            day=day,
            number=AUDIENCE.sequence_number(day),
            window=AUDIENCE.window(day),
            snapshot_at=morning_after(day),
        )
        engine.dispose()
        return {"answer": records, "bytes": path.stat().st_size}

    return work


def prepare_plain(scratch: Path, url: str, day: dt.date, before: Path | None) -> Work:
    """Prepare a store with the earlier dates; all steps run in one process, each timed."""
    if before is not None:
        copy(before, scratch)
    date = Day(runtime_at(url, scratch), day)
    date.runtime.engine.connect().close()

    def work() -> Facts:
        steps: dict[str, dict[str, float]] = {}
        for name, step in date.steps.items():
            wall, processor = time.perf_counter(), processor_seconds()
            step()
            steps[name] = {
                "wall": time.perf_counter() - wall,
                "processor": processor_seconds() - processor,
                "peak": memory("VmHWM"),
            }
        date.runtime.close()
        return {**_delivered(date.work.build()), "manifest_bytes": _manifest_bytes(scratch, day), "steps": steps}

    return work


def _manifest_bytes(home: Path, day: dt.date) -> int:
    (manifest,) = (home / "store" / "delivered" / FEED.name / day.isoformat()).rglob("manifest.json")
    return manifest.stat().st_size + manifest.with_name(FILE_NAME).stat().st_size


def _delivered(build: Build) -> Facts:
    return {
        "answer": sum(build.totals.counts.values()),
        "document_bytes": sum(page.document_bytes for page in build.pages),
        "bytes": sum(page.bytes for page in build.pages),
        "pages": len(build.pages),
    }


def prepare_dagster(scratch: Path, url: str, day: dt.date, before: Path | None, *, in_memory: bool) -> Work:
    """Prepare the same store, with Dagster's definitions loaded as in production."""
    from dagster import DagsterInstance

    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.run_date import Outcome, run_date

    if before is not None:
        copy(before, scratch)
    runtime = runtime_at(url, scratch)
    definitions = build_definitions(runtime)
    runtime.engine.connect().close()
    instance = DagsterInstance.ephemeral() if in_memory else open_instance(scratch)

    def work() -> Facts:
        tags = {CLOCK_TAG: morning_after(day).isoformat()}
        report = run_date(definitions, instance, FEED.name, day, tags=tags)
        assert report.outcome is Outcome.DELIVERED, report
        runtime.close()
        events = len(instance.all_logs(report.run_id))
        instance.dispose()
        return {**_delivered(Day(runtime, day).work.build()), "checks": report.checks, "events": events}

    return work


def _dagster_home(scratch: Path) -> Path:
    home = scratch / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return home


def whole_job(
    site: Site,
    day: dt.date,
    *,
    rounds: int,
    until: float,
    old: bool = True,
    dagster: tuple[str, ...] = (EPHEMERAL, SQLITE),
) -> Part:
    """Measure one date. ``old``: with the baseline, if its tree fits into memory; ``dagster``: ways with Dagster."""
    first = day == FIRST
    before = None if first else site.after(FIRST, PUBLISHED)
    records = site.portfolios * (FULL_RECORDS if first else DELTA_RECORDS)
    arguments: dict[str, Any] = {"url": site.url, "day": day}
    ours = {**arguments, "before": before}
    ways = []
    if old and fits(records * TREE_BYTES):
        ways.append(Way(OLD, prepare_old, arguments))
    ways.append(Way(PLAIN, prepare_plain, ours))
    ways += [Way(name, prepare_dagster, {**ours, "in_memory": name == EPHEMERAL}) for name in dagster]
    kind = "FULL, 30 holdings and 100 movements each" if first else "an everyday DELTA, one portfolio in ten trades"
    name = "whole job, FULL" if first else "whole job, DELTA"
    return compare(name, site.portfolios, kind, ways, rounds=rounds, until=until, server=site.server)


# --- What starting processes costs --------------------------------------------------------------------------------


def prepare_command(scratch: Path, url: str, before: Path | None, executor: str) -> Work:
    """Measure ``dagster job execute`` in a process of its own, as a container starts it; ``executor`` decides about the steps."""
    if before is not None:
        copy(before, scratch)
    environment = {
        **os.environ,
        "CLASSFEED_BIGSITE_URL": url,
        "CLASSFEED_HOME": str(scratch),
        "CLASSFEED_FIRST_BUSINESS_DATE": FIRST.isoformat(),
        "CLASSFEED_NOW": morning_after(SECOND).isoformat(),
        "CLASSFEED_EXECUTOR": executor,
        "DAGSTER_HOME": str(_dagster_home(scratch)),
    }
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "classfeed_dagster.definitions"]
    command += ["-j", f"{FEED.name}_job", "--tags", f'{{"dagster/partition": "{SECOND.isoformat()}"}}']

    def work() -> Facts:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        steps = result.stderr.count("STEP_SUCCESS")
        delivered = list((scratch / "store" / "delivered").rglob(f"*{SECOND:%Y%m%d}*"))
        assert delivered, result.stderr[-3000:]
        return {"steps": steps}

    return work


def prepare_start(scratch: Path) -> Work:
    """Measure a new Python that only loads the definitions."""

    def work() -> None:
        subprocess.run([sys.executable, "-c", "import classfeed_dagster.definitions"], check=True)

    return work


def process_starts(site: Site, *, rounds: int, until: float) -> Part:
    """Measure a date of few portfolios, which shows the executor's own cost.

    A process a step costs minutes: where the budget counts, it has one round.
    """
    before = site.after(FIRST, PUBLISHED)
    arguments: dict[str, Any] = {"url": site.url, "before": before}
    ways = [
        Way("definitions loaded in a new process", prepare_start),
        Way("a run, steps in its process", prepare_command, {**arguments, "executor": "in_process"}),
    ]
    slow = [Way("a run, a process a step", prepare_command, {**arguments, "executor": "multiprocess"})]
    name, description = (
        "process starts",
        "one DELTA date from the command line; memory is the starter's, not the processes'",
    )
    quick = compare(name, site.portfolios, description, ways, rounds=rounds, until=until)
    few = compare(name, site.portfolios, description, slow, rounds=rounds if until == float("inf") else 1, until=until)
    return Part(name, site.portfolios, description, (*quick.ways, *few.ways))
