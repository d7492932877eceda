"""HTML report of a reconciliation: one accessible file without external resources (see ``page``).

``write_report`` stores it and the breaks as Parquet under reconciliation/<feed>/<date>/<attempt>/.
"""

# ruff: noqa: E501  # style and markup

from __future__ import annotations

import datetime as dt
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

import polars as pl

from classfeed_dagster.html_page import bars, escape, facts, over_time, page, plots, table
from classfeed_dagster.reconciliation.result import Figure, Reconciliation, Tally
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.breaks import StoredBreak
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakSeverity, Side
from classfeed_dagster.wording import counted

_SHOWN = 500
_UNFOLDED = 5  # breaks of one cause that are listed before the others are folded
_WORD = {BreakSeverity.ERROR: "error", BreakSeverity.WARNING: "warning", BreakSeverity.EVENT: "event"}
_AGAINST = {Side.SOURCE: "File against landing and bigsite", Side.DATA_TEAM: "Our metrics against the data team's"}
_SEVERITIES = {
    BreakSeverity.ERROR: "what was delivered, or its evidence, is wrong",
    BreakSeverity.WARNING: "a person should look",
    BreakSeverity.EVENT: "explained; no action is needed",
}
_CAUSES = {
    BreakCause.FILE_ALTERED: "the delivered file is not what was written, by its hash or its values",
    BreakCause.EXPORT_FAULT: "bigsite and the landing agree, the file differs",
    BreakCause.LANDING_ALTERED: "the stored copy of bigsite is not what was written",
    BreakCause.LANDING_EXPIRED: "the stored copy of bigsite is older than it is kept",
    BreakCause.CONSENT_ENDED: "the customer's consent ended",
    BreakCause.CONSENT_CHANGED: "the customer's consent changed after the delivery",
    BreakCause.REVERSAL: "a later row cancels this one",
    BreakCause.LATE_ROW: "bigsite recorded a row after the delivery read it; it is sent with the next date",
    BreakCause.PRICE_REVISED: "the close was corrected after the delivery",
    BreakCause.STATE_CHANGED: "bigsite changed the value after the delivery",
    BreakCause.QUARANTINE: "the portfolio was held back for a broken rule",
    BreakCause.DATA_TEAM_TIMING: "the data team computed before or after the delivery read bigsite",
    BreakCause.SIGN: "one value is the other with the opposite sign",
    BreakCause.SCALE: "one value is a multiple of ten of the other",
    BreakCause.TRANSPOSED: "two neighbouring digits are exchanged",
    BreakCause.DAY_SHIFT: "the values are those of neighbouring days",
    BreakCause.ONE_ROW: "a single row has the whole difference",
    BreakCause.REJECTED: "the recipient refused the record",
    BreakCause.UNKNOWN: "nothing in the data explains it: a person must",
}
_AGES = ((1, "today"), (2, "1 day"), (4, "2–3 days"), (8, "4–7 days"), (31, "1–4 weeks"), (10**6, "older"))


def write_report(
    store: ObjectStore,
    results: Sequence[Reconciliation],
    *,
    kept: Sequence[StoredBreak] = (),
    history: Sequence[Figure] = (),
) -> str:
    """Store the report of one business date (one result a side) and its breaks, and return the report's key.

    ``kept``: the feed's open breaks, for their age. ``history``: figures over dates. Storing the same attempt again has
    no effect. ValueError without results, or if they belong to different dates, feeds or attempts.
    """
    if len({(result.feed, result.business_date, result.attempt) for result in results}) != 1:
        raise ValueError("A report needs results of one feed, business date and attempt")
    first = results[0]
    prefix = f"reconciliation/{first.feed}/{first.business_date.isoformat()}/{first.attempt}/"
    parquet = io.BytesIO()
    _frame(results).write_parquet(parquet)
    store.create(f"{prefix}breaks.parquet", parquet.getvalue())
    key = f"{prefix}report.html"
    store.create(key, render(results, kept, history).encode())
    return key


def render(results: Sequence[Reconciliation], kept: Sequence[StoredBreak] = (), history: Sequence[Figure] = ()) -> str:
    """Return the report's HTML."""
    first = results[0]
    breaks = [entry for result in results for entry in result.worst]
    asked_at = max(result.asked_at for result in results)
    parts = [
        f'<p class="soft">bigsite read {asked_at:%Y-%m-%d %H:%M} UTC</p>',
        *map(_verdict, results),
        *(_amounts(result) for result in results if result.amounts),
        "<h2>Rows compared</h2>",
        _accounting([tally for result in results for tally in result.tallies]),
        f"<h2>Breaks ({len(breaks):,})</h2>",
        _by_cause(breaks[:_SHOWN]),
    ]
    if not breaks:
        parts.append("<p>None. Every row above is accounted for.</p>")
    if len(breaks) > _SHOWN:
        parts.append(
            f"<p>{len(breaks) - _SHOWN:,} more are in breaks.parquet next to this report, most severe first.</p>"
        )
    parts += [_held_back(result) for result in results if result.held_back]
    parts += [
        _plots(breaks, kept, asked_at),
        _figures([*(figure for result in results for figure in result.figures), *history]),
        "<h2>Trace a number</h2>",
        "<p>Each break above names its source row, landed file and line. For any other transaction or holding: "
        f"<code>classfeed trace T1042 --feed {escape(first.feed)} --page trace.html</code> writes a page like this "
        "one.</p>",
    ]
    title = f"Reconciliation of {first.feed}, {first.business_date:%A %d %B %Y}"
    return page(title, parts, f"attempt {first.attempt}")


def _verdict(result: Reconciliation) -> str:
    against = _AGAINST[result.side]
    look, word = (
        ("error", "Errors") if result.errors else ("warning", "Warnings") if result.warnings else ("good", "Correct")
    )
    if not result.rows and not result.breaks:
        look, word = "warning", "Nothing was compared"
    notes = [result.summary()]
    if result.moved_on:
        notes.append(f"{counted(result.moved_on, 'field')} updated in bigsite after a correct delivery")
    if result.truncated:
        notes.append("there are more differences than are listed; the counts below are complete")
    return (
        f'<div class="verdict {look}"><b>{word}</b> <span>{escape(against)}: {escape(". ".join(notes))}.</span></div>'
    )


def _figures(figures: Sequence[Figure]) -> str:
    drawn = [
        (figure.title, over_time(figure.rows) if figure.over_time else bars(figure.rows))
        for figure in figures
        if any(value for _, value in figure.rows)
    ]
    empty = "".join(
        f"<p>{escape(figure.title)}: none.</p>"
        for figure in figures
        if figure.rows and not any(value for _, value in figure.rows)
    )
    return f"<h2>What was delivered</h2>{plots(drawn)}{empty}" if drawn or empty else ""


def _plots(breaks: Sequence[Break], kept: Sequence[StoredBreak], now: dt.datetime) -> str:
    if not breaks and not kept:
        return ""
    kinds = Counter(entry.kind.value for entry in breaks).most_common()
    causes = Counter(entry.likeliest.cause.value for entry in breaks).most_common()
    ages = Counter(_age((now - entry.first_seen).days) for entry in kept if entry.resolved_at is None)
    by_age = [(name, ages[name]) for _, name in _AGES if ages[name]]
    figures = [("by kind", kinds), ("by likely cause", causes), ("all open breaks of the feed, by age", by_age)]
    return f"<h2>At a glance</h2>{plots((name, bars(rows)) for name, rows in figures if rows)}"


def _age(days: int) -> str:
    return next(name for limit, name in _AGES if days < limit)


def _break(entry: Break) -> str:
    look = _WORD[entry.severity]
    title = " ".join(
        filter(
            None,
            (
                entry.portfolio_number,
                "·" if entry.portfolio_number else None,
                entry.record.replace("_", " "),
                entry.subject,
            ),
        )
    )
    ours, theirs = ("file", "bigsite") if entry.side is Side.SOURCE else ("ours", "theirs")
    if entry.likeliest.cause is BreakCause.LANDING_ALTERED:
        theirs = "landing"
    values = [(ours, entry.export_value), (theirs, entry.other_value), ("difference", entry.difference)]
    if entry.field is None:
        values = [(name, value) for name, value in values if value is not None]
    facts = [("field", entry.field), *((name, "(none)" if value is None else value) for name, value in values)]
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value is not None)
    reasons = "".join(
        f"<dt>{'likely' if not at else 'or'}</dt><dd><b>{escape(reason.cause.value)}</b>: "
        f"{escape(reason.evidence)}</dd>"
        for at, reason in enumerate(entry.explanations)
    )
    return (
        f'<details class="{look}"><summary><b>{escape(title)}</b><small><span class="{look}">{look}</span> · {escape(entry.kind.value)}'
        f"{f' · {escape(entry.field)}' if entry.field else ''} · "
        f"{escape(entry.likeliest.cause.value)}</small></summary>"
        f"<div><dl>{listed}{reasons}</dl>{_trace(entry)}</div></details>"
    )


def _trace(entry: Break) -> str:
    trace = entry.trace
    where = None
    if trace.page:
        where = f"{trace.page}, line {trace.line} of the document" if trace.line else trace.page
    steps = [("bigsite", trace.source_row), ("landed", trace.landed_file), ("delivered", where)]
    listed = "".join(f"<li><span class='soft'>{name}</span> {escape(value or 'nothing')}</li>" for name, value in steps)
    return f'<ol class="trace">{listed}</ol>' if any(value for _, value in steps) else ""


def _held_back(result: Reconciliation) -> str:
    by_reason: dict[str, list[str]] = {}
    for number, reason in sorted(result.held_back.items()):
        by_reason.setdefault(reason, []).append(number)
    rows = [(reason, len(numbers), ", ".join(numbers[:_SHOWN])) for reason, numbers in by_reason.items()]
    listed = table(
        f"portfolios that were not delivered ({_AGAINST[result.side]})",
        ["reason", "number", "portfolios"],
        rows,
        numeric=(1,),
    )
    return f"<h2>Correctly not in the file ({len(result.held_back):,})</h2>{listed}"


_METRICS = {
    "LEDGER_BALANCE": ("Cash balance", "sum of the cash accounts' ledger balances"),
    "MARKET_VALUE": ("Market value", "sum of the holdings, at the last close"),
    "CASH_MOVED": ("Cash moved", "deposits less withdrawals and settlements of the date"),
    "TRADED": ("Traded", "net amount of the date's contract notes"),
    "UNITS_HELD": ("Units held", "sum over all holdings"),
    "UNITS_MOVED": ("Units moved", "units of the date's trades and transfers"),
    "HOLDINGS": ("Holdings", "number of holdings other than zero"),
    "CASH_ACCOUNTS": ("Cash accounts", "number of cash accounts"),
    "MOVEMENTS": ("Movements", "number of the date's transactions"),
}
# Of each kind of record, by its column of money.
_COLUMNS = {
    "ledger_balance": "balance of each cash account after all of its entries",
    "market_value": "value of each holding at its last close",
    "net_amount": "what each trade costs or brings, with brokerage and taxes",
    "amount": "money into a cash account less money out of it",
    "net_income": "dividends and distributions after withholding tax",
}
_OTHERS = {
    Side.SOURCE: "summed over bigsite, read again without the export's code",
    Side.DATA_TEAM: "summed over the data team's table",
}
_MONEY_FIRST = (*_METRICS, *_COLUMNS)


def _words(metric: str) -> tuple[str, str]:
    # The title of a sum and its explanation.
    if metric in _METRICS:
        return _METRICS[metric]
    record, _, column = metric.partition(".")
    return f"{record.replace('_', ' ').capitalize()}: {column.replace('_', ' ')}", _COLUMNS[column]


def _amounts(result: Reconciliation) -> str:
    ordered = sorted(
        result.amounts,
        key=lambda amount: (not amount.currency, amount.currency, _MONEY_FIRST.index(amount.metric.rpartition(".")[2])),
    )
    rows = [
        (
            f"{_words(amount.metric)[0]}{f', {amount.currency}' if amount.currency else ''}",
            *(
                _plain_number(value, money=bool(amount.currency))
                for value in (amount.ours, amount.theirs, amount.known, amount.difference)
            ),
        )
        for amount in ordered
    ]
    header = ["sum", "ours", "theirs", "left out", "difference"]
    explained = [
        ("ours", "summed over the files delivered to the recipient"),
        ("theirs", _OTHERS[result.side]),
        ("left out", "the part of theirs that the delivery leaves out on purpose: portfolios held back, and openings"),
        ("difference", "ours plus what is left out, less theirs: nothing if both agree"),
        *map(_words, dict.fromkeys(amount.metric for amount in ordered)),
    ]
    return (
        f"<h2>Ours and theirs</h2>{table('sums over all portfolios', header, rows, numeric=(1, 2, 3, 4))}"
        f"<details><summary>What the words mean</summary><div>{facts(explained)}</div></details>"
    )


def _plain_number(value: Decimal, *, money: bool) -> str:
    if money:
        return f"{value:,.2f}"
    return f"{value.normalize():,f}" if value else "0"


_CLASSES = (
    ("agree", ("match", "within_tolerance")),
    ("left out", ("excluded",)),
    ("differ", ("differs", "duplicate_left", "duplicate_right", "unparseable")),
    ("missing", ("missing_left", "missing_right")),
)


def _accounting(tallies: Iterable[Tally]) -> str:
    # One line a comparison: every row of both sides is in one of the columns.
    rows = []
    for tally in tallies:
        counts = [sum(max(tally.counts.get(name, (0, 0))) for name in names) for _, names in _CLASSES]
        rows.append((tally.name.replace("_", " "), *counts))
    explained = [
        ("agree", "rows that are equal on both sides, or within an agreed tolerance"),
        ("left out", "rows that are rightly on one side only, such as those of portfolios held back"),
        ("differ", "rows on both sides with another value, twice, or unreadable"),
        ("missing", "rows on one side only"),
    ]
    header = ["compared", *(name for name, _ in _CLASSES)]
    words = f"<details><summary>What the columns mean</summary><div>{facts(explained)}</div></details>"
    return f"{table('rows by outcome', header, rows, numeric=(1, 2, 3, 4))}{words}"


def _by_cause(breaks: Sequence[Break]) -> str:
    groups: dict[str, list[Break]] = {}
    for entry in breaks:  # the most severe first
        groups.setdefault(entry.likeliest.cause.value, []).append(entry)
    shown = "".join(f"<h3>{escape(cause)} ({len(group):,})</h3>{_folded(group)}" for cause, group in groups.items())
    explained = [
        *((severity.value, _SEVERITIES[severity]) for severity in BreakSeverity),
        *((cause, _CAUSES[BreakCause(cause)]) for cause in groups),
    ]
    words = f"<details><summary>What the words mean</summary><div>{facts(explained)}</div></details>"
    return f"{shown}{words}" if groups else ""


def _folded(group: Sequence[Break]) -> str:
    rest = "".join(map(_break, group[_UNFOLDED:]))
    folded = f"<details><summary>{len(group) - _UNFOLDED:,} more</summary><div>{rest}</div></details>" if rest else ""
    return "".join(map(_break, group[:_UNFOLDED])) + folded


def _frame(results: Sequence[Reconciliation]) -> pl.DataFrame:
    rows = [
        {
            "break_id": entry.break_id,
            "side": entry.side.value,
            "kind": entry.kind.value,
            "severity": entry.severity.value,
            "portfolio_number": entry.portfolio_number,
            "record": entry.record,
            "subject": entry.subject,
            "field": entry.field,
            "ours": entry.export_value,
            "theirs": entry.other_value,
            "difference": entry.difference,
            "cause": entry.likeliest.cause.value,
            "evidence": entry.likeliest.evidence,
            "source_row": entry.trace.source_row,
            "landed_file": entry.trace.landed_file,
            "page": entry.trace.page,
            "line": entry.trace.line,
        }
        for result in results
        for entry in result.worst
    ]
    names = ["break_id", "side", "kind", "severity", "portfolio_number", "record", "subject", "field", "ours", "theirs", "difference", "cause", "evidence", "source_row", "landed_file", "page", "line"]  # fmt: skip
    schema = {name: pl.Decimal(38, 6) if name == "difference" else pl.String() for name in names}
    return pl.DataFrame(rows, schema=schema)
