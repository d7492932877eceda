"""Projection of the measurements to dates larger than this machine: seconds by workers, and other growing figures.

Plain arithmetic, no measurement: seconds of processor a portfolio, from the largest whole job that was measured, times
the portfolios. Steps that are fanned out are divided among workers; the others stay whole. PostgreSQL's own time is divided
by the sessions that read a date at once, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import whole_job
from benchmarks.measure import Part
from benchmarks.site import DOMAIN, HELD_BACK, JUDGED, PUBLISHED, SNAPSHOT, STAGED

DIVIDED = (DOMAIN, HELD_BACK, STAGED)
READING = (SNAPSHOT,)
WHOLE = (JUDGED, PUBLISHED)
PORTFOLIOS = (100_000, 1_000_000, 10_000_000)
WORKERS = (1, 2, 8, 32, 128)
SESSIONS = 4  # that read a date at once, unless set otherwise


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one date, by portfolio."""

    divided: float  # seconds of processor, of the steps that divide among workers
    reading: float  # of the step that reads bigsite
    whole: float  # and of the others that don't divide
    server: float  # seconds of PostgreSQL's processor
    document: float  # bytes before compression
    manifest: float  # bytes of the manifest and its list of portfolios
    pages: float


def rates(part: Part) -> Rates:
    """Return the figures of one size; fixed costs count as if they grew with it."""
    way, size = part.way(whole_job.PLAIN), part.portfolios

    def seconds(steps: Sequence[str]) -> float:
        return sum(way.fact("steps", step, "processor") for step in steps) / size

    return Rates(
        seconds(DIVIDED),
        seconds(READING),
        seconds(WHOLE),
        way.server / size,
        way.fact("document_bytes") / size,
        way.fact("manifest_bytes") / size,
        way.fact("pages") / size,
    )


def seconds(of: Rates, portfolios: int, workers: int) -> float:
    """Return the duration of a date. A worker is one core; reading comes first and waits for bigsite's sessions."""
    reading = portfolios * max(of.reading, of.server / SESSIONS)
    return reading + portfolios * (of.divided / workers + of.whole)


def rows(part: Part) -> tuple[list[str], list[list[str]]]:
    """Return the model's table."""
    of = rates(part)
    header = ["portfolios", *(f"{n} worker{'s' if n > 1 else ''}" for n in WORKERS)]
    header += ["of it not divided", "document", "pages", "manifest and list"]
    table = []
    for portfolios in PORTFOLIOS:
        row = [f"{portfolios:,}", *(_time(seconds(of, portfolios, workers)) for workers in WORKERS)]
        row += [
            _time(portfolios * (of.reading + of.whole)),
            f"{portfolios * of.document / 1e9:,.0f} GB",
            f"{portfolios * of.pages:,.0f}",
            f"{portfolios * of.manifest / 1e6:,.0f} MB",
        ]
        table.append(row)
    return header, table


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
