"""A worker on a machine of its own, as far as this one lends it: network, temporary files, working folder.

With root and the kernel's leave each machine is a network namespace with one cable to the services, and a mount
namespace in which the temporary folder is empty, the harness's folder is not there and the code can't be written to.
Without, it is a process with folders of its own, and ``Network.apart`` says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
_READY_SECONDS = 90.0
_INSIDE = """
mount --make-rprivate /
mount --bind {root} {root} && mount -o remount,bind,ro {root}
mount -t tmpfs -o size=3g tmpfs {temporary}
test -e {folder} && mount -t tmpfs -o size=64m,mode=755 tmpfs {folder}
mkdir -p {temporary}/home/dagster {temporary}/work && cd {temporary}/work && exec "$@"
"""


@dataclass(frozen=True)
class Network:
    """Addresses of the shared services, and the separation of machines. ``refusal``: reason for no separation."""

    address: str
    prefix: str = ""
    refusal: str = ""

    @property
    def apart(self) -> bool:
        """Return True if each machine has a network and files of its own."""
        return not self.refusal


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """Connect ``count`` machines, taken away at the end; or the machine's own loopback, if cables are refused."""
    prefix = f"cf{os.getpid() % 100_000}"
    subnet = f"10.213.{os.getpid() % 250}"
    try:
        if ROOT.is_relative_to(tempfile.gettempdir()):
            raise RefusedError(f"{ROOT} is in {tempfile.gettempdir()}, of which each machine has its own")
        for at in range(count):
            name, ours, theirs = f"{prefix}-{at}", f"{subnet}.{4 * at + 1}", f"{subnet}.{4 * at + 2}"
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("addr", "add", f"{ours}/30", "dev", name)
            _ip("link", "set", name, "up")
            _ip("-n", name, "addr", "add", f"{theirs}/30", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "route", "add", "default", "via", ours)
        probe = ["ip", "netns", "exec", f"{prefix}-0", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs t /mnt"]
        _run(probe)
        yield Network(f"{subnet}.1", prefix)
    except RefusedError as error:
        yield Network("127.0.0.1", refusal=str(error))
    finally:
        for at in range(count):
            for arguments in (("netns", "del", f"{prefix}-{at}"), ("link", "del", f"{prefix}-{at}")):
                with contextlib.suppress(RefusedError):
                    _ip(*arguments)


class RefusedError(RuntimeError):
    """This machine lends no networks or mounts."""


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise RefusedError(f"no {command[0]} here (apt-get install iproute2)")
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RefusedError(f"{' '.join(command)}: {process.stderr.strip() or process.returncode}")


@dataclass
class Machine:
    """One worker, on one end of a cable."""

    at: int
    network: Network
    folder: Path  # the harness's, with all logs
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    killed: int = 0
    logs: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in the runs' logs."""
        return f"machine{self.at + 1}"

    def start(self) -> None:
        """Plug it in; returns once it takes steps. A machine started again has forgotten everything."""
        self.starts += 1
        log = self.folder / f"{self.name}-{self.starts}.log"
        self.logs.append(log)
        worker = [str(Path(sys.executable).with_name("classfeed")), "worker", "--name", self.name]
        own = Path(tempfile.gettempdir())
        if self.network.apart:
            script = _INSIDE.format(root=ROOT, temporary=own, folder=self.folder)
            command = [
                "ip", "netns", "exec", f"{self.network.prefix}-{self.at}", "sh", "-euc", script, "sh", *worker
            ]  # fmt: skip
            place = ROOT
        else:
            command, place = worker, self.folder / f"{self.name}-{self.starts}"
            own = place
            (place / "home" / "dagster").mkdir(parents=True)
        environment = {
            **self.environment,
            "PATH": os.environ["PATH"],
            "HOME": str(own / "home"),
            "TMPDIR": str(own),
            "CLASSFEED_HOME": str(own / "home"),
            "DAGSTER_HOME": str(own / "home" / "dagster"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment, cwd=place, stdout=out, stderr=out)
        deadline = time.monotonic() + _READY_SECONDS
        while b" ready." not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)

    @property
    def runs(self) -> bool:
        """Return True while it is plugged in."""
        return self.process is not None and self.process.poll() is None

    def _everybody(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            worker = psutil.Process(self.process.pid)
            return [worker, *worker.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def megabytes(self) -> float:
        """Resident memory of the process that does the steps."""
        return max((item.memory_info().rss / 1e6 for item in self._everybody()[1:]), default=0.0)

    def _signal(self, number: signal.Signals) -> None:
        for item in self._everybody():
            with contextlib.suppress(psutil.NoSuchProcess):
                item.send_signal(number)

    def freeze(self) -> None:
        """Stop the clock on it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill_step(self) -> None:
        """Kill the process that does the step, as when memory runs out; the worker itself continues."""
        for child in self._everybody()[1:]:
            child.kill()
        self.killed += 1
        self.thaw()

    def kill(self) -> None:
        """Pull the plug: SIGKILL for everything on it, nothing is said to anybody."""
        self._signal(signal.SIGKILL)
        self.killed += 1
        self.end()

    def end(self) -> None:
        """Stop what is left of it."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
