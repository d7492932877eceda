"""Monthly page of the owner's numbers: this month against targets, then twelve months. It holds no customer's data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal

from classfeed_dagster.html_page import escape, facts, over_time, page, plots, table
from classfeed_dagster.service_levels.metrics import NUMBERS, OwnerNumber
from classfeed_dagster.service_levels.owner_months import OwnerFigure, OwnerMonth
from classfeed_dagster.trading_days import SYDNEY

HEADER = ("number", "value", "target", "verdict", "95th percentile", "month before")
_NARROW = "@media(max-width:34rem){.stack td:empty{display:none}dl{display:block}dd{margin-bottom:.4rem}}"
# Divisor and sign of a unit, by the largest value that still has it.
_SCALES: dict[str, tuple[tuple[int, int, str], ...]] = {
    "Seconds": ((120, 1, " s"), (7_200, 60, " min"), (172_800, 3_600, " h"), (0, 86_400, " days")),
    "Bytes": ((10**4, 1, " B"), (10**6, 10**3, " kB"), (10**9, 10**6, " MB"), (0, 10**9, " GB")),
    "Percent": ((0, 1, " %"),),
}


def owner_page(months: Sequence[OwnerMonth]) -> str:
    """Return the page of the last of ``months``, with the others as its history."""
    current = months[-1]
    judged = [met for figure in current.figures if (met := _met(figure)) is not None]
    missing = [
        number.title for number in NUMBERS.values() if not any(f.metric == number.metric for f in current.figures)
    ]
    state = "" if not judged else "good" if all(judged) else "warning"
    verdict = f"{sum(judged)} of {len(judged)} targets met" if judged else "No target can be judged yet"
    name = f"{dt.date.fromisoformat(f'{current.month}-01'):%B %Y}"
    sources = [(number.title, number.about) for number in NUMBERS.values()]
    parts = [
        f'<div class="verdict {state}"><b>{verdict}</b> <span>in {name}</span></div>',
        table("This month", HEADER, figure_rows(months), numeric=(1, 2, 4, 5)) if current.figures else "",
        f"<p class=soft>No observation this month: {escape(', '.join(missing))}.</p>" if missing else "",
        f'<p class="error">Observations that cannot be read: {escape(", ".join(current.damaged))}.</p>'
        if current.damaged
        else "",
        *_notes(current),
        "<h2>History</h2>" if current.figures else "",
        plots(_history(months)),
        f"<details><summary>Sources</summary><div>{facts(sources)}</div></details>",
    ]
    at = f"{current.computed_at.astimezone(SYDNEY):%Y-%m-%d %H:%M}"
    about = f"Computed at {at} Sydney. A month is closed ten days after its end and then stays as it is."
    return page(f"Owner's numbers, {name}", parts, about, _NARROW)


def figure_rows(months: Sequence[OwnerMonth]) -> list[tuple[str, ...]]:
    """Return the last month's figures as texts, in the columns of ``HEADER``."""
    before = months[-2] if len(months) > 1 else None
    return [
        (
            label(figure),
            value_text(figure, figure.value),
            target_text(figure),
            {True: "met", False: "missed", None: ""}[_met(figure)],
            "" if figure.p95 is None else value_text(figure, figure.p95),
            "" if earlier is None else value_text(figure, earlier.value),
        )
        for figure in months[-1].figures
        for earlier in (None if before is None else before.find(figure.metric, figure.feed),)
    ]


def label(figure: OwnerFigure) -> str:
    """Return the name of a figure for people."""
    title = figure.metric if figure.number is None else figure.number.title
    return title if figure.feed is None else f"{title}, {figure.feed}"


def value_text(figure: OwnerFigure, value: Decimal) -> str:
    """Return a value in a unit that suits it: ``34 min``, ``96.9 %``."""
    divisor, sign = _scale(figure.number, value)
    return f"{_short(value / divisor):,}{sign}"


def _scale(number: OwnerNumber | None, largest: Decimal) -> tuple[int, str]:
    scales = _SCALES.get("" if number is None else number.declared.unit, ((0, 1, ""),))
    return next((divisor, sign) for limit, divisor, sign in scales if largest < limit or not limit)


def _short(value: Decimal) -> Decimal:
    # Three digits after the point for small values, one up to a hundred, none above.
    places = Decimal("0.001") if value < 1 else Decimal("0.1") if value < 100 else Decimal(1)
    rounded = value.quantize(places, ROUND_HALF_UP)
    return rounded.quantize(Decimal(1)) if rounded == rounded.to_integral_value() else rounded


def _met(figure: OwnerFigure) -> bool | None:
    return None if figure.number is None else figure.number.met(figure.value, figure.target)


def target_text(figure: OwnerFigure) -> str:
    """Return a figure's target for people."""
    if figure.target is None:
        return (figure.number.stated_target if figure.number else "") or "none agreed"
    least = figure.number is not None and figure.number.at_least
    return f"at {'least' if least else 'most'} {value_text(figure, figure.target)}"


def _notes(month: OwnerMonth) -> Iterator[str]:
    for figure in month.figures:
        if figure.baseline:
            change = 100 * (figure.value - figure.baseline) / figure.baseline
            old = value_text(figure, figure.baseline)
            direction = "more" if change > 0 else "less"
            yield f"<p>{escape(label(figure))}: {_short(abs(change))} % {direction} than the old pipeline, {old}.</p>"
        if figure.note:
            yield f"<p>{escape(label(figure))}: {escape(figure.note)}.</p>"


def _history(months: Sequence[OwnerMonth]) -> Iterator[tuple[str, str]]:
    for latest in months[-1].figures:
        past = [(month.month, figure.value) for month in months if (figure := month.find(latest.metric, latest.feed))]
        divisor, sign = _scale(latest.number, max(value for _, value in past))
        target = "" if latest.target is None else f"; target: {target_text(latest)}"
        caption = f"{label(latest)}{',' if sign else ''}{sign}{target}"
        yield caption, over_time([(name, _short(value / divisor)) for name, value in past])
