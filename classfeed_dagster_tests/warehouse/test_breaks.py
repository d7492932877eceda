from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster.warehouse.breaks import BreakChanges, run_history, save_breaks, stored_breaks
from classfeed_dagster.warehouse.records import (
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    RecordTrace,
    Side,
)

DAY = dt.date(2025, 3, 12)
NOON = dt.datetime(2025, 3, 13, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(hours=1)
ONE = Break(
    "class_super", DAY, Side.SOURCE, BreakKind.VALUE_DIFFERS, BreakSeverity.ERROR, "SW000001", "movement_transactions", "T102", "net_amount",
    "10.50", "10.40", Decimal("0.10"), (BreakExplanation(BreakCause.FILE_ALTERED, "O'Brien's page; 100 %"), BreakExplanation(BreakCause.SIGN, "turned")),
    RecordTrace("trade 102", "landing/x", "p1", "17"),
)  # fmt: skip
OTHER = dataclasses.replace(
    ONE,
    subject="T103",
    difference=None,
    explanations=(BreakExplanation(BreakCause.LATE_ROW, "x" * 9000),),
    trace=RecordTrace(),
)
EVENT = dataclasses.replace(ONE, subject="computed again", kind=BreakKind.RECOMPUTED_DATE, severity=BreakSeverity.EVENT)


def save(
    connection: Any, *breaks: Break, at: dt.datetime = NOON, attempt: str = "a1", side: Side = Side.SOURCE
) -> BreakChanges:
    return save_breaks(
        connection, "class_super", side, DAY, breaks, at=at, attempt=attempt, metrics={"breaks": len(breaks)}
    )


def test_break_is_one_row_when_resolved_and_reopened(warehouse: Any) -> None:
    assert save(warehouse, ONE, OTHER) == BreakChanges(new=2, still_open=0, reopened=0, resolved=0)
    assert save(warehouse, ONE, OTHER) == BreakChanges(new=0, still_open=2, reopened=0, resolved=0)
    changed = dataclasses.replace(ONE, export_value="10.60", difference=Decimal("0.20"))
    assert save(warehouse, changed, at=LATER, attempt="a2") == BreakChanges(new=0, still_open=1, reopened=0, resolved=1)
    kept = {break_.subject: break_ for break_ in stored_breaks(warehouse)}
    assert (kept["T102"].first_seen, kept["T102"].last_seen, kept["T102"].resolved_at) == (NOON, LATER, None)
    assert kept["T102"].export_value == "10.60"
    assert kept["T102"].evidence == "O'Brien's page; 100 %; or sign turned: turned"
    assert (kept["T103"].last_seen, kept["T103"].resolved_at) == (NOON, LATER)
    assert len(kept["T103"].evidence) == 4000
    assert [break_.subject for break_ in stored_breaks(warehouse, feed="class_super", day=DAY, only_open=True)] == [
        "T102"
    ]
    assert stored_breaks(warehouse, feed="another") == []
    again = LATER + dt.timedelta(hours=1)
    assert save(warehouse, OTHER, at=again, attempt="a3") == BreakChanges(new=0, still_open=0, reopened=1, resolved=1)
    kept = {break_.subject: break_ for break_ in stored_breaks(warehouse)}
    assert kept["T103"].first_seen == NOON
    assert kept["T103"].resolved_at is None


def test_sides_and_dates_resolve_apart(warehouse: Any) -> None:
    save(warehouse, ONE)
    assert save(warehouse, side=Side.DATA_TEAM) == BreakChanges(0, 0, 0, 0)
    assert len(stored_breaks(warehouse, only_open=True)) == 1


def test_event_is_never_open(warehouse: Any) -> None:
    assert save(warehouse, EVENT).new == 1
    assert stored_breaks(warehouse, only_open=True) == []
    assert save(warehouse, EVENT, at=LATER) == BreakChanges(0, 0, 0, 0)
    assert len(stored_breaks(warehouse)) == 1


def test_break_of_another_date_is_refused(warehouse: Any) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        save(warehouse, dataclasses.replace(ONE, business_date=dt.date(2025, 3, 13)))


def test_history_of_a_metric_has_one_value_a_date(warehouse: Any) -> None:
    save(warehouse, ONE, OTHER)
    save(warehouse, ONE, at=LATER, attempt="a2")
    save(warehouse, ONE, at=LATER, attempt="a2")
    assert run_history(warehouse, "class_super", "breaks") == [(DAY, "source", 1)]
