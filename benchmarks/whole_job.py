"""The whole job, from bigsite's rows to published pages, at several sizes: seconds and peak memory a step.

    python -m benchmarks.whole_job [--portfolios 1000 10000] [--json FILE]

Everybody is NEW on the first date (FULL extracts: 100 movements and 30 holdings each) and CURRENT on the second, an
everyday DELTA. Each date runs in a process of its own, without Dagster, so that its peak memory is its own; what
PostgreSQL uses is not counted. The growth exponent between the sizes says whether time grows faster than the data.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bulk
from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import embedded
from classfeed_dagster.bigsite.snapshot import take_snapshot
from classfeed_dagster.domains.run import CONSENTED, DOMAINS, build_consented_portfolios, build_domain
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.feeds.feed import declared_feeds
from classfeed_dagster.feeds.flags import start_flags
from classfeed_dagster.feeds.steps import LANDING, FeedDay
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings

FIRST = bulk.FIRST_DAY
SECOND = trading_days.next_business_day(FIRST)
Figures = dict[str, Any]


def run_date(url: str, home: str, day: dt.date) -> Figures:
    """Every step of one date in this process; seconds a step, and the process's peak memory in MiB."""
    runtime = Runtime(Settings(bigsite_url=url, home=Path(home), first_business_date=FIRST))
    start_flags(runtime.settings, declared_feeds())
    audience = FEED.audience(FIRST)
    now = trading_days.cutoff(day) + dt.timedelta(hours=6)
    work = FeedDay(runtime, FEED, audience, day, "benchmark", now)
    runtime.engine.connect().close()
    seconds: Figures = {}
    peaks: Figures = {"imports": peak()}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - began
        peaks[name] = peak()
        return result

    snapshot = timed("snapshot", lambda: take_snapshot(runtime.engine, runtime.store, day, [audience], snapshot_at=now))
    runtime.save_reference(LANDING, day, snapshot)

    def domains() -> None:
        consented = build_consented_portfolios(runtime.store, snapshot, audience)
        runtime.save_reference(audience.reference(CONSENTED), day, consented)
        for domain in DOMAINS:
            if domain != CONSENTED:
                built = build_domain(runtime.store, snapshot, audience, domain, consented)
                runtime.save_reference(audience.reference(domain), day, built)

    timed("domains", domains)
    timed("held back", work.hold_back)
    build = timed("rendering, hashing, compression", work.stage)
    timed("validation", lambda: work.judge(build))
    timed("publishing", work.publish)
    return {
        "seconds": seconds,
        "total": sum(seconds.values()),
        "peak_mib": peak(),
        "peaks_mib": peaks,
        "document_mib": sum(page.document_bytes for page in build.pages) / 2**20,
        "records": sum(build.totals.counts.values()),
        "pages": len(build.pages),
    }


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(portfolios: int) -> dict[str, Figures]:
    """FULL and DELTA of one size, on a database and a store of their own."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="classfeed-bench-") as folder:
        Path(folder).chmod(0o755)
        url = embedded.start(Path(folder))
        try:
            engine = embedded.engine_from(url)
            bulk.create(engine, portfolios, FIRST)
            bulk.add_day(engine, portfolios, SECOND)
            engine.dispose()
            found: dict[str, Figures] = {}
            for name, day in (("FULL", FIRST), ("DELTA", SECOND)):
                with spawn.Pool(1, maxtasksperchild=1) as pool:
                    found[name] = pool.apply(run_date, (url, folder, day))
        finally:
            embedded.stop(Path(folder))
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portfolios", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {size: measure(size) for size in options.portfolios}
    for name in ("FULL", "DELTA"):
        sys.stdout.write(f"\n{name:34}" + "".join(f"{size:>12,}" for size in results) + "   portfolios\n")
        for step in results[options.portfolios[0]][name]["seconds"]:
            figures = "".join(f"{results[size][name]['seconds'][step]:12.2f}" for size in results)
            sys.stdout.write(f"  {step:32}{figures}   s\n")
        for step in results[options.portfolios[0]][name]["peaks_mib"]:
            figures = "".join(f"{results[size][name]['peaks_mib'][step]:12.0f}" for size in results)
            sys.stdout.write(f"  {'peak after ' + step:32}{figures}   MiB\n")
        for key, unit in (("total", "s"), ("peak_mib", "MiB"), ("document_mib", "MiB"), ("records", "records")):
            figures = "".join(f"{results[size][name][key]:12,.2f}" for size in results)
            sys.stdout.write(f"  {key:32}{figures}   {unit}\n")
        if len(results) > 1:
            small, large = min(results), max(results)
            growth = math.log(results[large][name]["total"] / results[small][name]["total"]) / math.log(large / small)
            sys.stdout.write(f"  {'growth exponent':32}{growth:12.2f}\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
