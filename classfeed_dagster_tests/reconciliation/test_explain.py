"""Each hypothesis in the circumstances that call for it, and none in others."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from classfeed_dagster.reconciliation.evidence import LateRow
from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
from classfeed_dagster.reconciliation.explain import Circumstances, explain, number_hints, severity
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakKind, BreakSeverity, Side, difference

READ = dt.datetime(2025, 3, 12, 16, tzinfo=dt.UTC)
SINCE = "2025-03-12T20:00:00.000000Z"
BEFORE = "2025-03-12T10:00:00.000000Z"
LATE = LateRow("trade 7", "2025-03-12 20:00:00Z", None, "to be sent with 2025-03-13")
CASE = Circumstances(
    record="investment_holdings", field="units", file="5.000000", landing="5.000000", bigsite="6.500000", in_file=True,
    file_is_landing=True, file_is_bigsite=False, evidence={}, snapshot_at=READ, page_fault=None,
)  # fmt: skip


def causes(**changes: object) -> list[BreakCause]:
    return [cause.cause for cause in explain(dataclasses.replace(CASE, **changes))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, BreakCause.UNKNOWN),
        ({"file_is_landing": False}, BreakCause.EXPORT_FAULT),
        ({"file_is_landing": False, "page_fault": "p: changed"}, BreakCause.FILE_ALTERED),
        ({"file_is_landing": None, "page_fault": "p: changed"}, BreakCause.FILE_ALTERED),
        ({"file_is_landing": True, "page_fault": "p: changed"}, BreakCause.UNKNOWN),  # the file still has the landed value
        ({"file_is_landing": False, "file_is_bigsite": True}, BreakCause.LANDING_ALTERED),
        ({"file_is_landing": False, "file_is_bigsite": True, "landing_faults": ("x: changed",)}, BreakCause.LANDING_ALTERED),
        ({"evidence": {"eod_updated_at": SINCE}, "late_rows": (LATE,)}, BreakCause.LATE_ROW),
        ({"evidence": {"eod_updated_at": SINCE}}, BreakCause.UNKNOWN),  # rewritten, and no row forces it
        ({"evidence": {"eod_updated_at": BEFORE}}, BreakCause.UNKNOWN),
        ({"evidence": {"eod_updated_at": SINCE}, "late_rows": (LATE,), "file_is_landing": False}, BreakCause.EXPORT_FAULT),
        ({"evidence": {"eod_updated_at": SINCE}, "late_rows": (LATE,), "file_is_landing": None}, BreakCause.UNKNOWN),
        ({"field": "price", "evidence": {"price_updated_at": SINCE}}, BreakCause.PRICE_REVISED),
        ({"field": "price", "evidence": {"price_updated_at": READ.isoformat()}}, BreakCause.UNKNOWN),
        ({"field": "cost_base", "evidence": {"price_updated_at": SINCE}}, BreakCause.UNKNOWN),
        ({"field": "isin", "evidence": {"state_updated_at": SINCE}, "state_evidence": "state_updated_at"}, BreakCause.STATE_CHANGED),
        ({"field": "units", "evidence": {"state_updated_at": SINCE}}, BreakCause.UNKNOWN),  # not of the row that changed
        ({"field": "hin", "evidence": {"state_updated_at": SINCE}, "state_evidence": "portfolio_updated_at"}, BreakCause.UNKNOWN),
        ({"record": "accounts", "field": "extract", "consent_change": "consent 1", "decided_by_consent": True}, BreakCause.CONSENT_CHANGED),
        ({"field": None, "in_file": False, "consent_change": "consent 1"}, BreakCause.UNKNOWN),  # it decides nothing here
        ({"record": "movement_transactions", "field": None, "in_file": False, "late_movement": dataclasses.replace(LATE, reverses="trade 1")}, BreakCause.REVERSAL),
        ({"record": "movement_transactions", "field": None, "in_file": False, "late_movement": LATE}, BreakCause.LATE_ROW),
        ({"record": "movement_transactions", "field": None, "in_file": False}, BreakCause.UNKNOWN),
        ({"file": "5.00", "bigsite": "-5.00"}, BreakCause.SIGN),
        ({"file": "5.00", "bigsite": "500.00"}, BreakCause.SCALE),
        ({"file": "12.34", "bigsite": "13.24"}, BreakCause.TRANSPOSED),
        ({"file": "2025-03-12", "bigsite": "2025-03-13"}, BreakCause.DAY_SHIFT),
        ({"file": "2025-03-12", "bigsite": "2025-03-14"}, BreakCause.UNKNOWN),
        ({"file": "x", "bigsite": "y"}, BreakCause.UNKNOWN),
    ],
)  # fmt: skip
def test_explain_returns_the_likeliest_cause(changes: dict[str, object], expected: BreakCause) -> None:
    assert causes(**changes)[0] is expected


def test_unexplained_difference_names_the_revision_that_held_it_back() -> None:
    (cause,) = explain(dataclasses.replace(CASE, held_back_since="revision 1 held it back"))
    assert (cause.cause, cause.evidence) == (BreakCause.UNKNOWN, "no evidence in the data; revision 1 held it back")
    assert causes(held_back_since="revision 1 held it back", bigsite="50.00", file="5.00") == [BreakCause.SCALE]


def test_causes_with_evidence_rank_before_hints() -> None:
    cause = causes(file="5.00", bigsite="50.00", evidence={"eod_updated_at": SINCE}, late_rows=(LATE,))
    assert cause == [BreakCause.LATE_ROW, BreakCause.SCALE]


def test_number_is_not_its_own_hint() -> None:
    assert number_hints("0.00", "0.00") == []
    assert number_hints(None, "1.00") == []
    assert difference("1.00", "x") is None


def test_difference_of_the_longest_numbers_is_exact() -> None:
    longest = "9" * 32 + ".999999"
    assert difference(longest, f"-{longest}") == Decimal("1" + "9" * 32 + ".999998")
    assert difference(longest, "0.000001") == Decimal("9" * 32 + ".999998")


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_difference_from_a_value_that_is_no_number_is_absent(text: str) -> None:
    assert difference(text, "1.00") is None
    assert number_hints(text, "1.00") == []


def test_severity_follows_the_cause() -> None:
    assert severity(explain(dataclasses.replace(CASE, late_rows=(LATE,)))) is BreakSeverity.WARNING
    assert severity(explain(CASE)) is BreakSeverity.ERROR


def test_disagreement_keeps_its_id() -> None:
    item = Break("f", READ.date(), Side.SOURCE, BreakKind.LATE, BreakSeverity.ERROR, "P", "r", "s", "units", "1", "2")
    assert item.break_id == dataclasses.replace(item, kind=BreakKind.VALUE_DIFFERS, export_value="9").break_id
    assert item.break_id != dataclasses.replace(item, field="price").break_id
    assert item.break_id != dataclasses.replace(item, side=Side.DATA_TEAM).break_id


@pytest.mark.parametrize(("recipient", "audience"), [("class", "a"), ("X'; DROP", "a"), ("CLASS", "a'b")])
def test_name_that_could_be_sql_is_refused(recipient: str, audience: str) -> None:
    with pytest.raises(ValueError, match="recipient"):
        ExpectedRecords(recipient, READ.date(), None, audience)


def test_explain_holding_undone_by_a_backdated_row_is_late() -> None:
    missing: dict[str, Any] = {"field": None, "bigsite": None}
    assert causes(**missing, late_rows=(LATE,))[0] is BreakCause.LATE_ROW
    (undone, *_) = explain(dataclasses.replace(CASE, **missing, late_rows=(LATE,)))
    assert undone.evidence.startswith("bigsite's end of day no longer has the row; ")
    assert causes(**missing)[0] is BreakCause.UNKNOWN
    # The file isn't what was landed: then the export is at fault, whatever came late.
    assert BreakCause.LATE_ROW not in causes(**missing, late_rows=(LATE,), file_is_landing=False)


def test_explain_names_the_first_three_backdated_rows() -> None:
    rows = tuple(LateRow(f"trade {at}", SINCE, "T1" if at else None, "sent with D") for at in range(4))
    rewritten = dataclasses.replace(CASE, evidence={"eod_updated_at": SINCE})
    (mixed,) = explain(dataclasses.replace(rewritten, late_rows=rows))
    assert mixed.cause is BreakCause.LATE_ROW
    assert mixed.evidence.startswith(f"bigsite rewrote its end of day at {SINCE}; ")
    reversing = [f"trade {at} recorded {SINCE} reversing T1 (sent with D)" for at in (1, 2)]
    output = ", ".join([f"trade 0 recorded {SINCE} (sent with D)", *reversing])
    assert mixed.evidence.endswith(f"backdated since: {output}")
    (reversals,) = explain(dataclasses.replace(rewritten, late_rows=rows[1:]))
    assert reversals.cause is BreakCause.REVERSAL
