"""A local stand-in for Snowflake, for a laptop, a demo or a test: fakesnow's server, reached like Snowflake.

One server serves every process of the machine. Its data lives in ``<home>/snowflake``; a file there says where it
listens. Never for production: there the connection is Dagster's Snowflake resource with a key pair.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from classfeed_dagster.errors import WarehouseUnavailableError

_START_SECONDS = 60.0
_PROCESS = "classfeed_dagster.local.snowflake_process"
DATABASE, SCHEMA = "CLASSFEED", "FEED"
_started: dict[int, subprocess.Popen[bytes]] = {}  # servers that this process started: it must collect their end


class LocalWarehouseError(WarehouseUnavailableError):
    """The local warehouse could not be started or reached. The message names its log."""


def start(home: Path) -> dict[str, Any]:
    """Start (or join) the server under ``home``; arguments for ``snowflake.connector.connect``.

    LocalWarehouseError if it doesn't answer; its log is ``<home>/snowflake/server.log``.
    """
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    running = _running(folder)
    if running is not None:
        return arguments(running)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (folder / "server.log").open("wb") as log:
        # A session of its own: Ctrl-C in the terminal that started it must not stop it for the others.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", _PROCESS, str(port), str(folder)],
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
            raise LocalWarehouseError(f"the local warehouse did not start; its log is {folder / 'server.log'}")
        time.sleep(0.05)
    _state(folder).write_text(json.dumps({"pid": process.pid, "port": port}))
    return arguments(port)


def stop(home: Path) -> bool:
    """Stop the server under ``home``; False if none runs there."""
    folder = _folder(home)
    state = _read_state(folder)
    if state is None or _running(folder) is None:
        _state(folder).unlink(missing_ok=True)
        return False
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _listens(state["port"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    if (process := _started.pop(state["pid"], None)) is not None:
        process.wait(10)
    _state(folder).unlink(missing_ok=True)
    return True


def stop_own(home: Path) -> bool:
    """Stop the server under ``home`` if this process started it; others' is left running."""
    state = _read_state(_folder(home))
    return state is not None and state["pid"] in _started and stop(home)


def arguments(port: int) -> dict[str, Any]:
    """How the Snowflake connector reaches the local server. The password is a placeholder: nothing checks it."""
    return {
        "account": "fakesnow",
        "host": "127.0.0.1",
        "port": port,
        "protocol": "http",
        "user": "local",
        "password": "local",
        "database": DATABASE,
        "schema": SCHEMA,
        # An error that the server can't name becomes HTTP 500, which the connector would retry for minutes.
        "network_timeout": 30,
        "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
    }


def _folder(home: Path) -> Path:
    return home.expanduser().resolve() / "snowflake"


def _state(folder: Path) -> Path:
    return folder / "server.json"


def _read_state(folder: Path) -> dict[str, int] | None:
    try:
        state = json.loads(_state(folder).read_text())
        return {"pid": int(state["pid"]), "port": int(state["port"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _running(folder: Path) -> int | None:
    """The port of the server that the state file tells of, if it is one of ours and answers."""
    state = _read_state(folder)
    if state is None or not _listens(state["port"]):
        return None
    command = Path(f"/proc/{state['pid']}/cmdline")
    # A pid is used again after a restart of the machine: only our own server is joined or stopped.
    if command.parent.parent.exists() and command.exists() and _PROCESS.encode() not in command.read_bytes():
        return None
    return state["port"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
