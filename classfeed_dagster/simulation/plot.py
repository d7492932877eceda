"""A small plot of what simulated customers did, as SVG in a Markdown image: no library, no file, no float."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from classfeed_dagster.simulation.day import DaySummary

WIDTH, HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 150, 40, 24, 22
# What is drawn beside each other: the bar's name, its colour, and the counts that it adds up.
_SERIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "trades": ("#4f43dd", ("buy", "sell")),
    "money in and out": ("#1f9d66", ("deposit", "withdrawal")),
    "income": ("#d9822b", ("dividend", "distribution", "interest")),
}


def svg(days: Sequence[DaySummary]) -> str:
    """Bars a day, one a series, the oldest day first. ValueError without a day."""
    if not days:
        raise ValueError("no day to plot")
    heights = {
        name: [sum(day.counts.get(count, 0) for count in counts) for day in days]
        for name, (_, counts) in _SERIES.items()
    }
    highest = max(1, *(value for values in heights.values() for value in values))
    base, room = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    slot = (WIDTH - _LEFT) // len(days)
    bar = max(1, (slot - 2) // len(_SERIES))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{highest}</text>',
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">0</text>',
        f'<line x1="{_LEFT}" y1="{base}" x2="{WIDTH}" y2="{base}" stroke="#999999"/>',
    ]
    for place, (name, (colour, _)) in enumerate(_SERIES.items()):
        parts.append(f'<rect x="{_LEFT + place * 150}" y="6" width="9" height="9" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 13 + place * 150}" y="15">{name}</text>')
        for at, value in enumerate(heights[name]):
            tall = room * value // highest
            title = f"<title>{days[at].day}: {value} {name}</title>"
            x = _LEFT + at * slot + place * bar
            parts.append(
                f'<rect x="{x}" y="{base - tall}" width="{bar}" height="{tall}" fill="{colour}">{title}</rect>'
            )
    parts.append(f'<text x="{_LEFT}" y="{HEIGHT - 6}">{days[0].day}</text>')
    parts.append(f'<text x="{WIDTH - 2}" y="{HEIGHT - 6}" text-anchor="end">{days[-1].day}</text></svg>')
    return "".join(parts)


def markdown_plot(days: Sequence[DaySummary]) -> str:
    """The plot as a Markdown image that carries its own bytes, which is what Dagster's UI shows."""
    encoded = base64.b64encode(svg(days).encode()).decode()
    return f"![what customers did, {days[0].day} to {days[-1].day}](data:image/svg+xml;base64,{encoded})"
