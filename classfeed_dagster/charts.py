"""Charts as SVG text: bars by name, columns over dates. Equal numbers give equal bytes.

The label next to a bar is exact; the bar's length is rounded to pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import TypeAlias

Number: TypeAlias = int | Decimal
_INK, _BAR, _FAINT = "#1f2937", "#3b82c4", "#9ca3af"
_FONT = "font-family='system-ui,sans-serif' font-size='13'"
_BAR_WIDTH, _LABEL, _FIGURE = 300, 210, 170


def bars(title: str, values: Sequence[tuple[str, Number]]) -> str:
    """Return horizontal bars, one a name, in the given order, each with its figure. A bar shows the absolute value."""
    longest = max((abs(Decimal(value)) for _, value in values), default=Decimal(0)) or Decimal(1)
    parts = [f"<text x='0' y='16' font-weight='600' fill='{_INK}'>{escape(title)}</text>"]
    for at, (name, value) in enumerate(values):
        y = 34 + at * 24
        width = int(abs(Decimal(value)) * _BAR_WIDTH / longest)
        parts.append(f"<text x='0' y='{y + 13}' fill='{_INK}'>{escape(name)}</text>")
        parts.append(f"<rect x='{_LABEL}' y='{y}' width='{max(width, 1)}' height='17' rx='2' fill='{_BAR}'/>")
        parts.append(f"<text x='{_LABEL + width + 8}' y='{y + 13}' fill='{_INK}'>{value:,}</text>")
    return _svg(title, _LABEL + _BAR_WIDTH + _FIGURE, 40 + 24 * max(len(values), 1), parts)


def columns(title: str, values: Sequence[tuple[str, Number]]) -> str:
    """Return columns over time: (date, value) in order. The first and last date and the maximum are labelled."""
    height, width = 110, 620
    largest = max((Decimal(value) for _, value in values), default=Decimal(0))
    step = width / max(len(values), 1)
    parts = [f"<text x='0' y='16' font-weight='600' fill='{_INK}'>{escape(title)}, highest {largest:,}</text>"]
    for at, (_, value) in enumerate(values):
        tall = int(value * height / (largest or 1))
        x, y = int(at * step), 30 + height - tall
        parts.append(f"<rect x='{x}' y='{y}' width='{max(int(step) - 3, 1)}' height='{tall}' fill='{_BAR}'/>")
    parts.append(f"<line x1='0' y1='{30.5 + height}' x2='{width}' y2='{30.5 + height}' stroke='{_FAINT}'/>")
    if values:
        parts.append(f"<text x='0' y='{48 + height}' fill='{_INK}'>{escape(values[0][0])}</text>")
    if len(values) > 1:
        end = f"x='{width}' y='{48 + height}' text-anchor='end'"
        parts.append(f"<text {end} fill='{_INK}'>{escape(values[-1][0])}</text>")
    return _svg(title, width, 60 + height, parts)


def data_uri(svg: str) -> str:
    """Return an SVG as a data URI, which HTML and Markdown show as an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}' {_FONT}><title>{escape(title)}</title>"
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>{''.join(parts)}</svg>"
    )
