"""One line of the table: a fault, how often it was tried, what came of it, with the time and memory that it took."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil

MEGABYTES = 1024  # at most, of the process of an attack


@dataclass(frozen=True)
class Row:
    """``broken`` lists what did not hold; empty is good."""

    attack: str
    fault: str
    tried: int
    outcome: str
    broken: Sequence[str] = ()


@dataclass
class Budget:
    """Seconds that an attack may take. It tries at least ``least`` times whatever that costs."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def part(self, share: float) -> Budget:
        """Return a share of the rest."""
        return Budget(max(self.left, 0) * share)


@dataclass
class Peak:
    """The process's peak memory and the seconds of a block."""

    seconds: float = 0.0
    megabytes: int = 0

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.megabytes} MB"


@contextlib.contextmanager
def measured() -> Iterator[Peak]:
    """Sample the resident memory of this process while the block runs."""
    peak, over, process = Peak(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not over.wait(0.05):
            peak.megabytes = max(peak.megabytes, process.memory_info().rss >> 20)

    began, sampler = time.monotonic(), threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()
        peak.seconds = time.monotonic() - began


def scattered(count: int) -> list[int]:
    """Return 1 to ``count``, the last first, then so that the first few are spread over all: an early stop has seen all parts."""
    bits = max(1, count.bit_length())
    turned = (int(f"{at:0{bits}b}"[::-1], 2) for at in range(1 << bits))
    return [count - at for at in turned if at < count]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| attack | fault | tried | outcome | |", "|---|---|---:|---|---|"]
    for row in rows:
        verdict = "BROKEN" if row.broken else "held"
        lines.append(f"| {row.attack} | {row.fault} | {row.tried} | {row.outcome} | {verdict} |")
    return "\n".join(lines)
