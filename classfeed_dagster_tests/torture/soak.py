"""Many simulated business days through the real Dagster jobs, in one process: nothing may grow with the days.

Measured after every day: resident memory, open files, threads, seconds, and the size of Dagster's storage. Flat means
that the last quarter of the days is no worse than the second one, but for what is allowed below.

    python -m classfeed_dagster_tests.torture.soak --days 500 --portfolios 60
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classfeed_dagster.trading_days import business_days_between
from classfeed_dagster_tests.torture.outcome import Budget, Row

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from classfeed_dagster.runtime import Runtime

FIRST = dt.date(2023, 1, 3)
FEED = "class_super"
# How much worse the last quarter may be than the second: a machine that others use is no stop-watch.
ALLOWED = {"memory": 1.15, "files": 1.0, "threads": 1.0, "seconds": 1.5, "event log": 1.3}


@dataclass(frozen=True)
class Day:
    """Measurements after one day, in bytes and seconds; of the event log, its growth on the day."""

    memory: float
    files: float
    threads: float
    seconds: float
    event_log: float
    outcome: str


def soak(
    bigsite_url: str, folder: Path, *, days: int, portfolios: int, budget: Budget | None = None,
    report_line: Callable[[str], None] = lambda _: None,
) -> Iterator[Day]:  # fmt: skip
    """Simulate and deliver up to ``days`` business days."""
    from classfeed_dagster.bigsite.create_schema import create_schema
    from classfeed_dagster.local.dagster_instance import open_instance
    from classfeed_dagster.orchestration.definitions import build_definitions
    from classfeed_dagster.orchestration.rehearsal import morning_after
    from classfeed_dagster.orchestration.run_date import run_date
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Environment, Settings
    from classfeed_dagster.simulation.invented_market import InventedMarket
    from classfeed_dagster.simulation.world import World
    from classfeed_dagster.tags import CLOCK_TAG

    settings = Settings(
        bigsite_url=bigsite_url, home=folder, first_business_date=FIRST, max_removed_share="1", slice_portfolios=40,
        simulation_keep_days=90, keep_runs_days=90,
    )  # fmt: skip
    runtime = Runtime(settings)
    create_schema(runtime.engine)
    world = World(
        1, InventedMarket(1, FIRST), consented=portfolios, portfolios=portfolios + 8, first_day=FIRST, history_days=12,
        environment=Environment.LOCAL,
    )  # fmt: skip
    world.seed(runtime.engine)
    definitions = build_definitions(runtime)
    dates = business_days_between(FIRST, dt.date(2030, 12, 31))[:days]
    with open_instance(folder) as instance:
        before = _size(folder / "dagster")
        for at, day in enumerate(dates, 1):
            world.advance(runtime.engine, day)
            began = time.perf_counter()
            report = run_date(definitions, instance, FEED, day, tags={CLOCK_TAG: morning_after(day).isoformat()})
            took = time.perf_counter() - began
            gc.collect()
            after = _size(folder / "dagster")
            yield Day(
                float(_status("VmRSS")) * 1024, float(sum(1 for _ in Path("/proc/self/fd").iterdir())), float(_status("Threads")), took,
                float(after - before), str(report.outcome),
            )  # fmt: skip
            before = after
            report_line(f"{at} of {days}: {day} {report.outcome} in {took:.1f} s, {_status('VmRSS') >> 10} MB")
            if budget is not None and budget.left <= 0:
                break
        _retained(instance, runtime, report_line)
        _audited(runtime)
    runtime.close()


def _audited(runtime: Runtime) -> None:
    """Verify the whole chain, and add up every record that was sent."""
    from classfeed_dagster.delivery.ledger_rebuild import audit_positions
    from classfeed_dagster.delivery.verify import verify_feed
    from classfeed_dagster.documents.epi import EPI
    from classfeed_dagster.schedules import RecipientSchedule

    problems = verify_feed(runtime.store, FEED, EPI).problems
    assert not problems, problems[:3]
    wrong = [audit for audit in audit_positions(runtime.store, FEED, RecipientSchedule("CLASS", FIRST)) if audit.wrong]
    assert not wrong, wrong[:3]


def _retained(instance: DagsterInstance, runtime: Runtime, report_line: Callable[[str], None]) -> None:
    """Run the retention jobs, which delete old objects only."""
    from classfeed_dagster.orchestration.jobs import purge_runs
    from classfeed_dagster.simulation.environment import expire

    runs = instance.get_runs_count()
    first, deleted = expire(runtime.engine, runtime.settings)
    purged = purge_runs(instance, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), at_most=max(1, runs // 2))
    assert instance.get_runs_count() == runs - purged, "runs were not deleted"
    report_line(f"retention: {purged} of {runs} runs deleted; rows before {first}: {sum(deleted.values())} deleted")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def judged(days: list[Day]) -> Row:
    """Return the measurements that grew. The first quarter is warming up."""
    quarter = max(1, len(days) // 4)
    early, late = days[quarter : 2 * quarter] or days, days[-quarter:]
    messages, broken = [], []
    for name, allowed in ALLOWED.items():
        item, other = (
            statistics.median(getattr(day, name.replace(" ", "_")) for day in part) for part in (early, late)
        )
        output = f"{item / 2**20:.1f} to {other / 2**20:.1f} MB" if item > 10_000 else f"{item:.1f} to {other:.1f}"
        messages.append(f"{name} {output}")
        if len(days) >= 12 and other > item * allowed + 2:
            broken.append(f"{name} grew: {output}")
    failed = [f"day {at}: {day.outcome}" for at, day in enumerate(days, 1) if day.outcome != "delivered"]
    return Row(
        "soak", "business days through the real jobs, in one process", len(days), ", ".join(messages), broken + failed
    )


def attack(budget: Budget, folder: Path, bigsite_url: str) -> Iterator[Row]:
    """Run as many days as the budget allows, 500 at most."""
    yield judged(list(soak(bigsite_url, folder, days=500, portfolios=30, budget=budget)))


def main() -> None:
    """Run the command."""
    from classfeed_dagster_tests.torture.servers import bigsite_server

    parser = argparse.ArgumentParser(description="many business days through the real jobs")
    parser.add_argument("--days", type=int, default=500)
    parser.add_argument("--portfolios", type=int, default=60)
    options = parser.parse_args()
    with bigsite_server() as url, tempfile.TemporaryDirectory(prefix="classfeed-soak-") as folder:
        days = list(soak(url, Path(folder), days=options.days, portfolios=options.portfolios, report_line=print))
    row = judged(days)
    print(row.outcome)
    raise SystemExit("\n".join(row.broken) or 0)


if __name__ == "__main__":
    main()
