"""Breaks kept over time: found again, they stay one row; gone, they resolve; back, they open again."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from classfeed_dagster.warehouse.database import Connection, Staging, literal, query, transaction
from classfeed_dagster.warehouse.records import Break, Severity, Side

_TABLE = "RECONCILIATION_BREAK"
_UPDATED = (
    "KIND", "SEVERITY", "EXPORT_VALUE", "OTHER_VALUE", "DIFFERENCE", "EXPLANATION", "EVIDENCE", "SOURCE_ROW",
    "LANDED_FILE", "PAGE", "LINE", "LAST_SEEN", "LAST_ATTEMPT", "RESOLVED_AT",
)  # fmt: skip
_MAX_EVIDENCE, _MAX_VALUE, _MAX_SUBJECT = 4_000, 400, 1_024


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a date's breaks."""

    new: int
    still_open: int
    reopened: int
    resolved: int


@dataclass(frozen=True, slots=True)
class KeptBreak:
    """A break as the warehouse keeps it. Instants are UTC."""

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
) -> Saved:
    """Keep what a reconciliation of one side of one date found, in one transaction. Repeating it changes nothing.

    Open breaks of that side and date that weren't found again resolve ``at`` that instant. Events are resolved from
    the start: there is nothing to mend. ``metrics`` are kept as the run's history, once an attempt. ValueError if a
    break belongs to another feed, side or date.
    """
    strangers = [one for one in breaks if (one.feed, one.side, one.business_date) != (feed, side, day)]
    if strangers:
        raise ValueError(f"a break of {strangers[0].feed} {strangers[0].business_date} can't be kept for {feed} {day}")
    distinct = {one.break_id: one for one in breaks}
    where = f"FEED = {literal(feed)} AND SIDE = {literal(side.value)} AND BUSINESS_DATE = {literal(day)}"
    with Staging(connection) as staging:
        staged, staged_runs = staging.table(_TABLE), staging.table("RECONCILIATION_RUN")
        staging.put(staged, _frame(distinct.values(), at, attempt))
        staging.copy(staged)
        staging.put(staged_runs, _runs((feed, side, day), attempt, at, metrics or {}))
        staging.copy(staged_runs)
        before = {
            str(row[0]): bool(row[1])
            for row in query(connection, f"SELECT BREAK_ID, RESOLVED_AT IS NULL FROM {_TABLE} WHERE {where}")
        }
        with transaction(connection) as cursor:
            values = ", ".join(f"{column} = S.{column}" for column in _UPDATED)
            cursor.execute(f"UPDATE {_TABLE} SET {values} FROM {staged} S WHERE {_TABLE}.BREAK_ID = S.BREAK_ID")
            cursor.execute(
                f"INSERT INTO {_TABLE} SELECT * FROM {staged} S WHERE S.BREAK_ID NOT IN (SELECT BREAK_ID FROM {_TABLE})"
            )
            cursor.execute(
                f"UPDATE {_TABLE} SET RESOLVED_AT = {literal(at)} WHERE {where} AND RESOLVED_AT IS NULL "
                f"AND BREAK_ID NOT IN (SELECT BREAK_ID FROM {staged})"
            )
            cursor.execute(f"DELETE FROM RECONCILIATION_RUN WHERE {where} AND ATTEMPT = {literal(attempt)}")
            cursor.execute(f"INSERT INTO RECONCILIATION_RUN SELECT * FROM {staged_runs}")
    lasting = {one.break_id for one in distinct.values() if one.severity is not Severity.EVENT}
    return Saved(
        new=len(distinct.keys() - before.keys()),
        still_open=sum(before.get(found, False) for found in lasting),
        reopened=sum(found in before and not before[found] for found in lasting),
        resolved=sum(is_open and found not in distinct for found, is_open in before.items()),
    )


def kept_breaks(
    connection: Connection, *, feed: str | None = None, day: dt.date | None = None, only_open: bool = False
) -> list[KeptBreak]:
    """Breaks of a feed, of a date, or all; open ones only if asked. Oldest business date first."""
    conditions = ["TRUE"]
    if feed is not None:
        conditions.append(f"FEED = {literal(feed)}")
    if day is not None:
        conditions.append(f"BUSINESS_DATE = {literal(day)}")
    if only_open:
        conditions.append("RESOLVED_AT IS NULL")
    # A null instant comes back as 1970 from the local server, so its absence is asked for apart.
    rows = query(
        connection,
        "SELECT BREAK_ID, FEED, SIDE, BUSINESS_DATE, KIND, SEVERITY, PORTFOLIO_NUMBER, RECORD_KIND, SUBJECT, FIELD_NAME, "
        "EXPORT_VALUE, OTHER_VALUE, EXPLANATION, EVIDENCE, FIRST_SEEN, LAST_SEEN, RESOLVED_AT, RESOLVED_AT IS NULL "
        f"FROM {_TABLE} WHERE {' AND '.join(conditions)} ORDER BY BUSINESS_DATE, SEVERITY, PORTFOLIO_NUMBER, BREAK_ID",
    )
    return [_kept(row) for row in rows]


def _kept(row: tuple[Any, ...]) -> KeptBreak:
    (break_id, feed, side, day, kind, severity, number, record, subject, field, ours, theirs, why, evidence) = row[:14]
    return KeptBreak(
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
        explanation=why,
        evidence=evidence,
        first_seen=_utc(row[14]),
        last_seen=_utc(row[15]),
        resolved_at=None if row[17] else _utc(row[16]),
    )


def run_history(connection: Connection, feed: str, metric: str) -> list[tuple[dt.date, str, int]]:
    """A metric over time: business date, side, value of the date's last attempt. For plots."""
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
    rows = [_row(one, moment, attempt) for one in breaks]
    types: dict[str, pl.DataType] = {"BUSINESS_DATE": pl.Date(), "DIFFERENCE": pl.Decimal(38, 6)}
    types |= dict.fromkeys(("FIRST_SEEN", "LAST_SEEN", "RESOLVED_AT"), pl.Datetime("us"))
    if not rows:
        return pl.DataFrame()
    schema = {name: types.get(name, pl.String()) for name in rows[0]}
    return pl.DataFrame(rows, schema=schema)


def _row(one: Break, moment: dt.datetime, attempt: str) -> dict[str, Any]:
    further = "".join(f"; or {other.cause.value}: {other.evidence}" for other in one.explanations[1:])
    return {
        "BREAK_ID": one.break_id,
        "FEED": one.feed,
        "SIDE": one.side.value,
        "BUSINESS_DATE": one.business_date,
        "KIND": one.kind.value,
        "SEVERITY": one.severity.value,
        "PORTFOLIO_NUMBER": one.portfolio_number,
        "RECORD_KIND": one.record,
        "SUBJECT": one.subject[:_MAX_SUBJECT],
        "FIELD_NAME": one.field,
        "EXPORT_VALUE": one.export_value and one.export_value[:_MAX_VALUE],
        "OTHER_VALUE": one.other_value and one.other_value[:_MAX_VALUE],
        "DIFFERENCE": one.difference,
        "EXPLANATION": one.likeliest.cause.value,
        "EVIDENCE": (one.likeliest.evidence + further)[:_MAX_EVIDENCE],
        "SOURCE_ROW": one.trace.source_row,
        "LANDED_FILE": one.trace.landed_file,
        "PAGE": one.trace.page,
        "LINE": one.trace.line,
        "FIRST_SEEN": moment,
        "LAST_SEEN": moment,
        "RESOLVED_AT": moment if one.severity is Severity.EVENT else None,
        "FIRST_ATTEMPT": attempt,
        "LAST_ATTEMPT": attempt,
    }


def _runs(where: tuple[str, Side, dt.date], attempt: str, at: dt.datetime, metrics: Mapping[str, int]) -> pl.DataFrame:
    feed, side, day = where
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
