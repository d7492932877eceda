"""How the benchmarks measure: each way of doing a thing in turn, round after round, every run in a fresh process.

pyperf and pytest-benchmark measure one thing to its end and then the next, so that a busy minute of the machine falls
on one of them alone, and neither keeps a fresh process's peak memory beside its time. What is needed beyond them is
this file: rounds, a process a run, and Linux's own figures of it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

Facts = Mapping[str, Any]
Work = Callable[[], Facts | None]
MB = 1_000_000
SETTLES = 0.2  # seconds after which PostgreSQL has counted a session that ended


class BenchmarkError(RuntimeError):
    """A run failed, or two ways that must agree did not."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing a thing.

    ``prepare(scratch, **arguments)`` gets everything ready, in the fresh process, and returns the work to be timed.
    ``scratch`` is an empty folder for this run alone. What the work returns is kept beside its figures; an
    ``answer`` in it must be the same for every way compared.
    """

    name: str
    prepare: Callable[..., Work]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures. Seconds of processor are of the process, its threads and children; memory is in bytes."""

    wall: float
    processor: float
    server: float  # seconds of processor of the PostgreSQL that served it
    peak: int  # most memory that the process held while it worked, what was prepared included
    prepared: int  # memory that it held before
    facts: Facts


@dataclass(frozen=True, slots=True)
class Measured:
    """A way and its runs."""

    name: str
    runs: tuple[Run, ...]

    @property
    def wall(self) -> float:
        """Median seconds of the clock."""
        return statistics.median(run.wall for run in self.runs)

    @property
    def processor(self) -> float:
        """Median seconds of processor."""
        return statistics.median(run.processor for run in self.runs)

    @property
    def server(self) -> float:
        """Median seconds of processor of PostgreSQL."""
        return statistics.median(run.server for run in self.runs)

    @property
    def peak(self) -> float:
        """Median of the peaks, in bytes."""
        return statistics.median(run.peak for run in self.runs)

    def fact(self, *path: str) -> float:
        """Median of a number among the facts."""

        def found(facts: Any) -> float:
            for name in path:
                facts = facts[name]
            return float(facts)

        return statistics.median(found(run.facts) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison at one size: the first way is the baseline."""

    name: str
    portfolios: int
    what: str  # a sentence: what was done to how much
    ways: tuple[Measured, ...]

    def way(self, name: str) -> Measured:
        """The way called ``name``; KeyError if it took no part."""
        for way in self.ways:
            if way.name == name:
                return way
        raise KeyError(f"{name} took no part in {self.name}")


def compare(
    name: str,
    portfolios: int,
    what: str,
    ways: Sequence[Way],
    *,
    rounds: int,
    until: float = float("inf"),
    server: Path | None = None,
) -> Part:
    """Run the ways A B C, A B C, ...; at least one round, none begun after ``until`` (``time.monotonic``).

    ``server`` is the folder of the PostgreSQL whose time counts beside. BenchmarkError if a run fails or the ways'
    answers differ.
    """
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for at in range(rounds):
        if at and time.monotonic() > until:
            break
        for way in ways:
            runs[way.name].append(run_once(way, server))
    answers = {repr(run.facts["answer"]) for kept in runs.values() for run in kept if "answer" in run.facts}
    if len(answers) > 1:
        raise BenchmarkError(f"{name}: the ways did not come to the same: {sorted(answers)}")
    return Part(name, portfolios, what, tuple(Measured(way.name, tuple(runs[way.name])) for way in ways))


def run_once(way: Way, server: Path | None = None) -> Run:
    """One run in a process of its own; BenchmarkError if it fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    scratch = Path(tempfile.mkdtemp(prefix="classfeed-bench-run-"))
    process = context.Process(target=_child, args=(theirs, way, scratch, server))
    try:
        process.start()
        theirs.close()
        try:
            told = ours.recv()
        except EOFError:
            process.join()
            raise BenchmarkError(f"{way.name}: its process died with {process.exitcode}") from None
        process.join()
    finally:
        process.kill()  # it has ended, or this one is being stopped
        process.join()
        shutil.rmtree(scratch, ignore_errors=True)
    if not isinstance(told, Run):
        raise BenchmarkError(f"{way.name} failed:\n{told}")
    return told


def _child(pipe: Connection, way: Way, scratch: Path, server: Path | None) -> None:
    faulthandler.enable()
    try:
        work = way.prepare(scratch, **way.arguments)
        forget_peak()
        prepared, served = memory("VmRSS"), server_seconds(server)
        wall, processor = time.perf_counter(), processor_seconds()
        facts = work() or {}
        wall, processor = time.perf_counter() - wall, processor_seconds() - processor
        peak = memory("VmHWM")
        if server:
            time.sleep(SETTLES)
        told: object = Run(wall, processor, server_seconds(server) - served, peak, prepared, facts)
    except BaseException:
        told = traceback.format_exc()
    pipe.send(told)
    pipe.close()


def processor_seconds() -> float:
    """Seconds of processor that this process, its threads and its finished children have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` (its highest so far) of this process, in bytes.

    ``ru_maxrss`` won't do: a process inherits its starter's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"this system does not tell {name} of a process")


def forget_peak() -> None:
    """From here on ``VmHWM`` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def server_seconds(folder: Path | None) -> float:
    """Seconds of processor that the PostgreSQL under ``folder`` has used so far, sessions that ended included."""
    if folder is None:
        return 0.0
    postmaster = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
    times = postmaster.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended just now
            continue
        total += used.user + used.system
    return float(total)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load_at_start": os.getloadavg()[0],
    }


def fits(needed: float) -> bool:
    """Would ``needed`` bytes leave this machine room to breathe?"""
    return bool(needed < 0.7 * psutil.virtual_memory().available)
