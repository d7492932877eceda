"""Identity of a process: number, start and machine, since the system reuses the numbers of ended processes."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STATE, _START = 0, 19  # fields of /proc/<pid>/stat after the command's name
_DEAD = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one machine.

    Attributes:
        host: name of the machine (in a container: of the container).
        pid: process number, which the system reuses.
        started: start of the process, counted since the machine's boot; independent of clock changes.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return the identity of this process."""
        return cls(socket.gethostname(), os.getpid(), start_of(os.getpid()) or "")

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Return the identity written by ``str``; None for any other text."""
        host, _, rest = text.partition(" ")
        pid, _, started = rest.partition(" ")
        return cls(host, int(pid), started) if pid.isdecimal() and started else None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def local(self) -> bool:
        """Return True if the process is of this machine, so that it can be looked up."""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """Return True if the process has certainly ended. A process of another machine never counts as dead."""
        return self.local and start_of(self.pid) != self.started


def start_of(pid: int) -> str | None:
    """Return the start of the running process ``pid`` as a token; None without one."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[_STATE] in _DEAD else f"{_boot()}:{fields[_START]}"
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


@cache
def _boot() -> str:
    # A restarted machine counts from zero again.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
