"""Identity of a process: number, start and machine, so that a dead owner is told from a stranger with its number."""

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
        started: start of the process, in the machine's own count since its boot; survives a change of the clock.
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
        """Return the identity that ``str`` wrote, or None if the text is none."""
        host, _, rest = text.partition(" ")
        pid, _, started = rest.partition(" ")
        return cls(host, int(pid), started) if pid.isdecimal() and started else None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def local(self) -> bool:
        """True if the process belongs to this machine, so that it can be looked up."""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """True if the process has certainly ended. A process of another machine is never called dead."""
        return self.local and start_of(self.pid) != self.started


def start_of(pid: int) -> str | None:
    """Return the start of a running process as a token, or None if none has this number."""
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
