"""Dagster UI and daemon as child processes of `classfeed up`: started and stopped together."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from classfeed_dagster.errors import SafeguardError, TemporaryError
from classfeed_dagster.local.processes import ProcessIdentity, start_of
from classfeed_dagster.tags import CODE_LOCATION

# The same location name as in a checkout and in production, so that runs are shown in each.
_WORKSPACE = f"""load_from:
  - python_module:
      module_name: classfeed_dagster.definitions
      location_name: {CODE_LOCATION}
"""
_STARTED = "services"  # the processes that an ``up`` started
_WEBSERVER = "classfeed_dagster.orchestration.webserver"


class ServiceError(TemporaryError):
    """A local service did not start, or has ended. The message names its log file."""


class AlreadyUpError(SafeguardError):
    """The services of the home folder already run."""


@contextmanager
def only_services(home: Path) -> Iterator[Callable[[str], None]]:
    """Hold the home folder's lock for the block; yield a function that records the UI's address in it.

    AlreadyUpError, naming process and address, if another living process holds it. The system drops the lock of a
    process that ends, however it ends.
    """
    path = home / "up.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "another process"
            raise AlreadyUpError(
                f"classfeed up already runs on {home} ({holder}): open that address, or stop that process first"
            ) from None

        def record(address: str) -> None:
            lock.truncate(0)
            lock.write(f"{address}, process {os.getpid()}")
            lock.flush()

        yield record


def running_address(home: Path) -> str | None:
    """Return the UI's address while the services of the home folder run; None otherwise."""
    path = home / "up.lock"
    if not path.exists():
        return None
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return path.read_text().partition(",")[0] or None
    return None


def free_port(preferred: int) -> int:
    """Return ``preferred`` if nothing listens there on this machine, else a free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dagster_services(
    home: Path, port: int, environment: Mapping[str, str], *, start_seconds: int = 90
) -> Iterator[str]:
    """Run the webserver and the daemon for the block; yield the UI's address.

    ``home`` is the Dagster instance's folder, which has the services' logs. ServiceError if the UI doesn't answer.
    """
    # A file of the working folder, such as gql.py, must not stand in for a library.
    variables = {**os.environ, **environment, "DAGSTER_HOME": str(home), "PYTHONSAFEPATH": "1"}
    commands = {
        "webserver": [sys.executable, "-m", _WEBSERVER, "-h", "127.0.0.1", "-p", str(port)],
        "daemon": [str(Path(sys.executable).with_name("dagster-daemon")), "run"],
    }
    workspace = home / "workspace.yaml"
    workspace.write_text(_WORKSPACE)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (home / f"{name}.log").open("wb") as log:
                # A new session: Ctrl-C reaches this process first, which stops the services in order.
                processes[name] = subprocess.Popen(  # noqa: S603 - our own commands
                    [*command, "-w", str(workspace)],
                    env=variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                _record(home, processes[name].pid)
        address = f"http://127.0.0.1:{port}"
        _wait_until_up(address, processes, home, start_seconds)
        yield address
    finally:
        stop_left_over(home)
        for process in processes.values():
            process.kill()  # only one that could not be recorded still runs
            process.wait()


def stop_left_over(home: Path) -> bool:
    """Stop the services that were started for the home folder; return False if none of their processes lives.

    In sessions of their own they outlive a killed `classfeed up`, and hold its port. Their code server and run workers
    outlive them in turn.
    """
    started = _started(home)
    found = any(map(_members, started))
    for stop in (signal.SIGTERM, signal.SIGKILL):
        for process in itertools.chain.from_iterable(map(_members, started)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(stop)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(map(_members, started)):
            time.sleep(0.1)
    (home / _STARTED).unlink(missing_ok=True)
    return found


def _members(service: ProcessIdentity) -> list[psutil.Process]:
    # Living processes of the session that a service began. Its number is not given again while one of them lives.
    if not service.local or start_of(service.pid) not in (None, service.started):
        return []
    return [each for each in psutil.process_iter() if _session(each.pid) == service.pid and start_of(each.pid)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # ended meanwhile
        return None


def wait_while_up(home: Path, stopped: threading.Event) -> None:
    """Wait until ``stopped`` is set. ServiceError once one of the services has ended: runs would wait forever."""
    while not stopped.wait(1):
        if any(identity.dead for identity in _started(home)):
            logs = " and ".join(str(home / f"{name}.log") for name in ("webserver", "daemon"))
            raise ServiceError(f"The webserver or the daemon has ended: see {logs}, then run `classfeed up` again")


def _started(home: Path) -> list[ProcessIdentity]:
    path = home / _STARTED
    identities = map(ProcessIdentity.parse, path.read_text().splitlines() if path.exists() else ())
    return [identity for identity in identities if identity is not None]


def _record(home: Path, pid: int) -> None:
    identity = ProcessIdentity(ProcessIdentity.current().host, pid, start_of(pid) or "")
    with (home / _STARTED).open("a") as file:
        file.write(f"{identity}\n")


def _wait_until_up(address: str, processes: Mapping[str, subprocess.Popen[bytes]], home: Path, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ServiceError(f"The {name} stopped at once: see its log {home / f'{name}.log'}")
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=2):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ServiceError(f"The UI at {address} did not answer within {seconds} s: see its log {home / 'webserver.log'}")
