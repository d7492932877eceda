"""The benchmarks' command.

    make bench                                          # the quick set, about a quarter of an hour on two cores
    make bench BENCH="--sizes 1000 10000 --repeat 5"
    make bench BENCH="--parts rendering validation"     # some parts alone
    make bench BENCH="--parts whole delta --sizes 1000 --repeat 3 --check"   # the nightly's guard
    make bench BENCH="--full --docs"                    # 100,000 portfolios too; hours; writes docs/results/scale.md's tables

Prints a table a part and writes one JSON with every single figure. Processor time is what to trust on a machine that
others use as well.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import accepted, documents, files, model, report, source, whole_job
from benchmarks.measure import BenchmarkError, Part, machine
from benchmarks.reconciliation import reconciliation
from benchmarks.site import FIRST, SECOND, Site, site

PEERS_SIZE = 200  # portfolios for the peers that take minutes a thousand
LARGE = 20_000  # above this, only this project's own whole job, once
STAGES: dict[str, Callable[..., Part]] = {
    "snapshot": source.snapshot,
    "domains": source.domains,
    "rendering": lambda at, **how: documents.rendering(at, peers=False, **how),
    "validation": documents.validation,
    "packing": files.packing,
    "publishing": files.publishing,
}
PARTS = (*STAGES, "reconciliation", "peers", "whole", "delta", "starts")
PACKAGES = ("polars", "pyarrow", "lxml", "isal", "psycopg", "SQLAlchemy", "duckdb", "pandas", "dagster")
DOCS = Path(__file__).parent.parent / "docs" / "results" / "scale.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


class Bench:
    """One run of the suite: its options, and the parts measured so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = dt.datetime.now(dt.UTC)
        self.machine = machine()
        self.parts: list[Part] = []
        self.failed: list[str] = []
        self._until = time.monotonic() + options.budget * 60 if options.budget else float("inf")

    def add(self, work: Callable[..., Part], *arguments: Any, rounds: int | None = None, **options: Any) -> None:
        """Measure a part and keep it. A failed part is reported, and the others are measured."""
        try:
            self.keep(work(*arguments, **options, rounds=rounds or self.options.repeat, until=self._until))
        except BenchmarkError as error:
            self.failed.append(str(error))
            _print(f"\n{error}\n")

    def keep(self, part: Part) -> None:
        """Print a part, and write all parts so far, so that a stopped run keeps its results."""
        self.parts.append(part)
        _print(f"\n{part.name} · {part.portfolios:,} portfolios · {part.what}\n")
        _print(report.as_text(*report.rows_of(part)) + "\n")
        path: Path = self.options.json
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.figures(), indent=1, default=str) + "\n")

    def figures(self) -> dict[str, Any]:
        """Return all results, for the JSON file."""
        return {
            "began": self.began.isoformat(timespec="seconds"),
            "machine": self.machine,
            "versions": {name: version(name) for name in PACKAGES},
            "options": {
                name: value for name, value in vars(self.options).items() if name not in ("json", "docs", "earlier")
            },
            "parts": [report.as_json(part) for part in self.parts],
        }

    def wants(self, part: str) -> bool:
        """Return True if this part was asked for."""
        return part in self.options.parts


def recall(bench: Bench) -> None:
    """Return the parts of earlier runs; of two measurements at one size, the later."""
    parts: dict[tuple[str, int], Part] = {}
    for path in bench.options.earlier:
        figures = json.loads(path.read_text())
        bench.machine, bench.began = figures["machine"], dt.datetime.fromisoformat(figures["began"])
        parts |= {(part.name, part.portfolios): part for part in map(report.from_json, figures["parts"])}
    bench.parts += parts.values()


def measure(bench: Bench) -> None:
    """Measure the requested parts, size by size."""
    small = min(bench.options.sizes)
    if bench.wants("peers"):
        with site(min(PEERS_SIZE, small)) as few:
            bench.add(documents.rendering, few, peers=True)
    if bench.wants("starts"):
        with site(min(PEERS_SIZE, small)) as few:
            bench.add(whole_job.process_starts, few)
    for size in sorted(bench.options.sizes):
        stages = [name for name in STAGES if bench.wants(name)] if size == small or bench.options.full else []
        if size > LARGE:
            stages = []
        if stages or bench.wants("whole") or bench.wants("delta"):
            with site(size) as measured:
                for name in stages:
                    bench.add(STAGES[name], measured)
                _dates(bench, measured, small=size == small)
        if bench.wants("reconciliation") and (size == small or bench.options.full) and size <= LARGE:
            bench.add(reconciliation, size * 10)


def _dates(bench: Bench, site: Site, *, small: bool) -> None:
    # The baseline takes minutes a round and gigabytes at 10,000 portfolios, so not at the quick set's largest size.
    full, large = bench.options.full, site.portfolios > LARGE
    rounds = 1 if large else None
    options: dict[str, Any] = {"old": not large and (small or full), "rounds": rounds}
    both, single = (whole_job.EPHEMERAL, whole_job.SQLITE), (whole_job.SQLITE,)
    if bench.wants("delta") and (full or site.portfolios == max(bench.options.sizes)):
        bench.add(whole_job.whole_job, site, SECOND, dagster=() if large else both if full else single, **options)
    if bench.wants("whole"):
        dagster = () if large or not (small or full) else both if full else single
        bench.add(whole_job.whole_job, site, FIRST, dagster=dagster, **options)


def summary(bench: Bench, table: Callable[..., str]) -> str:
    """Return the steps of the whole job by size, and the targets."""
    text = ""
    for name in ("whole job, FULL", "whole job, DELTA"):
        parts = [part for part in bench.parts if part.name == name]
        if parts:
            text += f"\n{name}, step by step\n\n{table(*report.step_rows(parts))}\n"
    full = [part for part in bench.parts if part.name == "whole job, FULL"]
    if full:
        largest = max(full, key=lambda part: part.portfolios)
        text += f"\nModel, from the date of {largest.portfolios:,} portfolios\n\n{table(*model.rows(largest))}\n"
    targets = report.targets(bench.parts)
    return text + (f"\nTargets\n\n{table(*report.target_rows(targets))}\n" if targets else "")


def write_docs(bench: Bench) -> None:
    """Write the tables between the marks in docs/results/scale.md."""
    before, rest = DOCS.read_text().split(BEGIN)
    after = rest.split(END)[1]
    host = bench.machine
    lines = [
        f"Measured {bench.began:%d %B %Y} on {host['processor']}, {host['cores']} cores, {host['memory_gb']:.0f} GB; "
        f"Python {host['python']}; load {host['load_at_start']:.0f} from other work as it began. Medians of the runs shown.",
    ]
    for part in bench.parts:
        lines.append(f"**{part.name}**, {part.portfolios:,} portfolios: {part.what}.")
        lines.append(report.as_markdown(*report.rows_of(part)))
    lines.append(summary(bench, report.as_markdown).strip())
    DOCS.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(lines) + f"\n\n{END}{after}")


def options_from(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="consented portfolios (default: 1000 10000)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds a part (default: 5)")
    parser.add_argument("--budget", type=float, help="minutes after which each part left has one round (default: 12)")
    parser.add_argument("--full", action="store_true", help="100,000 portfolios and every stage at 10,000; no budget")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--json", type=Path, default=Path(".classfeed/bench.json"), help="where the figures go")
    parser.add_argument("--from", dest="earlier", type=Path, nargs="+", help="measure nothing: take earlier runs' JSON")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/results/scale.md as well")
    parser.add_argument("--accept", action="store_true", help="record the ratios to the old exporter, of one processor")
    parser.add_argument("--check", action="store_true", help="fail if a ratio is a fifth below the accepted one")
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or ([1000, 10_000, 100_000] if options.full else [1000, 10_000])
    options.budget = (0 if options.full else 12) if options.budget is None else options.budget
    return options


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Measure, print, write; exit code 1 if a part failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server and folder remain
    bench = Bench(options_from())
    if bench.options.earlier:
        recall(bench)
    else:
        if bench.options.accept or bench.options.check:
            accepted.use_one_processor()
        measure(bench)
    _print(summary(bench, report.as_text))
    if not bench.options.earlier:
        _print(f"\nEvery figure: {bench.options.json}\n")
    if bench.options.docs:
        write_docs(bench)
    ratios = accepted.ratios(bench.parts)
    if bench.options.accept:
        accepted.accept(ratios, accepted.ACCEPTED)
    if bench.options.check:
        try:
            accepted.require(ratios, accepted.ACCEPTED)
        except BenchmarkError as error:
            sys.exit(str(error))
    if bench.failed:
        sys.exit(f"{len(bench.failed)} part(s) failed")


if __name__ == "__main__":
    main()
