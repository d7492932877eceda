"""The figures as tables for people, as JSON for machines, and against the targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import whole_job
from benchmarks.measure import MB, Measured, Part, Run
from benchmarks.site import STEPS


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to reach, and what was reached."""

    name: str
    target: str
    measured: str
    met: bool


def rows_of(part: Part) -> tuple[list[str], list[list[str]]]:
    """Return one part's table: header and rows. A ratio states the gain over the baseline, the first row."""
    first = part.ways[0]
    with_server = any(run.server for way in part.ways for run in way.runs)
    header = ["", "processor s", "clock s", "× processor", "× clock", "peak MB", "runs"]
    if with_server:
        header.insert(2, "PostgreSQL s")
    rows = []
    for way in part.ways:
        row = [
            way.name,
            _seconds(way.processor),
            _seconds(way.wall),
            _ratio(first.processor, way.processor),
            _ratio(first.wall, way.wall),
            f"{way.peak / MB:,.0f}",
            str(len(way.runs)),
        ]
        if with_server:
            row.insert(2, _seconds(way.server))
        rows.append(row)
    return header, rows


def step_rows(parts: Iterable[Part]) -> tuple[list[str], list[list[str]]]:
    """Return the whole job by step, a column a size; the last column is the growth exponent of processor time."""
    plain = sorted(((part.portfolios, part.way(whole_job.PLAIN)) for part in parts), key=lambda it: it[0])
    header = ["", *(f"{size:,}: processor s / clock s / peak MB" for size, _ in plain), "growth"]
    rows = []
    for step in STEPS:
        figures = [tuple(way.fact("steps", step, name) for name in ("processor", "wall", "peak")) for _, way in plain]
        cells = [f"{_seconds(cpu)} / {_seconds(wall)} / {peak / MB:,.0f}" for cpu, wall, peak in figures]
        rows.append([step, *cells, _growth([(size, it[0]) for (size, _), it in zip(plain, figures, strict=True)])])
    cells = [f"{_seconds(way.processor)} / {_seconds(way.wall)} / {way.peak / MB:,.0f}" for _, way in plain]
    rows.append(["the whole job", *cells, _growth([(size, way.processor) for size, way in plain])])
    return header, rows


def growth(parts: Sequence[Part], name: str) -> float | None:
    """Return the growth exponent of processor time between the two largest sizes; None for one size."""
    sized = sorted((part.portfolios, part.way(name).processor) for part in parts)
    return _exponent(*sized[-2:]) if len(sized) > 1 else None


def targets(parts: Sequence[Part]) -> list[Target]:
    """Judge the targets of these parts by processor time; the wall-clock ratio is shown too."""
    result: list[Target] = []
    for part in parts:
        size = f"{part.portfolios:,} portfolios"
        ways = {way.name: way for way in part.ways}
        ours = next((way for way in part.ways if way.name.startswith("this project")), None)
        if ours is None:
            continue
        if part.name == "rendering":
            if "E builder, whole tree" in ways:
                result.append(
                    _at_least(f"rendering against the E builder, {size}", 25, ways["E builder, whole tree"], ours)
                )
            for floor in ("Polars, formatting alone", "DuckDB, formatting alone"):
                result.append(_at_most(f"rendering against {floor}, {size}", 3, ways[floor], ours))
        if part.name == "snapshot":
            result.append(_at_least(f"snapshot against pandas.read_sql, {size}", 4, ways["pandas.read_sql"], ours))
            result.append(_at_most(f"snapshot against raw COPY, {size}", 2, ways["raw COPY to nowhere"], ours))
        if part.name.startswith("whole job"):
            if whole_job.OLD in ways:
                label = f"{part.name} against the old exporter, {size}"
                result.append(_at_least(label, 12, ways[whole_job.OLD], ways[whole_job.PLAIN]))
            if part.portfolios >= 10_000:
                peak = ways[whole_job.PLAIN].peak / MB
                result.append(Target(f"peak memory, {part.name}, {size}", "< 350 MB", f"{peak:,.0f} MB", peak < 350))
    for name in ("whole job, FULL", "whole job, DELTA"):
        exponent = growth([part for part in parts if part.name == name], whole_job.PLAIN)
        if exponent is not None:
            result.append(Target(f"growth of time, {name}", "≤ 1.05", f"{exponent:.2f}", exponent <= 1.05))
    return result


def _at_least(name: str, times: float, baseline: Measured, ours: Measured) -> Target:
    cpu, wall = baseline.processor / ours.processor, baseline.wall / ours.wall
    measured = f"{cpu:.1f} × in processor time, {wall:.1f} × by the clock"
    return Target(name, f"≥ {times:g} ×", measured, cpu >= times)


def _at_most(name: str, times: float, floor: Measured, ours: Measured) -> Target:
    # PostgreSQL's own time belongs to both.
    cpu = (ours.processor + ours.server) / (floor.processor + floor.server)
    wall = ours.wall / floor.wall
    measured = f"{cpu:.1f} × its processor time, {wall:.1f} × by the clock"
    return Target(name, f"≤ {times:g} ×", measured, cpu <= times)


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the docs."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def target_rows(targets: Iterable[Target]) -> tuple[list[str], list[list[str]]]:
    """Return the targets' table."""
    header = ["target", "aim", "measured", "by processor time"]
    return header, [[it.name, it.target, it.measured, "met" if it.met else "missed"] for it in targets]


def as_json(part: Part) -> dict[str, Any]:
    """Return a part with all figures."""
    return {
        **asdict(part),
        "medians": {
            way.name: {"processor": way.processor, "wall": way.wall, "server": way.server, "peak": way.peak}
            for way in part.ways
        },
    }


def from_json(figures: dict[str, Any]) -> Part:
    """Read a part that ``as_json`` wrote."""
    ways = (Measured(way["name"], tuple(Run(**run) for run in way["runs"])) for way in figures["ways"])
    return Part(figures["name"], figures["portfolios"], figures["what"], tuple(ways))


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _ratio(baseline: float, value: float) -> str:
    return f"{baseline / value:.1f}" if value else "–"


def _growth(sized: Sequence[tuple[int, float]]) -> str:
    return f"{_exponent(*sized[-2:]):.2f}" if len(sized) > 1 else "–"


def _exponent(small: tuple[int, float], large: tuple[int, float]) -> float:
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])
