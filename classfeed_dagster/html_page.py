"""HTML pages: style, landmarks, tables and plots. Self-contained, and readable on a phone and by a screen reader.

Wide content scrolls in its own box, which the keyboard reaches. Colour is never the only sign.
"""

# ruff: noqa: E501  # style and markup

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

Number = int | Decimal
_LABEL = 75  # width of a written date
_WIDEST = 40  # of a column, so that two dates are not two walls
STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#55606f;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--error:#b3261e;--warning:#8a5200;--event:#55606f;--good:#176b3b;--bar:#3566b8}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#a3afbd;--line:#333c48;--paper:#14191f;--wash:#1c232b;--error:#ff8a80;--warning:#ffb74d;--event:#a3afbd;--good:#69d394;--bar:#7aa5ee}}
@media(prefers-reduced-motion:reduce){*{animation:none!important;transition:none!important;scroll-behavior:auto!important}}
*{box-sizing:border-box}a{color:var(--bar)}body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
main,footer{margin:0 auto;max-width:60rem;padding:1rem}footer{padding-top:0}
h1,h2,p,summary,td,caption{overflow-wrap:anywhere}h1{font-size:1.4rem;line-height:1.25;margin:.3rem 0}h2{font-size:1.1rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}h3{font-size:1rem;margin:1rem 0 .4rem}
p{margin:.4rem 0}.soft{color:var(--soft)}.verdict{padding:.7rem 1rem;border-left:5px solid;background:var(--wash);border-radius:4px;margin:.6rem 0}
.error{color:var(--error)}.warning{color:var(--warning)}.event{color:var(--event)}.good{color:var(--good)}.verdict b{font-size:1.05rem}
.verdict.error{border-color:var(--error)}.verdict.warning{border-color:var(--warning)}.verdict.good{border-color:var(--good)}.verdict span{color:var(--ink)}
.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr))}figure{margin:0}figcaption{font-size:.85rem;color:var(--soft)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}svg rect{fill:var(--bar)}
.wide{overflow-x:auto}:focus-visible{outline:3px solid var(--bar);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.88rem}caption{text-align:left;color:var(--soft);padding:.2rem .5rem}th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid var(--line);vertical-align:top;min-width:6.2rem}
thead th{color:var(--soft);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:0}
details{border:1px solid var(--line);border-left:5px solid var(--event);border-radius:4px;margin:.5rem 0;background:var(--wash)}details.error{border-left-color:var(--error)}details.warning{border-left-color:var(--warning)}
summary{padding:.55rem .8rem;cursor:pointer;color:var(--ink)}summary small{display:block;color:var(--soft)}details>div{padding:0 .8rem .7rem;color:var(--ink)}
dl{display:grid;grid-template-columns:minmax(5.5rem,auto) minmax(0,1fr);gap:.15rem .8rem;margin:.3rem 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
ol.trace{list-style:none;margin:.5rem 0 0;padding:0}ol.trace li{padding:.25rem 0 .25rem 1.3rem;position:relative;overflow-wrap:anywhere}ol.trace li:before{content:"";position:absolute;left:.25rem;top:.75rem;width:.5rem;height:.5rem;border-radius:50%;background:var(--bar)}
@media(max-width:34rem){thead{display:none}tr:not([hidden]){display:block;border-bottom:1px solid var(--line);padding:.4rem 0}td{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.1rem .5rem}td:empty{display:none}td:first-child{font-weight:600}td[data-label]{text-align:right}td[data-label]:before{content:attr(data-label);color:var(--soft);text-align:left;flex:none;max-width:50%}}
"""


def page(title: str, parts: Iterable[str], about: str = "", style: str = "") -> str:
    """Return the document: ``parts`` follow the heading in the main landmark, ``about`` is the footer's text.

    ``style`` is CSS that this page needs in addition.
    """
    body = "\n".join(part for part in (f"<h1>{escape(title)}</h1>", *parts) if part)
    more = f"<style>{style}</style>" if style else ""
    foot = f'\n<footer><p class="soft">{escape(about)}</p></footer>' if about else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{more}</head><body>\n<main>\n{body}\n</main>{foot}\n</body></html>\n"
    )


@dataclass(frozen=True, slots=True)
class Anchor:
    """Text of a cell or fact that leads to ``url``; plain text without a URL. An empty text is no link."""

    text: str
    url: str | None


def escape(text: object) -> str:
    """Escape text for HTML. An Anchor becomes an anchor element."""
    if isinstance(text, Anchor):
        linked = text.text and text.url
        return f'<a href="{escape(text.url)}">{escape(text.text)}</a>' if linked else escape(text.text)
    return html.escape(str(text))


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    numeric: Sequence[int] = (),
) -> str:
    """Return a table with a caption and headed columns, in its own scrolling box. ``numeric``: columns of numbers.

    A narrow screen shows each row as a list of labelled values, so that no column is cut.
    """

    def cell(at: int, value: object) -> str:
        text = f"{value:,}" if isinstance(value, int) else value
        label = f' data-label="{escape(header[at])}"' if at else ""
        return f"<td{' class=n' if at in numeric else ''}{label}>{escape(text)}</td>"

    head = "".join(
        f'<th scope="col"{" class=n" if at in numeric else ""}>{escape(name)}</th>' for at, name in enumerate(header)
    )
    body = "".join(f"<tr>{''.join(cell(at, value) for at, value in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Return a list of names with their values."""
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<dl>{entries}</dl>" if entries else ""


def plots(figures: Iterable[tuple[str, str]]) -> str:
    """Return charts side by side, each with its caption."""
    charts = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in figures)
    return f'<div class="plots">{charts}</div>' if charts else ""


def bars(rows: Sequence[tuple[str, Number]]) -> str:
    """Return horizontal bars with their numbers, as SVG that scales with the page."""
    most, step = max((abs(Decimal(value)) for _, value in rows), default=Decimal(0)) or Decimal(1), 34
    marks = []
    for at, (name, value) in enumerate(rows):
        width = max(2 if value else 0, int(190 * abs(Decimal(value)) / most))
        marks.append(
            f'<text x="0" y="{at * step + 12}">{escape(name)}</text><rect x="0" y="{at * step + 17}" width="{width}" height="10" rx="2"/>'
            f'<text x="{width + 6}" y="{at * step + 27}">{value:,}</text>'
        )
    return _svg(rows, 300, len(rows) * step, marks)


def over_time(rows: Sequence[tuple[str, Number]]) -> str:
    """Return columns, one a date, in the given order; the first and last date and the largest value are labelled."""
    most = max((Decimal(value) for _, value in rows), default=Decimal(0))
    step = min(Decimal(300) / max(len(rows), 1), Decimal(_WIDEST))
    marks = [f'<text x="0" y="12">highest {most:,}</text>']
    for at, (_, value) in enumerate(rows):
        tall = int(80 * Decimal(value) / (most or 1))
        marks.append(
            f'<rect x="{int(at * step)}" y="{100 - tall}" width="{max(int(step) - 2, 1)}" height="{max(tall, 1 if value else 0)}"/>'
        )
    marks.append(f'<text x="0" y="116">{escape(rows[0][0])}</text>' if rows else "")
    if len(rows) > 1:
        end = max(int(step * len(rows)), 2 * _LABEL)
        marks.append(f'<text x="{end}" y="116" text-anchor="end">{escape(rows[-1][0])}</text>')
    return _svg(rows, 300, 120, marks)


def _svg(rows: Sequence[tuple[str, Number]], width: int, height: int, marks: Iterable[str]) -> str:
    label = ", ".join(f"{name}: {value:,}" for name, value in rows)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'
