"""Measurement of the benchmarks: the candidates take turns, round after round, each run in a fresh process.

pyperf and pytest-benchmark measure one candidate after the other, so that a busy minute of the machine affects only one
of them. Neither records a fresh process's peak memory. This file adds rounds, a process a run, and Linux's figures.
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
    """A run failed, or the ways' answers differ."""


@dataclass(frozen=True, slots=True)
class Way:
    """One candidate of a comparison.

    ``prepare(scratch, **arguments)`` prepares the run in the fresh process and returns the work to be timed.
    ``scratch`` is an empty folder for this run. The work's facts are stored with its figures; an ``answer`` in them
    must be equal for all candidates.
    """

    name: str
    prepare: Callable[..., Work]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """Figures of one run. Processor seconds include threads and children; memory is in bytes."""

    wall: float
    processor: float
    server: float  # processor seconds of its PostgreSQL
    peak: int  # peak memory during the work, with the prepared data
    prepared: int  # memory before the work
    facts: Facts


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate and its runs."""

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
        """Return the median of a number among the facts."""

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
        """Return the candidate ``name``; KeyError if it was not measured."""
        for way in self.ways:
            if way.name == name:
                return way
        raise KeyError(f"{name} took no part in {self.name}")


def compare(
    name: str,
    portfolios: int,
    description: str,
    ways: Sequence[Way],
    *,
    rounds: int,
    until: float = float("inf"),
    server: Path | None = None,
) -> Part:
    """Run the ways A B C, A B C, ...; at least one round, none begun after ``until`` (``time.monotonic``).

    ``server`` is the folder of the PostgreSQL whose time is measured too. BenchmarkError if a run fails or the answers
    differ.
    """
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for at in range(rounds):
        if at and time.monotonic() > until:
            break
        for way in ways:
            runs[way.name].append(run_once(way, server))
    answers = {repr(run.facts["answer"]) for measured in runs.values() for run in measured if "answer" in run.facts}
    if len(answers) > 1:
        raise BenchmarkError(f"{name}: the ways' answers differ: {sorted(answers)}")
    return Part(name, portfolios, description, tuple(Measured(way.name, tuple(runs[way.name])) for way in ways))


def run_once(way: Way, server: Path | None = None) -> Run:
    """Run once in a separate process; BenchmarkError if it fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    scratch = Path(tempfile.mkdtemp(prefix="classfeed-bench-run-"))
    process = context.Process(target=_child, args=(theirs, way, scratch, server))
    try:
        process.start()
        theirs.close()
        try:
            result = ours.recv()
        except EOFError:
            process.join()
            raise BenchmarkError(f"{way.name}: its process died with {process.exitcode}") from None
        process.join()
    finally:
        process.kill()  # it has ended, or this one is being stopped
        process.join()
        shutil.rmtree(scratch, ignore_errors=True)
    if not isinstance(result, Run):
        raise BenchmarkError(f"{way.name} failed:\n{result}")
    return result


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
        result: object = Run(wall, processor, server_seconds(server) - served, peak, prepared, facts)
    except BaseException:
        result = traceback.format_exc()
    pipe.send(result)
    pipe.close()


def processor_seconds() -> float:
    """Return the seconds of processor that this process, its threads and its finished children have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(name: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` (its highest so far) of this process, in bytes.

    ``ru_maxrss`` won't do: a process inherits its starter's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"this system does not report {name} of a process")


def forget_peak() -> None:
    """Reset ``VmHWM``."""
    Path("/proc/self/clear_refs").write_text("5")


def server_seconds(folder: Path | None) -> float:
    """Return the seconds of processor that the PostgreSQL under ``folder`` has used so far, sessions that ended included."""
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
    """Describe the machine of the measurements."""
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
    """Return True if ``needed`` bytes leave this machine enough memory."""
    return bool(needed < 0.7 * psutil.virtual_memory().available)
