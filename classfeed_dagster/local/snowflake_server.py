"""Local Snowflake for a laptop, a demo or a test: fakesnow's server, with Snowflake's interface.

One server serves all processes under a home folder. Its data is in ``<home>/snowflake``; a file there has its process
and port. Each process that uses it holds a lease. Releasing the last lease stops the server; a server whose users were
killed stops after a check of the leases. Never for production.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classfeed_dagster.errors import WarehouseUnavailableError
from classfeed_dagster.extras import require_extra
from classfeed_dagster.local.processes import ProcessIdentity, start_of

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
TURN_SECONDS, _TURN_POLL_SECONDS = 600.0, 0.1
DATABASE, SCHEMA = "CLASSFEED", "FEED"
_started: dict[int, subprocess.Popen[bytes]] = {}  # servers started by this process, which must wait for their end


class LocalWarehouseError(WarehouseUnavailableError):
    """The local warehouse did not start or answer. The message names its log."""


def require_local_snowflake() -> None:
    """Raise MissingExtraError if the local Snowflake is not installed."""
    require_extra("The local Snowflake", "embedded", "fakesnow", instead="set the CLASSFEED_SNOWFLAKE_ settings")


def start(home: Path) -> dict[str, Any]:
    """Start or join the server under ``home`` and take a lease; return the connector's arguments.

    LocalWarehouseError if it does not answer; its log is ``<home>/snowflake/server.log``. MissingExtraError if it is
    not installed.
    """
    require_local_snowflake()
    folder = _folder(home)
    if "'" in str(folder):  # fakesnow's statements have the path in single quotes
        raise LocalWarehouseError(
            f"The local Snowflake cannot be in the folder {folder}: a path with '. Choose another with CLASSFEED_HOME."
        )
    with _locked(folder):
        port = _running(folder)
        if port is None:
            port = _launch(folder)
        _lease(folder, ProcessIdentity.current()).touch()
    return arguments(port)


def release(home: Path) -> bool:
    """Release this process's lease; return True if that stopped the server, since no living process holds another."""
    folder = _folder(home)
    if not folder.is_dir():
        return False
    with _locked(folder):
        _lease(folder, ProcessIdentity.current()).unlink(missing_ok=True)
        return not has_users(folder) and _stop(folder)


def stop(home: Path) -> bool:
    """Stop the server under ``home``, even if it is in use; return False if none runs there."""
    folder = _folder(home)
    if not folder.is_dir():
        return False
    with _locked(folder):
        return _stop(folder)


@contextmanager
def turn(home: Path, seconds: float = TURN_SECONDS) -> Iterator[None]:
    """Hold the local warehouse for the block; LocalWarehouseError, naming the holder, after ``seconds`` of waiting.

    Transactions of two connections to the same rows fail here, where Snowflake's wait for each other. The system drops
    the turn of a process that ends.
    """
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    path, until = folder / "turn", time.monotonic() + seconds
    with path.open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LocalWarehouseError(
                        f"The local warehouse under {folder} was in use for {seconds:.0f} s by process "
                        f"{path.read_text() or 'unknown'}: wait for its end, or stop it, and run again"
                    ) from None
                time.sleep(_TURN_POLL_SECONDS)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def idle_file(home: Path) -> Iterator[Path | None]:
    """Yield the data file of a local warehouse that no server serves; None without one, or while a server runs.

    No server starts until the block is left, so the file can be read.
    """
    folder = _folder(home)
    if not _data(folder).is_file():
        yield None
        return
    with _locked(folder):
        yield None if _running(folder) else _data(folder)


def exists(home: Path) -> bool:
    """Return True if the local warehouse under ``home`` has a data file."""
    return _data(_folder(home)).is_file()


def has_users(folder: Path) -> bool:
    """Return True if a living process holds a lease; drop the leases of dead ones."""
    users = False
    for path in (folder / "leases").glob("*"):
        holder = ProcessIdentity.parse(path.name.replace("_", " "))
        if holder is None or holder.dead:
            path.unlink(missing_ok=True)
        else:
            users = True
    return users


def stop_if_unused(folder: Path, port: int) -> None:
    """End this process, the server at ``port``, if no living process holds a lease or the folder was removed."""
    if folder.is_dir():
        with _locked(folder):
            state = _read_state(folder)
            if state is not None and state["port"] == port:
                if has_users(folder):
                    return
                _state(folder).unlink(missing_ok=True)
    os.kill(os.getpid(), signal.SIGTERM)


def arguments(port: int) -> dict[str, Any]:
    """Return the Snowflake connector's arguments for the local server. The password is a placeholder."""
    return {
        "account": "fakesnow",
        "host": "127.0.0.1",
        "port": port,
        "protocol": "http",
        "user": "local",
        "password": "local",
        "database": DATABASE,
        "schema": SCHEMA,
        # An unknown error of the server becomes HTTP 500, which the connector would retry for minutes.
        "network_timeout": 30,
        "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
    }


def _launch(folder: Path) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (folder / "server.log").open("wb") as log:
        # Its own session: Ctrl-C in the terminal that started it must not stop it for other processes.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "classfeed_dagster.local.snowflake_process", str(port), str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started[process.pid] = process
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            _started.pop(process.pid).wait()
            raise LocalWarehouseError(f"The local warehouse did not start: see its log {folder / 'server.log'}")
        time.sleep(0.05)
    state = {"pid": process.pid, "port": port, "started": start_of(process.pid)}
    _state(folder).write_text(json.dumps(state))
    return port


def _stop(folder: Path) -> bool:
    state = _read_state(folder)
    running = _running(folder)
    _state(folder).unlink(missing_ok=True)
    if state is None or running is None:
        return False
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    process = _started.pop(state["pid"], None)
    while start_of(state["pid"]) == state["started"]:
        if time.monotonic() > deadline:
            os.kill(state["pid"], signal.SIGKILL)
        time.sleep(0.05)
    if process is not None:
        process.wait(_STOP_SECONDS)
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The system drops the lock of a process that ends, however it ends.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leases").mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder(home: Path) -> Path:
    return (home.expanduser() / "snowflake").resolve()


def _data(folder: Path) -> Path:
    return folder / f"{DATABASE}.db"


def _state(folder: Path) -> Path:
    return folder / "server.json"


def _lease(folder: Path, holder: ProcessIdentity) -> Path:
    return folder / "leases" / str(holder).replace(" ", "_")


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(_state(folder).read_text())
        return {"pid": int(state["pid"]), "port": int(state["port"]), "started": str(state["started"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _running(folder: Path) -> int | None:
    """Return the port of the server in the state file, if that very process still runs and answers."""
    state = _read_state(folder)
    if state is None or start_of(state["pid"]) != state["started"] or not _listens(state["port"]):
        return None
    port: int = state["port"]
    return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
