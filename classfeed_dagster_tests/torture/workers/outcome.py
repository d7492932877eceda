"""Observations of a date on several machines, and the compared parts of a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from classfeed_dagster.delivery.manifest import Manifest


@dataclass
class Outcome:
    """Observations, and violated expectations."""

    portfolios: int
    dates: int
    seconds: float = 0.0
    within: float = 0.0  # of it, from runs' starts to their ends, added up
    alone: float = 0.0  # the same dates in one process
    at_once: int = 1
    steps: Counter[str] = field(default_factory=Counter)  # by worker
    runs: Counter[str] = field(default_factory=Counter)  # by status
    again: int = 0  # steps that were taken once more
    snapshots: int = 0  # the most that were read at one time; the pool allows one
    megabytes: float = 0.0  # of the largest process that does steps, at the end
    kills: list[str] = field(default_factory=list)
    once: int = 0  # dates delivered exactly once
    same: int = 0  # dates whose documents are those of one process
    pages: int = 0
    size: int = 0  # bytes of documents
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        workers = ", ".join(f"{name} {count}" for name, count in sorted(self.steps.items()))
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.runs.items()))
        rows = {
            "portfolios, dates": f"{self.portfolios:,}, {self.dates}",
            "seconds on the workers": f"{self.seconds:.1f} ({self.seconds / self.dates:.1f} a date)",
            "of it within runs": f"{self.within:.1f} ({self.within / self.dates:.1f} a date; the rest is waiting to start)",
            "seconds in one process": f"{self.alone:.1f} ({self.alone / self.dates:.1f} a date)",
            "runs": f"{statuses}; at most {self.at_once} at once",
            "steps by worker": f"{workers}; {self.again} taken again",
            "snapshots read at once": f"{self.snapshots} at most (the pool allows 1)",
            "memory of a worker's steps": f"{self.megabytes:.0f} MB at the end",
            "killed": "; ".join(self.kills) or "nobody",
            "delivered exactly once": f"{self.once} of {self.dates} dates",
            "same bytes as in one process": f"{self.same} of {self.dates} dates, {self.pages} pages, {self.size:,} bytes",
            "does not hold": "; ".join(self.broken) or "nothing",
        }
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def contents(manifest: Manifest) -> Mapping[str, object]:
    """Return the parts of a manifest that the data determines: uncompressed pages, portfolios, held back, totals."""
    return {
        "pages": [(page.document_sha256, page.document_bytes, page.counts, page.totals) for page in manifest.pages],
        "portfolios": [
            (
                portfolio.number,
                portfolio.change,
                portfolio.extract,
                portfolio.digest,
                portfolio.bytes,
                portfolio.consent_ids,
                portfolio.page[-3:],
            )
            for portfolio in manifest.portfolios
        ],
        "held back": manifest.held_back,
        "counts": manifest.counts,
        "totals": manifest.totals,
        "window": (manifest.recorded_after, manifest.recorded_before),
    }
