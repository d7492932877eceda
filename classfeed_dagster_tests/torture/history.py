"""Years of delivered dates under the daemon: seconds of each sensor's ticks, and the services' memory over time.

    python -m classfeed_dagster_tests.torture.history --dates 750 --minutes 60

Every feed has delivered, reconciled and loaded the last ``dates`` business days. Then the real daemon, code server and
webserver run over them with nothing to do. Exit code 1 if a tick fails or is slow, or memory keeps growing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock
from zoneinfo import ZoneInfo

import psutil

from classfeed_dagster.bigsite.create_schema import create_schema
from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.local import embedded_postgres
from classfeed_dagster.local.dagster_instance import dagster_home, open_instance
from classfeed_dagster.local.dagster_services import dagster_services, free_port
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.trading_days import business_days_between
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster_tests.fixtures import csv_frames, epi_data
from classfeed_dagster_tests.fixtures.delivering import deliver
from classfeed_dagster_tests.torture.outcome import Row

if TYPE_CHECKING:
    from dagster import DagsterInstance

LONGEST_TICK, GROWTH = 60.0, 1.15
_SAMPLE_SECONDS = 15.0
_SYDNEY = ZoneInfo("Australia/Sydney")


@dataclass
class Observed:
    """Seconds of the ticks by sensor, failed ticks, and megabytes of all services together over time."""

    ticks: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Return what does not hold."""
        slow = [f"{name}: {max(seconds):.1f} s" for name, seconds in self.ticks.items() if max(seconds) > LONGEST_TICK]
        settled, last = self.settled
        growing = [f"memory grew from {settled:.0f} to {last:.0f} MB"] if last > settled * GROWTH else []
        idle = [] if self.ticks else ["no sensor ticked"]
        return [*self.failures, *slow, *growing, *idle]

    @property
    def settled(self) -> tuple[float, float]:
        """Return the median memory of the second and of the last fifth of the time."""
        fifth = max(1, len(self.megabytes) // 5)
        return statistics.median(self.megabytes[fifth : 2 * fifth] or [0]), statistics.median(self.megabytes[-fifth:])


def deliver_history(runtime: Runtime, feed: Feed, dates: list[dt.date]) -> None:
    """Deliver a small document for each date, with the verdict of both reconciliations."""
    epi = feed.format.name == "epi"
    audience = feed.audience(dates[0])
    frames = epi_data.sample() if epi else csv_frames.frames([csv_frames.account("SW00000001")], [])
    for day in dates:
        manifest = deliver(runtime.store, feed.format, audience, day, frames, mode=feed.mode, feed=feed.name)
        for side in (Side.SOURCE, Side.DATA_TEAM):
            summary = ReconciliationSummary(
                build_id=manifest.build_id,
                revision=0,
                errors=0,
                warnings=0,
                breaks=0,
                unexplained=0,
                report="",
                attempt="a",
            )
            runtime.save_reference(side.reference(feed.name), day, summary)


def services() -> Iterator[psutil.Process]:
    """Yield the daemon, the webserver, the code server and what they started."""
    yield from psutil.Process().children(recursive=True)


def megabytes() -> float:
    """Return the memory that the services do not share with each other."""
    total = 0
    for process in services():
        try:
            if "python" in process.name() or "dagster" in process.name():
                total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total / (1 << 20)


def observe(instance: DagsterInstance, minutes: float) -> Observed:
    """Watch the services for so many minutes."""
    observed, until = Observed(), time.monotonic() + minutes * 60
    while time.monotonic() < until:
        time.sleep(_SAMPLE_SECONDS)
        observed.megabytes.append(megabytes())
        if len(observed.megabytes) % 20 == 0:
            sys.stderr.write(f"{observed.megabytes[-1]:.0f} MB\n")
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
        ended = [tick for tick in ticks if tick.end_timestamp is not None]
        if ended:
            observed.ticks[state.name] = [float(tick.end_timestamp or 0) - tick.timestamp for tick in ended]
        observed.failures += [f"{state.name}: {tick.error.message[:200]}" for tick in ticks if tick.error is not None]
    return observed


def history(home: Path, count: int, minutes: float) -> Row:
    """Deliver ``count`` dates for every feed, and run the services over them."""
    newest = dt.datetime.now(_SYDNEY).date() - dt.timedelta(days=1)
    dates = business_days_between(newest - dt.timedelta(days=count * 2), newest)[-count:]
    os.environ.pop("DAGSTER_HOME", None)
    variables = {
        "CLASSFEED_ENV": "dev",  # where sensors and schedules run by themselves
        "CLASSFEED_HOME": str(home),
        "CLASSFEED_STORE_URL": str(home / "store"),
        "CLASSFEED_BIGSITE_URL": embedded_postgres.start(home),
        "CLASSFEED_FIRST_BUSINESS_DATE": dates[0].isoformat(),
    }
    os.environ.update(variables)
    runtime = Runtime(Settings())
    try:
        create_schema(runtime.engine)
        for feed in FEEDS:
            with mock.patch("os.fsync"):  # no power cut is played here
                deliver_history(runtime, feed, list(dates))
            sys.stderr.write(f"{feed.name}: {count} dates\n")
        with (
            open_instance(home) as instance,
            dagster_services(dagster_home(home), free_port(3300), variables, start_seconds=300),
        ):
            observed = observe(instance, minutes)
    finally:
        runtime.close()
        embedded_postgres.stop(home)
    seconds = {name: (max(values), statistics.median(values), len(values)) for name, values in observed.ticks.items()}
    slowest = max(seconds, key=lambda name: seconds[name][0], default="none")
    settled, last = observed.settled
    for name, (worst, usual, times) in sorted(seconds.items()):
        sys.stderr.write(f"{name}: {times} ticks, {usual:.2f} s, at most {worst:.2f} s\n")
    outcome = (
        f"{sum(times for *_, times in seconds.values())} ticks of {len(seconds)} sensors and schedules in {minutes:.0f} minutes, the "
        f"slowest {seconds.get(slowest, (0.0,))[0]:.1f} s ({slowest}); daemon, webserver and code server {settled:.0f} MB after a "
        f"fifth of the time, {last:.0f} MB at the end, at most {max(observed.megabytes):.0f} MB"
    )
    return Row("history", f"{count} dates of every feed under the daemon", count, outcome, observed.broken)


def main() -> int:
    """Run the command line."""
    from classfeed_dagster_tests.torture.outcome import table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, default=750)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the webserver and the daemon end too
    with tempfile.TemporaryDirectory(prefix="classfeed-history-", ignore_cleanup_errors=True) as folder:
        row = history(Path(folder), options.dates, options.minutes)
    print(table([row]).splitlines()[-1], *row.broken, sep="\n")
    return 1 if row.broken else 0


if __name__ == "__main__":
    sys.exit(main())
