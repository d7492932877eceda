"""Breaks over time, one row each: a break that is missing in a later attempt is resolved, and reopened if it returns."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from classfeed_dagster.warehouse.database import Connection, Staging, literal, query, transaction
from classfeed_dagster.warehouse.records import Break, BreakSeverity, Side

_TABLE = "RECONCILIATION_BREAK"
_UPDATED = (
    "KIND", "SEVERITY", "EXPORT_VALUE", "OTHER_VALUE", "DIFFERENCE", "EXPLANATION", "EVIDENCE", "SOURCE_ROW",
    "LANDED_FILE", "PAGE", "LINE", "LAST_SEEN", "LAST_ATTEMPT", "RESOLVED_AT",
)  # fmt: skip
_MAX_EVIDENCE, _MAX_VALUE, _MAX_SUBJECT = 4_000, 400, 1_024


@dataclass(frozen=True, slots=True)
class BreakChanges:
    """Number of a date's breaks by change."""

    new: int
    still_open: int
    reopened: int
    resolved: int


@dataclass(frozen=True, slots=True)
class StoredBreak:
    """Break as stored in the warehouse. Instants are UTC."""

    break_id: str
    feed: str
    side: Side
    business_date: dt.date
    kind: str
    severity: str
    portfolio_number: str | None
    record: str
    subject: str
    field: str | None
    export_value: str | None
    other_value: str | None
    explanation: str
    evidence: str
    first_seen: dt.datetime
    last_seen: dt.datetime
    resolved_at: dt.datetime | None


def save_breaks(
    connection: Connection,
    feed: str,
    side: Side,
    day: dt.date,
    breaks: Sequence[Break],
    *,
    at: dt.datetime,
    attempt: str,
    metrics: Mapping[str, int] | None = None,
) -> BreakChanges:
    """Store the breaks of one side of one date, in one transaction. Idempotent.

    Open breaks of that side and date that are not in ``breaks`` are resolved ``at`` that instant. Events need no action
    and are resolved from the start. ``metrics`` are stored as the run's history, once an attempt. ValueError if a break
    belongs to another feed, side or date.
    """
    for entry in breaks:
        if (entry.feed, entry.side, entry.business_date) != (feed, side, day):
            raise ValueError(f"A break of {entry.feed} {entry.business_date} cannot be stored for {feed} {day}")
    distinct = {entry.break_id: entry for entry in breaks}
    condition = f"FEED = {literal(feed)} AND SIDE = {literal(side.value)} AND BUSINESS_DATE = {literal(day)}"
    with Staging(connection) as staging:
        staged, staged_runs = staging.table(_TABLE), staging.table("RECONCILIATION_RUN")
        staging.put(staged, _frame(distinct.values(), at, attempt))
        staging.copy(staged)
        staging.put(staged_runs, _runs((feed, side, day), attempt, at, metrics or {}))
        staging.copy(staged_runs)
        before = {
            str(row[0]): bool(row[1])
            for row in query(connection, f"SELECT BREAK_ID, RESOLVED_AT IS NULL FROM {_TABLE} WHERE {condition}")
        }
        with transaction(connection) as cursor:
            values = ", ".join(f"{column} = S.{column}" for column in _UPDATED)
            cursor.execute(f"UPDATE {_TABLE} SET {values} FROM {staged} S WHERE {_TABLE}.BREAK_ID = S.BREAK_ID")
            cursor.execute(
                f"INSERT INTO {_TABLE} SELECT * FROM {staged} S WHERE S.BREAK_ID NOT IN (SELECT BREAK_ID FROM {_TABLE})"
            )
            cursor.execute(
                f"UPDATE {_TABLE} SET RESOLVED_AT = {literal(at)} WHERE {condition} AND RESOLVED_AT IS NULL "
                f"AND BREAK_ID NOT IN (SELECT BREAK_ID FROM {staged})"
            )
            cursor.execute(f"DELETE FROM RECONCILIATION_RUN WHERE {condition} AND ATTEMPT = {literal(attempt)}")
            cursor.execute(f"INSERT INTO RECONCILIATION_RUN SELECT * FROM {staged_runs}")
    lasting = {entry.break_id for entry in distinct.values() if entry.severity is not BreakSeverity.EVENT}
    return BreakChanges(
        new=len(distinct.keys() - before.keys()),
        still_open=sum(before.get(break_id, False) for break_id in lasting),
        reopened=sum(break_id in before and not before[break_id] for break_id in lasting),
        resolved=sum(is_open and break_id not in distinct for break_id, is_open in before.items()),
    )


def stored_breaks(
    connection: Connection, *, feed: str | None = None, day: dt.date | None = None, only_open: bool = False
) -> list[StoredBreak]:
    """Return the breaks of a feed, of a date, or all, oldest business date first. ``only_open``: the open ones."""
    conditions = ["TRUE"]
    if feed is not None:
        conditions.append(f"FEED = {literal(feed)}")
    if day is not None:
        conditions.append(f"BUSINESS_DATE = {literal(day)}")
    if only_open:
        conditions.append("RESOLVED_AT IS NULL")
    # The local server returns a null instant as 1970, so a separate column states its absence.
    rows = query(
        connection,
        "SELECT BREAK_ID, FEED, SIDE, BUSINESS_DATE, KIND, SEVERITY, PORTFOLIO_NUMBER, RECORD_KIND, SUBJECT, FIELD_NAME, "
        "EXPORT_VALUE, OTHER_VALUE, EXPLANATION, EVIDENCE, FIRST_SEEN, LAST_SEEN, RESOLVED_AT, RESOLVED_AT IS NULL "
        f"FROM {_TABLE} WHERE {' AND '.join(conditions)} ORDER BY BUSINESS_DATE, SEVERITY, PORTFOLIO_NUMBER, BREAK_ID",
    )
    return [_stored(row) for row in rows]


def of_another_date(connection: Connection, entry: Break) -> bool:
    """Return True if a break of the same kind and severity is stored for another date of its feed."""
    (row,) = query(
        connection,
        f"SELECT COUNT(*) FROM {_TABLE} WHERE FEED = {literal(entry.feed)} AND SIDE = {literal(entry.side.value)} "
        f"AND KIND = {literal(entry.kind.value)} AND SEVERITY = {literal(entry.severity.value)} "
        f"AND BUSINESS_DATE <> {literal(entry.business_date)}",
    )
    return bool(row[0])


def _stored(row: tuple[Any, ...]) -> StoredBreak:
    (break_id, feed, side, day, kind, severity, number, record, subject, field, ours, theirs, cause, evidence) = row[
        :14
    ]
    return StoredBreak(
        break_id=break_id,
        feed=feed,
        side=Side(side),
        business_date=day,
        kind=kind,
        severity=severity,
        portfolio_number=number,
        record=record,
        subject=subject,
        field=field,
        export_value=ours,
        other_value=theirs,
        explanation=cause,
        evidence=evidence,
        first_seen=_utc(row[14]),
        last_seen=_utc(row[15]),
        resolved_at=None if row[17] else _utc(row[16]),
    )


def run_history(connection: Connection, feed: str, metric: str) -> list[tuple[dt.date, str, int]]:
    """Return a metric over time, for plots: business date, side and value of the date's last attempt."""
    rows = query(
        connection,
        "SELECT BUSINESS_DATE, SIDE, VALUE FROM RECONCILIATION_RUN "
        f"WHERE FEED = {literal(feed)} AND METRIC = {literal(metric)} "
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY BUSINESS_DATE, SIDE ORDER BY RAN_AT DESC) = 1 ORDER BY 1, 2",
    )
    return [(row[0], str(row[1]), int(row[2])) for row in rows]


def _utc(instant: dt.datetime) -> dt.datetime:
    return instant.replace(tzinfo=dt.UTC)


def _frame(breaks: Iterable[Break], at: dt.datetime, attempt: str) -> pl.DataFrame:
    moment = at.astimezone(dt.UTC).replace(tzinfo=None)
    rows = [_row(entry, moment, attempt) for entry in breaks]
    types: dict[str, pl.DataType] = {"BUSINESS_DATE": pl.Date(), "DIFFERENCE": pl.Decimal(38, 6)}
    types |= dict.fromkeys(("FIRST_SEEN", "LAST_SEEN", "RESOLVED_AT"), pl.Datetime("us"))
    if not rows:
        return pl.DataFrame()
    schema = {name: types.get(name, pl.String()) for name in rows[0]}
    return pl.DataFrame(rows, schema=schema)


def _row(entry: Break, moment: dt.datetime, attempt: str) -> dict[str, Any]:
    further = "".join(f"; or {other.cause.value}: {other.evidence}" for other in entry.explanations[1:])
    return {
        "BREAK_ID": entry.break_id,
        "FEED": entry.feed,
        "SIDE": entry.side.value,
        "BUSINESS_DATE": entry.business_date,
        "KIND": entry.kind.value,
        "SEVERITY": entry.severity.value,
        "PORTFOLIO_NUMBER": entry.portfolio_number,
        "RECORD_KIND": entry.record,
        "SUBJECT": entry.subject[:_MAX_SUBJECT],
        "FIELD_NAME": entry.field,
        "EXPORT_VALUE": entry.export_value and entry.export_value[:_MAX_VALUE],
        "OTHER_VALUE": entry.other_value and entry.other_value[:_MAX_VALUE],
        "DIFFERENCE": entry.difference,
        "EXPLANATION": entry.likeliest.cause.value,
        "EVIDENCE": (entry.likeliest.evidence + further)[:_MAX_EVIDENCE],
        "SOURCE_ROW": entry.trace.source_row,
        "LANDED_FILE": entry.trace.landed_file,
        "PAGE": entry.trace.page,
        "LINE": entry.trace.line,
        "FIRST_SEEN": moment,
        "LAST_SEEN": moment,
        "RESOLVED_AT": moment if entry.severity is BreakSeverity.EVENT else None,
        "FIRST_ATTEMPT": attempt,
        "LAST_ATTEMPT": attempt,
    }


def _runs(
    reconciliation: tuple[str, Side, dt.date], attempt: str, at: dt.datetime, metrics: Mapping[str, int]
) -> pl.DataFrame:
    feed, side, day = reconciliation
    moment = at.astimezone(dt.UTC).replace(tzinfo=None)
    rows = [
        {
            "FEED": feed,
            "SIDE": side.value,
            "BUSINESS_DATE": day,
            "ATTEMPT": attempt,
            "RAN_AT": moment,
            "METRIC": name,
            "VALUE": value,
        }
        for name, value in metrics.items()
    ]
    return pl.DataFrame(rows)
