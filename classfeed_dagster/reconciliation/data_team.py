"""Comparison of our metrics with the data team's. The entry point is ``reconcile_data_team``.

Their table stays in Snowflake: per-portfolio digests are computed there, and rows are fetched only for portfolios that
differ. The contract is the table CLASS_FEED_METRICS, which their own code computes on the same day.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from classfeed_dagster.reconciliation.compare import Comparison, Difference, RowClass, compare
from classfeed_dagster.reconciliation.delivered import Delivered, carried, read_delivered, selects
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.explain import number_hints
from classfeed_dagster.reconciliation.metrics import WINDOW_METRICS, OurMetrics, metrics_of, our_metrics
from classfeed_dagster.reconciliation.result import Amount, Reconciliation, Tally
from classfeed_dagster.reconciliation.rules import Field, FieldType, Rule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.breaks import of_another_date
from classfeed_dagster.warehouse.database import Connection, literal, query
from classfeed_dagster.warehouse.records import (
    UNEXPLAINED,
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    Side,
    as_decimal,
    difference,
)
from classfeed_dagster.wording import counted

TABLE = "CLASS_FEED_METRICS"
# Their table as agreed: shown in lineage and created in rehearsals.
COLUMNS = """
    BUSINESS_DATE     DATE          NOT NULL,   -- ASX business day of the metric
    RECIPIENT         VARCHAR(20)   NOT NULL,   -- recipient of the consents
    PORTFOLIO_NUMBER  VARCHAR(12)   NOT NULL,   -- every portfolio consented at the cut-off
    METRIC            VARCHAR(30)   NOT NULL,   -- name of the metric; a zero metric may be absent
    CURRENCY          CHAR(3),                  -- of metrics in money
    VALUE             NUMBER(38,6)  NOT NULL,   -- the metric; the latest computation applies
    COMPUTED_AT       TIMESTAMP_TZ  NOT NULL    -- instant of their computation
"""
HELD_BACK = "of portfolios that the delivery holds back"
INCOMPLETE = "without COMPUTED_AT or VALUE in their table"
OPENING = "rows from before the shared history are summed in the file, and listed in the metric"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*){0,2}\Z")
_CHUNK = 1_000
_MOST_INCOMPLETE = 1_000  # metrics; above it, the whole date is not compared
_NO_SUCH_OBJECT = frozenset({2003})  # Snowflake's number for "does not exist or not authorized"
_NO_SUCH_COLUMN = frozenset({904, 2043})  # Snowflake's, and the local server's
_COLUMN_NAMES = tuple(re.findall(r"^ *(\w+)", COLUMNS, re.MULTILINE))
_RULE = Rule(
    "metrics", (Field("portfolio_number"), Field("metric"), Field("currency")), (Field("value", FieldType.TOTAL),)
)
_WHOLE = "portfolio"
_Row = dict[str, str | None]
_Key = tuple[str, str, str]  # portfolio number, metric, currency


@dataclass(frozen=True, slots=True)
class _Theirs:
    digests: Mapping[str, str]
    computed_at: Mapping[str, dt.datetime]  # by portfolio, the latest
    first_computed: dt.datetime
    last_computed: dt.datetime
    computed_again: int  # metrics with several computations
    incomplete: Mapping[_Key, str]  # metrics with a row that lacks a value, and the column: the latest is not known


def reconcile_data_team(
    connection: Connection,
    store: ObjectStore,
    feed: str,
    day: dt.date,
    attempt: str,
    *,
    at: dt.datetime,
    due: dt.datetime | None = None,
    table: str = TABLE,
    layout: DocumentLayout = EPI,
) -> Reconciliation:
    """Compare the delivery of ``day`` with the data team's metrics for it. The latest of several computations applies.

    ``at``: now. ``due``: deadline of their date; a later first computation is an event. A missing date is one break.
    NothingDeliveredError without a delivery; ValueError if ``table`` is not a valid table name.
    """
    if not _IDENTIFIER.match(table):
        raise ValueError(f"Invalid table name {table!r}: use [database.][schema.]table")
    with tempfile.TemporaryDirectory(prefix="classfeed-metrics-") as folder:
        delivered = read_delivered(store, feed, day, Path(folder), layout)
        ours = our_metrics(delivered)
    recipient = delivered.revisions[-1].recipient
    selection = _Selection(table, day, recipient, tuple(metric.name for metric in metrics_of(delivered)))
    theirs, never = None, False
    reason = _unreadable(connection, table)
    if not reason:
        rows = _their_digests(connection, selection)
        if not rows:
            reason, never = _latest_date(connection, table, recipient)
        else:
            without_value = _incomplete(connection, selection)
            dated = [row for row in rows if row[5]]
            if not dated or not all(isinstance(row[3], dt.datetime) for row in dated):
                reason = f"the COMPUTED_AT of their table {table} is not always an instant: ask the data team"
            elif len(without_value) > _MOST_INCOMPLETE:
                reason = (
                    f"more than {_MOST_INCOMPLETE:,} metrics of their table {table} lack COMPUTED_AT or VALUE: ask the "
                    "data team"
                )
            else:
                theirs = _theirs(rows, without_value)
    if theirs is None:
        severity = BreakSeverity.EVENT if never else BreakSeverity.WARNING
        missing = _date_break(delivered, BreakKind.MISSING_DATE, severity, reason)
        # That they publish nothing for a recipient is stated once, not with every date.
        stated = never and of_another_date(connection, missing)
        return Reconciliation(feed, day, Side.DATA_TEAM, attempt, at, () if stated else (missing,), ())
    expected = {
        number
        for number, revision in delivered.latest.items()
        if revision.portfolios[number].get("change") != "REMOVED"
    }
    theirs = _carried(theirs, delivered)
    differing = sorted(
        number
        for number in (ours.digests.keys() | theirs.digests.keys())
        if ours.digests.get(number, "") != theirs.digests.get(number, "") or (number not in expected)
    )
    incomplete = {key for key in theirs.incomplete if key[0] in expected & theirs.digests.keys()}
    differing = sorted({*differing, *(number for number, _, _ in incomplete)})
    listed = _rows(connection, selection, differing)
    held_back = {number: str(entry.get("reason")) for number, entry in delivered.held_back.items()}
    for row in listed:
        row["excluded"] = HELD_BACK if row["portfolio_number"] in held_back else None
    on_both = expected & theirs.digests.keys()
    comparison = _compare(ours, listed, set(differing), on_both, incomplete, at.date())
    breaks = [
        *_portfolio_breaks(delivered, ours, theirs, expected),
        *_value_breaks(delivered, ours, theirs, comparison, expected),
        *_incomplete_breaks(delivered, {key: theirs.incomplete[key] for key in sorted(incomplete)}),
        *_date_events(delivered, theirs, due),
    ]
    agreeing = set(ours.digests) - set(differing)
    settled = sum(str(number) in agreeing for number in ours.rows["portfolio_number"].to_pylist())
    counts = {row_class.value: rows for row_class, rows in comparison.counts.items()}
    left, right = counts[RowClass.MATCH.value]
    counts[RowClass.MATCH.value] = (left + settled, right + settled)
    groups = len(ours.digests.keys() | theirs.digests.keys())
    tally = Tally("metrics against the data team", counts, groups, len(differing), comparison.excluded)
    return Reconciliation(
        feed, day, Side.DATA_TEAM, attempt, at, tuple(breaks), (tally,), held_back, truncated=comparison.truncated,
        amounts=_amounts(ours, listed, set(differing), set(held_back), on_both, incomplete),
    )  # fmt: skip


# --- Their side ------------------------------------------------------------------------------------------------------


def _unreadable(connection: Connection, table: str) -> str:
    # The reason why their table cannot be compared; empty if it can.
    if not _answers(connection, f"SELECT 1 FROM {table} LIMIT 0", _NO_SUCH_OBJECT):
        return f"their table {table} does not exist or may not be read (CLASSFEED_DATA_TEAM_TABLE)"
    missing = [
        name
        for name in _COLUMN_NAMES
        if not _answers(connection, f"SELECT {name} FROM {table} LIMIT 0", _NO_SUCH_COLUMN)
    ]
    return f"their table {table} lacks the agreed {', '.join(missing)}: ask the data team" if missing else ""


def _answers(connection: Connection, statement: str, refusals: frozenset[int]) -> bool:
    try:
        query(connection, statement)
    except Exception as error:
        if getattr(error, "errno", None) in refusals:  # the connector's class is not imported
            return False
        raise
    return True


@dataclass(frozen=True, slots=True)
class _Selection:
    # Rows of their table that a delivery can be compared with.
    table: str
    day: dt.date
    recipient: str
    metrics: tuple[str, ...]


def _latest(selection: _Selection) -> str:
    listed = ", ".join(literal(name) for name in selection.metrics)
    return f"""WITH LATEST AS (SELECT PORTFOLIO_NUMBER, METRIC, COALESCE(CURRENCY, '') AS CUR, VALUE, COMPUTED_AT,
        ROW_NUMBER() OVER (PARTITION BY PORTFOLIO_NUMBER, METRIC, COALESCE(CURRENCY, '') ORDER BY COMPUTED_AT DESC NULLS LAST, VALUE) AS NTH
        FROM {selection.table} WHERE BUSINESS_DATE = {literal(selection.day)}
        AND RECIPIENT = {literal(selection.recipient)} AND METRIC IN ({listed}))"""


def _their_digests(connection: Connection, selection: _Selection) -> Sequence[tuple[Any, ...]]:
    # Per portfolio the digest of its latest metrics other than zero, its first and last computation, the metrics
    # computed again, and the rows with an instant. No rows if the date is missing.
    return query(
        connection,
        f"""{_latest(selection)} SELECT PORTFOLIO_NUMBER,
        MD5(COALESCE(LISTAGG(CASE WHEN VALUE <> 0 AND NTH = 1 THEN METRIC || '|' || CUR || '|' || TO_VARCHAR(VALUE) END, ';')
            WITHIN GROUP (ORDER BY METRIC, CUR), '')) AS DIGEST,
        MIN(COMPUTED_AT), MAX(COMPUTED_AT), SUM(CASE WHEN NTH = 2 AND COMPUTED_AT IS NOT NULL THEN 1 ELSE 0 END), COUNT(COMPUTED_AT)
        FROM LATEST GROUP BY PORTFOLIO_NUMBER""",
    )


def _incomplete(connection: Connection, selection: _Selection) -> dict[_Key, str]:
    # Metrics with a row that lacks its instant or value, each with the column; one more than are named at most.
    rows = query(
        connection,
        f"{_latest(selection)} SELECT PORTFOLIO_NUMBER, METRIC, CUR, MAX(CASE WHEN COMPUTED_AT IS NULL THEN 1 ELSE 0 END) "
        "FROM LATEST WHERE COMPUTED_AT IS NULL OR VALUE IS NULL GROUP BY PORTFOLIO_NUMBER, METRIC, CUR "
        f"ORDER BY PORTFOLIO_NUMBER, METRIC, CUR LIMIT {_MOST_INCOMPLETE + 1}",
    )
    return {
        (str(number), str(metric), str(currency)): "COMPUTED_AT" if without_instant else "VALUE"
        for number, metric, currency, without_instant in rows
    }


def _theirs(rows: Sequence[tuple[Any, ...]], incomplete: Mapping[_Key, str]) -> _Theirs:
    empty = "d41d8cd98f00b204e9800998ecf8427e"  # MD5 of the empty text: only zeros
    dated = [row for row in rows if row[5]]
    return _Theirs(
        {str(row[0]): "" if row[1] == empty else str(row[1]) for row in rows},
        {str(row[0]): _utc(row[3]) for row in dated},
        min(_utc(row[2]) for row in dated),
        max(_utc(row[3]) for row in dated),
        sum(int(row[4]) for row in rows),
        incomplete,
    )


def _rows(connection: Connection, selection: _Selection, numbers: Sequence[str]) -> list[_Row]:
    # Their latest metrics other than zero, of some portfolios.
    metrics: list[_Row] = []
    for start in range(0, len(numbers), _CHUNK):
        listed = ", ".join(literal(number) for number in numbers[start : start + _CHUNK])
        rows = query(
            connection,
            f"{_latest(selection)} SELECT PORTFOLIO_NUMBER, METRIC, CUR, TO_VARCHAR(VALUE) FROM LATEST "
            f"WHERE NTH = 1 AND VALUE <> 0 AND PORTFOLIO_NUMBER IN ({listed})",
        )
        names = ("portfolio_number", "metric", "currency", "value")
        metrics += [
            dict(zip(names, (str(number), str(metric), str(currency), _plain(str(value))), strict=True))
            for number, metric, currency, value in rows
        ]
    return metrics


def _plain(value: str) -> str:
    # A column of more decimals, or a float, shows zeros or an exponent that the agreed type cannot hold.
    number = as_decimal(value)
    text = value if number is None else f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _latest_date(connection: Connection, table: str, recipient: str) -> tuple[str, bool]:
    # The reason for the missing date, and True if they never published a figure for the recipient.
    (row,) = query(connection, f"SELECT MAX(BUSINESS_DATE) FROM {table} WHERE RECIPIENT = {literal(recipient)}")
    (others,) = query(connection, f"SELECT COUNT(*) FROM {table}")
    latest = f"; the last date they have is {row[0]}" if row[0] else ", nor for any other"
    return f"they have no row for the date{latest}", not row[0] and bool(others[0])


def _utc(instant: dt.datetime) -> dt.datetime:
    return instant.astimezone(dt.UTC) if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _carried(theirs: _Theirs, delivered: Delivered) -> _Theirs:
    # Without the portfolios that the feed's switch excludes.
    selection = carried(delivered.revisions, delivered.latest)
    if selection == "*":
        return theirs
    return replace(theirs, digests={number: of for number, of in theirs.digests.items() if selects(selection, number)})


# --- Comparing
# ---------------------------------------------------------------------------------------------------------


def _compare(
    ours: OurMetrics,
    theirs: Iterable[_Row],
    differing: set[str],
    on_both: set[str],
    incomplete: set[_Key],
    today: dt.date,
) -> Comparison:
    # Comparison of the differing portfolios. A metric absent from one side is zero if its portfolio is on both.
    sides = [
        {_key(row): row for row in ours.rows.to_pylist() if row["portfolio_number"] in differing},
        {_key(row): row for row in theirs},
    ]
    for side, other in (sides, sides[::-1]):
        for key, row in list(other.items()):
            if key not in side and key[0] in on_both:
                side[key] = {**row, "value": "0"}
    for key, row in sides[0].items():
        other_row = sides[1].get(key)
        unequal = other_row is not None and difference(row["value"], other_row["value"]) != 0
        left_out = unequal and key[0] in ours.with_openings and key[1] in WINDOW_METRICS
        row["excluded"] = INCOMPLETE if key in incomplete else OPENING if left_out else None
    schema = pa.schema(
        [(name, pa.string()) for name in ("portfolio_number", "metric", "currency", "value", "excluded")]
    )
    left, right = (pa.Table.from_pylist(list(side.values()), schema=schema) for side in sides)
    return compare(_RULE, left, right, today=today, staged=False)


def _amounts(
    ours: OurMetrics,
    theirs: Iterable[_Row],
    differing: set[str],
    held_back: set[str],
    on_both: set[str],
    incomplete: set[_Key],
) -> tuple[Amount, ...]:
    # Portfolios that do not differ have equal metrics on both sides, so theirs are read for the others alone.
    mine = {_key(row): Decimal(row["value"]) for row in ours.rows.to_pylist()}
    listed = {_key(row): Decimal(str(row["value"])) for row in theirs}
    sums: dict[tuple[str, str], list[Decimal]] = {}
    for key in mine.keys() | listed.keys():
        number, metric, currency = key
        own = mine.get(key, Decimal(0))
        other = listed.get(key, Decimal(0)) if number in differing else own
        opening = number in on_both and number in ours.with_openings and metric in WINDOW_METRICS
        known = other if number in held_back else other - own if opening or key in incomplete else Decimal(0)
        entry = sums.setdefault((metric, currency), [Decimal(0)] * 3)
        for at, value in enumerate((own, other, known)):
            entry[at] += value
    return tuple(Amount(metric, currency, *sums[metric, currency]) for metric, currency in sorted(sums))


def _key(row: _Row) -> _Key:
    return str(row["portfolio_number"]), str(row["metric"]), str(row["currency"])


# --- Breaks
# ------------------------------------------------------------------------------------------------------------


def _portfolio_breaks(delivered: Delivered, ours: OurMetrics, theirs: _Theirs, expected: set[str]) -> Iterable[Break]:
    # Portfolios on one side only. One whose metrics are all zero may be absent from theirs.
    held_back = delivered.held_back
    for number in sorted(theirs.digests.keys() - expected):
        if number in held_back:
            explanation = BreakExplanation(BreakCause.QUARANTINE, f"held back: {held_back[number].get('reason')}")
        elif number in delivered.latest:
            explanation = BreakExplanation(
                BreakCause.CONSENT_CHANGED, "delivered as REMOVED: its consent ended within the window"
            )
        else:
            explanation = UNEXPLAINED
        broken = _break(delivered, BreakKind.MISSING_IN_EXPORT, number, _WHOLE, number, explanations=(explanation,))
        yield replace(broken, severity=BreakSeverity.EVENT) if number in held_back else broken
    for number in sorted((expected & ours.digests.keys()) - theirs.digests.keys()):
        yield _break(delivered, BreakKind.EXTRA_IN_EXPORT, number, _WHOLE, number)


def _value_breaks(
    delivered: Delivered, ours: OurMetrics, theirs: _Theirs, comparison: Comparison, expected: set[str]
) -> Iterable[Break]:
    on_both = expected & theirs.digests.keys()
    for each in comparison.differences:
        number, metric, currency = (str(part) for part in each.key)
        if number in on_both:
            broken = _break(
                delivered,
                BreakKind.VALUE_DIFFERS,
                number,
                metric,
                currency or metric,
                explanations=_explain(each, delivered, ours, theirs),
            )
            yield replace(
                broken,
                field="value",
                export_value=each.left,
                other_value=each.right,
                difference=difference(each.left, each.right),
            )


def _explain(each: Difference, delivered: Delivered, ours: OurMetrics, theirs: _Theirs) -> tuple[BreakExplanation, ...]:
    number, metric, _ = (str(part) for part in each.key)
    explanations = []
    gap = difference(each.left, each.right) or Decimal(0)
    rows = [row for row in ours.movements.get(number, ()) if row[0] == metric]
    single = next((transaction for _, value, transaction in rows if Decimal(value) == gap), None)
    twice = next((transaction for _, value, transaction in rows if Decimal(value) == -gap), None)
    if single:
        explanations.append(
            BreakExplanation(BreakCause.ONE_ROW, f"the difference is exactly {single}, which theirs may lack")
        )
    elif twice:
        explanations.append(
            BreakExplanation(BreakCause.ONE_ROW, f"the difference is exactly {twice}, which theirs may count twice")
        )
    computed, read = theirs.computed_at.get(number), delivered.latest[number].snapshot_at
    if computed is None:
        pass  # each of its rows lacks the instant
    elif computed < read:
        explanations.append(
            BreakExplanation(
                BreakCause.DATA_TEAM_TIMING,
                f"they computed at {computed:%Y-%m-%d %H:%M:%S}Z, before bigsite was read at {read:%Y-%m-%d %H:%M:%S}Z",
            )
        )
    elif computed < theirs.last_computed:
        explanations.append(
            BreakExplanation(
                BreakCause.DATA_TEAM_TIMING,
                f"this figure is of {computed:%Y-%m-%d %H:%M:%S}Z; other portfolios were computed again at "
                f"{theirs.last_computed:%Y-%m-%d %H:%M:%S}Z",
            )
        )
    return (*explanations, *number_hints(each.left, each.right)) or (UNEXPLAINED,)


def _incomplete_breaks(delivered: Delivered, incomplete: Mapping[_Key, str]) -> Iterable[Break]:
    for (number, metric, currency), column in incomplete.items():
        evidence = f"a row of theirs has no {column}, so the latest figure is not known: ask the data team"
        explanation = BreakExplanation(BreakCause.DATA_TEAM_TIMING, evidence)
        yield _break(delivered, BreakKind.UNREADABLE, number, metric, currency or metric, explanations=(explanation,))


def _date_events(delivered: Delivered, theirs: _Theirs, due: dt.datetime | None) -> Iterable[Break]:
    if due is not None and theirs.first_computed > due:
        evidence = f"first computed at {theirs.first_computed:%Y-%m-%d %H:%M:%S}Z, due by {due.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z"
        yield _date_break(delivered, BreakKind.LATE_DATE, BreakSeverity.EVENT, evidence)
    if theirs.computed_again:
        last = f"{theirs.last_computed:%Y-%m-%d %H:%M:%S}Z"
        evidence = f"{counted(theirs.computed_again, 'metric')} computed again, the last at {last}, which counts"
        yield _date_break(delivered, BreakKind.RECOMPUTED_DATE, BreakSeverity.EVENT, evidence)


def _date_break(delivered: Delivered, kind: BreakKind, severity: BreakSeverity, evidence: str) -> Break:
    explanation = BreakExplanation(BreakCause.DATA_TEAM_TIMING, evidence)
    broken = _break(delivered, kind, None, "business date", kind.value, explanations=(explanation,))
    return replace(broken, severity=severity)


def _break(
    delivered: Delivered,
    kind: BreakKind,
    number: str | None,
    record: str,
    subject: str,
    *,
    explanations: tuple[BreakExplanation, ...] = (UNEXPLAINED,),
) -> Break:
    return Break(
        delivered.feed, delivered.business_date, Side.DATA_TEAM, kind, BreakSeverity.WARNING, number, record, subject,
        explanations=explanations,
    )  # fmt: skip
