"""The steps of a date on two machines, through Celery: the same bytes as in one process, also when a machine dies.

    python -m classfeed_dagster_tests.torture.celery_workers --portfolios 300 --workers 2
    python -m classfeed_dagster_tests.torture.celery_workers --portfolios 300 --kill
    python -m classfeed_dagster_tests.torture.celery_workers --portfolios 20 --dates 60

Workers share nothing but the network (see ``workers/machine.py``). The dates are launched as the UI launches them:
as one backfill, or with ``--kill`` one after the other, each losing a machine (plugged in again before the next date), a
step's process or the run's own in the middle of a step. Then the same dates run in one process, each stating the same instant.
Needs redis-server. Exit code 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster import _check as check
from dagster._serdes import pack_value
from openfeature import api

from benchmarks import bulk
from classfeed_dagster import trading_days
from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.local.dagster_services import dagster_services, free_port
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.orchestration.run_date import run_date
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster.tags import CLOCK_TAG
from classfeed_dagster_tests.torture.backfill import Seen, launch, watch
from classfeed_dagster_tests.torture.workers.machine import Machine, network
from classfeed_dagster_tests.torture.workers.outcome import Outcome, contents
from classfeed_dagster_tests.torture.workers.services import (
    BUCKET,
    S3_COMMANDS,
    Services,
    instance_settings,
    missing,
    services,
)
from classfeed_dagster_tests.torture.workers.watching import Log, at_once, leaks, process_of, steps_of

# In the middle of a step with this in its name, who dies: the whole machine, the step's own process, or the run's. A
# date each.
KILLED_AT = (
    ("document", "machine"), ("delivery", "machine"), ("landing", "machine"), ("quarantine", "step"), ("quarantine", "run")
)  # fmt: skip
_POLL_SECONDS = 0.05
# One process uses no shards, so the compared dates were divided differently.
_USUAL = {name: Settings.model_fields[name].default for name in ("shard_portfolios", "slice_portfolios")}


@dataclass
class Ground:
    """Running services and workers."""

    services: Services
    machines: Sequence[Machine]
    instance: DagsterInstance
    ui: str
    store: ObjectStore

    def runs_of(self, day: dt.date) -> list[tuple[str, DagsterRunStatus]]:
        """Return the feed's runs for a date, oldest first."""
        run_filter = RunsFilter(job_name=f"{FEED.name}_job", tags={"dagster/partition": day.isoformat()})
        records = self.instance.get_run_records(run_filter, ascending=True)
        return [(record.dagster_run.run_id, record.dagster_run.status) for record in records]

    def manifests(self, day: dt.date) -> tuple[Manifest, ...]:
        """Return the deliveries of a date."""
        return date_status(self.store, FEED.name, day).deliveries


@contextlib.contextmanager
def standing(
    folder: Path, dates: Sequence[dt.date], workers: int, portfolios: int, shard: int, lost: int, s3: str
) -> Iterator[Ground]:
    """Start services, a filled bigsite, the workers, Dagster's daemon and webserver, until the block ends."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(workers))
        machines_are = "apart: network and mount namespaces of their own" if net.apart else f"not apart: {net.refusal}"
        sys.stderr.write(f"{workers} workers, {machines_are}\n")
        served = stack.enter_context(services(folder, net, lost, s3))
        engine = sa.create_engine(served.bigsite_url)
        bulk.create(engine, portfolios, dates[0])
        for day in dates[1:]:
            bulk.add_day(engine, portfolios, day)
        engine.dispose()
        environment = {
            **served.environment,
            "CLASSFEED_FIRST_BUSINESS_DATE": dates[0].isoformat(),
            "CLASSFEED_SHARD_PORTFOLIOS": str(shard),
            "CLASSFEED_SLICE_PORTFOLIOS": str(min(shard, _USUAL["slice_portfolios"])),
        }
        os.environ.update(environment)
        home = instance_settings(folder / "dagster")
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        machines = [Machine(at, net, folder, environment) for at in range(workers)]
        for machine in machines:
            stack.callback(machine.end)
            machine.start()
        ours = {**environment, "CLASSFEED_HOME": str(folder / "home")}
        ui = stack.enter_context(dagster_services(home, free_port(3210), ours, start_seconds=300))
        store = open_store(f"s3://{BUCKET}/celery", s3_endpoint_url=served.s3)
        yield Ground(served, machines, instance, ui, store)


def through(ground: Ground, dates: Sequence[dt.date], seen: Outcome, limit: float) -> None:
    """Deliver all dates as one backfill, undisturbed."""
    backfill = Seen(len(dates))
    watch(ground.instance, launch(ground.ui, list(dates)), backfill, limit)
    seen.at_once = backfill.at_once
    seen.seconds = backfill.seconds


def killing(
    ground: Ground, dates: Sequence[dt.date], kinds: Sequence[tuple[str, str]], seen: Outcome, limit: float
) -> None:
    """Deliver one date after the other; each loses the worker in the middle of a step."""
    for day, (part, person) in zip(dates, itertools.cycle(kinds), strict=False):
        for machine in ground.machines:
            if not machine.runs:
                machine.start()
        began = time.monotonic()
        launch(ground.ui, [day])
        killed, log = False, None
        while time.monotonic() - began < limit:
            runs = ground.runs_of(day)
            if not killed and runs:
                log = log or Log(ground.instance, runs[-1][0])
                killed = _kill_within(ground, log, runs[-1][0], part, person, seen)
            over = runs and all(DagsterRunStatus(status) in _OVER for _, status in runs)
            if over and (ground.manifests(day) or time.monotonic() - began > limit / 2):
                break
            time.sleep(_POLL_SECONDS)
        seen.seconds += time.monotonic() - began
        if not killed:
            seen.broken.append(f"{day}: nobody was caught in the middle of a step with {part!r} in its name")


_OVER = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def _kill_within(ground: Ground, log: Log, run_id: str, part: str, who: str, seen: Outcome) -> bool:
    for step, worker in list(log.read().under_way(part)):
        (machine,) = (item for item in ground.machines if item.name == worker)
        machine.freeze()  # the log's present content stays true
        if (step, worker) in log.read().under_way(part):
            if who == "machine":
                machine.kill()
            elif who == "step":
                machine.kill_step()
            else:
                os.kill(check.not_none(process_of(ground.instance, run_id)), signal.SIGKILL)
                machine.thaw()
            seen.kills.append(f"{worker if who == 'machine' else 'the process of the ' + who} within {step}")
            return True
        machine.thaw()
    return False


def judge(ground: Ground, dates: Sequence[dt.date], folder: Path, seen: Outcome) -> None:
    """Compare with the same dates in one process, in a store of their own; count what each worker did."""
    seen.megabytes = max(machine.megabytes for machine in ground.machines if machine.runs)
    workers: set[str] = set()
    reading: list[tuple[float, float]] = []
    for day in dates:
        for run_id, status in ground.runs_of(day):
            seen.runs[status.value] += 1
            times = ground.instance.get_run_stats(run_id)
            seen.within += (times.end_time or 0.0) - (times.start_time or times.end_time or 0.0)
            matches = steps_of(ground.instance, run_id)
            seen.steps += matches.by_worker
            seen.again += matches.again
            reading += [(begin, end) for step, begin, end in matches.spans if step == "landing"]
            workers |= set(matches.by_worker)
            if status not in _OVER:
                seen.broken.append(f"the run {run_id} of {day} has not ended")
    seen.snapshots = at_once(reading)
    if seen.snapshots > 1:
        seen.broken.append("more snapshots were read at once than the pool allows")
    lost = sum("of the run" not in kill for kill in seen.kills)  # the others' steps begin again in another run
    if seen.again != lost:
        seen.broken.append(f"{seen.again} steps were taken again, {lost} were lost")
    if workers != {machine.name for machine in ground.machines}:
        seen.broken.append(f"only {sorted(workers)} did anything")
    delivered = {day: manifests for day in dates if (manifests := ground.manifests(day))}
    seen.once = sum(len(manifests) == 1 for manifests in delivered.values())
    alone = _alone(ground.services, {day: result[0] for day, result in delivered.items()}, folder, seen)
    for day, (manifest, *_) in delivered.items():
        seen.pages += len(manifest.pages)
        seen.size += sum(page.document_bytes for page in manifest.pages)
        if contents(manifest) == contents(alone[day]):
            seen.same += 1
        else:
            seen.broken.append(f"{day}: not what one process delivers")
    found_wrong = verify_feed(ground.store, FEED.name, FEED.format)
    seen.broken += [str(problem) for problem in found_wrong.problems]
    if not seen.once == seen.same == len(dates):
        seen.broken.append("a date is missing, or went more than once")
    message = str(pack_value(ground.instance.get_ref()))  # is passed to the workers with every step
    if any(password in message for password in ground.services.passwords):
        seen.broken.append("a password stands in what is sent to the workers")
    seen.broken += [
        f"a password stands in {where}" for where in leaks(ground.services.dagster_url, ground.services.passwords)
    ]


def _alone(
    served: Services, delivered: Mapping[dt.date, Manifest], folder: Path, seen: Outcome
) -> dict[dt.date, Manifest]:
    settings = Settings(
        home=folder / "alone",
        store_url=f"s3://{BUCKET}/alone",
        executor="in_process",
        bigsite_url=served.bigsite_url,
        **_USUAL,
    )
    runtime = Runtime(settings)
    definitions = build_definitions(runtime)
    manifests: dict[dt.date, Manifest] = {}
    try:
        with DagsterInstance.ephemeral() as instance:
            began = time.monotonic()
            for day, manifest in sorted(delivered.items()):
                clock = {CLOCK_TAG: manifest.snapshot.snapshot_at.isoformat()}
                report = run_date(definitions, instance, FEED.name, day, tags=clock)
                assert report.outcome.exit_code == 0, report.message
                manifests[day] = date_status(runtime.store, FEED.name, day).deliveries[0]
            seen.alone = time.monotonic() - began
    finally:
        runtime.close()
        api.clear_providers()
    return manifests


def played(given: argparse.Namespace, folder: Path) -> Outcome:
    """Run the whole campaign once."""
    kinds = [item for item in KILLED_AT if given.kill in ("all", item[1])]
    count = given.dates or max(1, len(kinds))
    dates = [day for day in trading_days.business_days() if day >= bulk.FIRST_DAY][:count]
    outcome = Outcome(given.portfolios, len(dates))
    shard = given.shard_portfolios or max(1, given.portfolios // (2 * given.workers))
    with standing(folder, dates, given.workers, given.portfolios, shard, given.lost_seconds, given.s3) as ground:
        if kinds:
            killing(ground, dates, kinds, outcome, given.limit)
        else:
            through(ground, dates, outcome, given.limit)
        judge(ground, dates, folder, outcome)
    return outcome


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portfolios", type=int, default=300)
    parser.add_argument("--dates", type=int, help="business dates; 1, or with --kill one for each death")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-portfolios", type=int, help="portfolios a worker takes at a time; two shards a worker")
    parser.add_argument(
        "--kill", nargs="?", const="all", choices=("all", "machine", "step", "run"), help="who dies within a step"
    )
    parser.add_argument("--lost-seconds", type=int, default=12, help="when a worker counts as lost")
    parser.add_argument("--s3", choices=S3_COMMANDS, default="moto", help="server of the store")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which it gives up")
    parser.add_argument("--keep", action="store_true", help="keep the folder with everybody's logs, and say where")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers, services and networks end too
    if (needed := missing()) is not None:
        parser.error(needed)
    folder = Path(tempfile.mkdtemp(prefix="classfeed-workers-"))
    try:
        outcome = played(options, folder)
    finally:
        if options.keep:
            sys.stderr.write(f"logs: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(outcome)
    sys.exit(1 if outcome.broken else 0)


if __name__ == "__main__":
    main()
