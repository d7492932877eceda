"""The HTML report of a reconciliation: one file, nothing fetched, readable on a phone. Plots are inline SVG.

``write_report`` stores it with the breaks as Parquet beside it, under reconciliation/<feed>/<date>/<attempt>/.
"""

# ruff: noqa: E501  # style and markup

from __future__ import annotations

import datetime as dt
import html
import io
from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from classfeed_dagster.reconciliation.result import Reconciliation, Tally
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.breaks import KeptBreak
from classfeed_dagster.warehouse.records import Break, Cause, Severity, Side

_SHOWN = 500
_WORD = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.EVENT: "event"}
_AGES = ((1, "today"), (2, "1 day"), (4, "2–3 days"), (8, "4–7 days"), (31, "1–4 weeks"), (10**6, "older"))
_STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--error:#b3261e;--warning:#a36200;--event:#5b6675;--good:#1b7a43;--bar:#3566b8}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;--paper:#14191f;--wash:#1c232b;--error:#ff8a80;--warning:#ffb74d;--good:#69d394;--bar:#7aa5ee}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
h1{font-size:1.4rem;line-height:1.25;margin:.3rem 0}h2{font-size:1.1rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
p{margin:.4rem 0}.soft{color:var(--soft)}.verdict{padding:.7rem 1rem;border-left:5px solid;background:var(--wash);border-radius:4px;margin:.6rem 0}
.error{color:var(--error)}.warning{color:var(--warning)}.event{color:var(--event)}.good{color:var(--good)}.verdict b{font-size:1.05rem}
.verdict.error{border-color:var(--error)}.verdict.warning{border-color:var(--warning)}.verdict.good{border-color:var(--good)}.verdict span{color:var(--ink)}
.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr))}figure{margin:0}figcaption{font-size:.85rem;color:var(--soft)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}svg rect{fill:var(--bar)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{border:1px solid var(--line);border-left:5px solid var(--event);border-radius:4px;margin:.5rem 0;background:var(--wash)}details.error{border-left-color:var(--error)}details.warning{border-left-color:var(--warning)}
summary{padding:.55rem .8rem;cursor:pointer;color:var(--ink)}summary b{overflow-wrap:anywhere}summary small{display:block;color:var(--soft)}details>div{padding:0 .8rem .7rem;color:var(--ink)}
dl{display:grid;grid-template-columns:minmax(5.5rem,auto) 1fr;gap:.15rem .8rem;margin:.3rem 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
ol.trace{list-style:none;margin:.5rem 0 0;padding:0}ol.trace li{padding:.25rem 0 .25rem 1.3rem;position:relative;overflow-wrap:anywhere}ol.trace li:before{content:"";position:absolute;left:.25rem;top:.75rem;width:.5rem;height:.5rem;border-radius:50%;background:var(--bar)}
"""


def write_report(store: ObjectStore, results: Sequence[Reconciliation], *, kept: Sequence[KeptBreak] = ()) -> str:
    """Store the report of one business date (one result a side) and its breaks; the report's key.

    ``kept`` are the feed's open breaks, for their age. Storing the same attempt again changes nothing. ValueError
    without results, or if they are of different dates, feeds or attempts.
    """
    if len({(one.feed, one.business_date, one.attempt) for one in results}) != 1:
        raise ValueError("a report is of one feed, business date and attempt")
    first = results[0]
    prefix = f"reconciliation/{first.feed}/{first.business_date.isoformat()}/{first.attempt}/"
    parquet = io.BytesIO()
    _frame(results).write_parquet(parquet)
    store.create(f"{prefix}breaks.parquet", parquet.getvalue())
    key = f"{prefix}report.html"
    store.create(key, render(results, kept).encode())
    return key


def render(results: Sequence[Reconciliation], kept: Sequence[KeptBreak] = ()) -> str:
    """The report's HTML."""
    first = results[0]
    breaks = [one for result in results for one in result.worst]
    asked_at = max(one.asked_at for one in results)
    title = f"Reconciliation of {first.feed}, {first.business_date:%A %d %B %Y}"
    parts = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="soft">asked {asked_at:%Y-%m-%d %H:%M} UTC · attempt {_e(first.attempt)}</p>',
        *map(_verdict, results),
        _plots(breaks, kept, asked_at),
        f"<h2>Breaks ({len(breaks):,})</h2>",
        *(_break(one) for one in breaks[:_SHOWN]),
    ]
    if not breaks:
        parts.append("<p>None. Every row below was accounted for.</p>")
    if len(breaks) > _SHOWN:
        parts.append(f"<p>{len(breaks) - _SHOWN:,} more are in breaks.parquet beside this report, worst first.</p>")
    parts += [_held_back(result) for result in results if result.held_back]
    parts += [
        "<h2>Every row accounted for</h2>",
        _accounting([tally for result in results for tally in result.tallies]),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _e(text: object) -> str:
    return html.escape(str(text))


def _verdict(result: Reconciliation) -> str:
    against = {"source": "File against landing and bigsite", "data_team": "Our metrics against the data team's"}[
        result.side.value
    ]
    look, word = (
        ("error", "Not right") if result.errors else ("warning", "Look at it") if result.warnings else ("good", "Right")
    )
    if not result.rows and not result.breaks:
        look, word = "warning", "Nothing was compared"
    notes = [result.summary()]
    if result.moved_on:
        notes.append(f"{result.moved_on} field(s) were updated in bigsite since, after a faithful delivery")
    if result.truncated:
        notes.append("there are more differences than are listed; the counts below are complete")
    return f'<div class="verdict {look}"><b>{word}</b> <span>{_e(against)}: {_e(". ".join(notes))}.</span></div>'


def _plots(breaks: Sequence[Break], kept: Sequence[KeptBreak], now: dt.datetime) -> str:
    if not breaks and not kept:
        return ""
    kinds = Counter(one.kind.value for one in breaks).most_common()
    causes = Counter(one.likeliest.cause.value for one in breaks).most_common()
    ages = Counter(_age((now - one.first_seen).days) for one in kept if one.resolved_at is None)
    by_age = [(name, ages[name]) for _, name in _AGES if ages[name]]
    figures = [("by kind", kinds), ("by likely cause", causes), ("all open breaks of the feed, by age", by_age)]
    drawn = "".join(f"<figure><figcaption>{name}</figcaption>{_bars(rows)}</figure>" for name, rows in figures if rows)
    return f'<h2>At a glance</h2><div class="plots">{drawn}</div>'


def _age(days: int) -> str:
    return next(name for limit, name in _AGES if days < limit)


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars with their numbers, as SVG that scales with the page."""
    most, step = max(count for _, count in rows), 34
    drawn = []
    for at, (name, count) in enumerate(rows):
        width = max(2, 230 * count // most)
        drawn.append(
            f'<text x="0" y="{at * step + 12}">{_e(name)}</text><rect x="0" y="{at * step + 17}" width="{width}" height="10" rx="2"/>'
            f'<text x="{width + 6}" y="{at * step + 27}">{count:,}</text>'
        )
    label = ", ".join(f"{name}: {count}" for name, count in rows)
    return f'<svg viewBox="0 0 300 {len(rows) * step}" role="img" aria-label="{_e(label)}">{"".join(drawn)}</svg>'


def _break(one: Break) -> str:
    look = _WORD[one.severity]
    what = " ".join(
        filter(
            None,
            (one.portfolio_number, "·" if one.portfolio_number else None, one.record.replace("_", " "), one.subject),
        )
    )
    ours, theirs = ("file", "bigsite") if one.side is Side.SOURCE else ("ours", "theirs")
    if one.likeliest.cause is Cause.LANDING_ALTERED:
        theirs = "landing"
    values = [(ours, one.export_value), (theirs, one.other_value), ("difference", one.difference)]
    if one.field is None:
        values = [(name, value) for name, value in values if value is not None]
    facts = [("field", one.field), *((name, "(none)" if value is None else value) for name, value in values)]
    listed = "".join(f"<dt>{name}</dt><dd>{_e(value)}</dd>" for name, value in facts if value is not None)
    reasons = "".join(
        f"<dt>{'likely' if not at else 'or'}</dt><dd><b>{_e(why.cause.value)}</b>: {_e(why.evidence)}</dd>"
        for at, why in enumerate(one.explanations)
    )
    return (
        f'<details class="{look}"><summary><b>{_e(what)}</b><small><span class="{look}">{look}</span> · {_e(one.kind.value)}'
        f"{f' · {_e(one.field)}' if one.field else ''} · {_e(one.likeliest.cause.value)}</small></summary>"
        f"<div><dl>{listed}{reasons}</dl>{_trace(one)}</div></details>"
    )


def _trace(one: Break) -> str:
    trace = one.trace
    page = None
    if trace.page:
        page = f"{trace.page}, line {trace.line} of the document" if trace.line else trace.page
    steps = [("bigsite", trace.source_row), ("landed", trace.landed_file), ("delivered", page)]
    listed = "".join(f"<li><span class='soft'>{name}</span> {_e(value or 'nothing')}</li>" for name, value in steps)
    return f'<ol class="trace">{listed}</ol>' if any(value for _, value in steps) else ""


def _held_back(result: Reconciliation) -> str:
    rows = "".join(
        f"<tr><td>{_e(number)}</td><td>{_e(reason)}</td></tr>"
        for number, reason in sorted(result.held_back.items())[:_SHOWN]
    )
    return (
        f"<h2>Rightly not in the file ({len(result.held_back):,})</h2><div class='wide'><table><tr><th>portfolio</th><th>why</th></tr>"
        f"{rows}</table></div>"
    )


def _accounting(tallies: Iterable[Tally]) -> str:
    """Every row in one class; the classes add up on both sides."""
    rows = []
    for tally in tallies:
        for name, (ours, theirs) in tally.counts.items():
            if ours or theirs:
                rows.append(
                    f"<tr><td>{_e(tally.name.replace('_', ' '))}</td><td>{_e(name.replace('_', ' '))}</td>"
                    f'<td class="n">{ours:,}</td><td class="n">{theirs:,}</td></tr>'
                )
        ours, theirs = (sum(pair[at] for pair in tally.counts.values()) for at in (0, 1))
        rows.append(f'<tr><td></td><th>together</th><th class="n">{ours:,}</th><th class="n">{theirs:,}</th></tr>')
    return (
        '<div class="wide"><table><tr><th>compared</th><th>class</th><th class="n">rows of ours</th><th class="n">of theirs</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _frame(results: Sequence[Reconciliation]) -> pl.DataFrame:
    rows = [
        {
            "break_id": one.break_id,
            "side": one.side.value,
            "kind": one.kind.value,
            "severity": one.severity.value,
            "portfolio_number": one.portfolio_number,
            "record": one.record,
            "subject": one.subject,
            "field": one.field,
            "ours": one.export_value,
            "theirs": one.other_value,
            "difference": one.difference,
            "cause": one.likeliest.cause.value,
            "evidence": one.likeliest.evidence,
            "source_row": one.trace.source_row,
            "landed_file": one.trace.landed_file,
            "page": one.trace.page,
            "line": one.trace.line,
        }
        for result in results
        for one in result.worst
    ]
    names = ["break_id", "side", "kind", "severity", "portfolio_number", "record", "subject", "field", "ours", "theirs", "difference", "cause", "evidence", "source_row", "landed_file", "page", "line"]  # fmt: skip
    schema = {name: pl.Decimal(38, 6) if name == "difference" else pl.String() for name in names}
    return pl.DataFrame(rows, schema=schema)
