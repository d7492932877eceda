"""The services of `classfeed up`: one set a home folder, whatever became of the process that held it."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from classfeed_dagster.errors import ExitCode
from classfeed_dagster.local.dagster_instance import dagster_home
from classfeed_dagster.local.dagster_services import (
    AlreadyUpError,
    dagster_services,
    free_port,
    only_services,
    running_address,
    stop_left_over,
)
from classfeed_dagster.local.processes import ProcessIdentity, start_of

HOLDER = """
import sys, time
from pathlib import Path
from classfeed_dagster.local.dagster_services import only_services
with only_services(Path(sys.argv[1])) as record:
    record("http://127.0.0.1:3999")
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_up_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(AlreadyUpError, match=rf"http://127\.0\.0\.1:3999, process {holder.pid}"),
        only_services(tmp_path),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_services(tmp_path) as record:
        record("http://127.0.0.1:4000")
        assert (tmp_path / "up.lock").read_text() == f"http://127.0.0.1:4000, process {os.getpid()}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["up", "seed"])
def test_closed_terminal_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path))
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.execv(sys.executable, [sys.executable, "-m", "classfeed_dagster.cli.app", command])
    deadline = time.monotonic() + 240
    ready = tmp_path / ("dagster/up.lock" if command == "up" else "postgres/postmaster.pid")
    while not (ready.exists() and ready.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _processes(tmp_path)
    os.close(terminal)  # the system sends SIGHUP
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, "it has not ended"
        time.sleep(0.2)
    assert not _processes(tmp_path)


def _processes(home: Path) -> list[str]:
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(home) in line]


@pytest.mark.nightly  # the real program three times; its parts are tested below
def test_up_killed_or_without_its_daemon_ends_and_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("CLASSFEED_HOME", str(tmp_path))
    port = free_port(3950)
    printed, codes = [], []

    def kill_daemon(_: subprocess.Popen[str]) -> None:
        for service in psutil.process_iter(["cmdline"]):
            line = " ".join(service.info["cmdline"] or ())
            if str(tmp_path) in line and "dagster-daemon" in line:
                service.kill()

    for end in (subprocess.Popen.kill, subprocess.Popen.terminate, kill_daemon):
        command = [sys.executable, "-m", "classfeed_dagster.cli.app", "up", "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                printed.append(line)
                if "The Dagster UI" in line:
                    end(process)
        codes.append(process.returncode)
    assert len(printed) == 6, printed
    first, stopped, second, last, third, ended = printed
    assert (first, stopped) == (second, "Stopped the services of a `classfeed up` that was killed\n")
    assert f"http://127.0.0.1:{port} " in second
    assert last == "stopped\n"
    assert third == second
    assert ended.startswith("classfeed: The webserver or the daemon has ended: see ")
    assert ended.endswith(f"{tmp_path}/dagster/daemon.log, then run `classfeed up` again\n")
    assert codes == [-signal.SIGKILL, 0, ExitCode.FAILED]
    assert not _processes(tmp_path)


def test_services_of_a_killed_up_are_stopped_by_the_next(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    service, other = (subprocess.Popen(sleeping, start_new_session=True) for _ in range(2))
    host = ProcessIdentity.current().host
    (tmp_path / "services").write_text(
        f"{host} {service.pid} {start_of(service.pid)}\n{host} {other.pid} another:1\n"  # a number given again
    )
    try:
        assert stop_left_over(tmp_path)
        assert service.wait(10) == -signal.SIGTERM
        assert other.poll() is None
        assert not (tmp_path / "services").exists()
        assert not stop_left_over(tmp_path)
    finally:
        service.kill()
        other.kill()
        other.wait()


def test_code_server_of_a_killed_service_is_stopped(tmp_path: Path) -> None:
    command = ["bash", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as service:
        assert service.stdout is not None
        child = psutil.Process(int(service.stdout.readline()))
        started = ProcessIdentity(ProcessIdentity.current().host, service.pid, start_of(service.pid) or "")
        (tmp_path / "services").write_text(f"{started}\n")
        service.kill()
    try:
        assert child.is_running()
        assert stop_left_over(tmp_path)
        assert start_of(child.pid) is None
    finally:
        if start_of(child.pid):
            child.kill()


@pytest.mark.slow
def test_services_ignore_the_modules_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gql.py").write_text("raise ImportError('a module of the working folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    folder = tmp_path / "home"
    home = dagster_home(folder)
    with dagster_services(home, free_port(3000), {"CLASSFEED_HOME": str(folder)}) as address:
        assert address.startswith("http://127.0.0.1:")


def test_port_that_is_taken_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken


def test_running_address_is_known_while_the_services_run(tmp_path: Path) -> None:
    assert running_address(tmp_path) is None
    with only_services(tmp_path) as record:
        assert running_address(tmp_path) is None  # starting
        record("http://127.0.0.1:3001")
        assert running_address(tmp_path) == "http://127.0.0.1:3001"
    assert running_address(tmp_path) is None
