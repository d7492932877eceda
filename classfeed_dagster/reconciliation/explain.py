"""Explanations of a disagreement: each is accepted only if its own evidence forces it. The likeliest comes first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.reconciliation.evidence import LateRow
from classfeed_dagster.warehouse.records import UNEXPLAINED, BreakCause, BreakExplanation, BreakSeverity, as_decimal

# What explains a break without anything being wrong with the delivery: the source moved on after it was read.
MOVED_ON = frozenset(
    {
        BreakCause.LATE_ROW,
        BreakCause.REVERSAL,
        BreakCause.PRICE_REVISED,
        BreakCause.CONSENT_CHANGED,
        BreakCause.STATE_CHANGED,
    }
)
_SHOWN = 3
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The evidence on one disagreement about a record of a portfolio. Whatever is not proven is None or empty."""

    record: str
    field: str | None
    file: str | None
    landing: str | None
    bigsite: str | None
    in_file: bool
    file_is_landing: bool | None  # None: the landing could not be compared
    file_is_bigsite: bool
    evidence: Row  # of bigsite's row: when it changed
    snapshot_at: dt.datetime
    page_fault: str | None  # what is wrong with the delivered page, if anything
    landing_faults: Sequence[str] = ()
    state_evidence: str | None = None  # the evidence column of the row that a state field comes from
    late_rows: Sequence[LateRow] = ()  # they force the difference of an end-of-day figure
    late_movement: LateRow | None = None  # the movement that the file lacks, proven not to have been visible
    consent_change: str | None = None  # proven by the landing's old values
    decided_by_consent: bool = False

    def changed_since(self, name: str) -> str | None:
        """Return when bigsite changed after the snapshot, by a piece of evidence; None if it didn't."""
        text = self.evidence.get(name)
        return text if text is not None and dt.datetime.fromisoformat(text) > self.snapshot_at else None


def explain(case: Circumstances) -> tuple[BreakExplanation, ...]:
    """Return every explanation that its evidence forces, the likeliest first; UNEXPLAINED alone if there is none."""
    explanations: list[BreakExplanation] = []
    if case.file_is_landing is not True and case.page_fault:
        explanations.append(BreakExplanation(BreakCause.FILE_ALTERED, case.page_fault))
    if case.file_is_bigsite:
        if case.landing_faults:
            explanations.append(BreakExplanation(BreakCause.LANDING_ALTERED, case.landing_faults[0]))
        else:
            explanations.append(
                BreakExplanation(BreakCause.LANDING_ALTERED, "file and bigsite agree, the landed copy alone differs")
            )
    elif case.file_is_landing:
        # Only a landing that shows the value in the file proves that bigsite said so when it was read.
        explanations += _changed_since_snapshot(case)
    if not explanations and case.file_is_landing is False:
        explanations.append(
            BreakExplanation(BreakCause.EXPORT_FAULT, "the landed copy differs from the file made of it")
        )
    explanations += number_hints(case.file, case.landing if case.file_is_bigsite else case.bigsite)
    return tuple(explanations) or (UNEXPLAINED,)


def _changed_since_snapshot(case: Circumstances) -> list[BreakExplanation]:
    explanations: list[BreakExplanation] = []
    read = f"the snapshot was read at {case.snapshot_at:%Y-%m-%d %H:%M:%S}Z"
    if case.consent_change and case.decided_by_consent:
        explanations.append(BreakExplanation(BreakCause.CONSENT_CHANGED, f"{case.consent_change}; {read}"))
    price = case.changed_since("price_updated_at")
    if price and case.field in ("price", "price_date", "market_value"):
        explanations.append(
            BreakExplanation(BreakCause.PRICE_REVISED, f"bigsite's price was updated at {price}; {read}")
        )
    explanations += _late(case, read)
    state = case.changed_since(case.state_evidence) if case.state_evidence else None
    if state:
        explanations.append(
            BreakExplanation(BreakCause.STATE_CHANGED, f"bigsite updated it in place at {state}; {read}")
        )
    return explanations


def _late(case: Circumstances, read: str) -> list[BreakExplanation]:
    if case.late_movement is not None:
        row = case.late_movement
        cause = BreakCause.REVERSAL if row.reverses else BreakCause.LATE_ROW
        return [BreakExplanation(cause, f"recorded {row.recorded_at}, and not visible when {read[4:]}; {row.travel}")]
    if not case.late_rows:
        return []
    at = case.changed_since("eod_updated_at")
    what = f"bigsite rewrote its end of day at {at}" if at else "bigsite's end of day has no such row any more"
    shown = ", ".join(
        f"{row.source_row} recorded {row.recorded_at}"
        + (f" reversing {row.reverses}" if row.reverses else "")
        + f" ({row.travel})"
        for row in case.late_rows[:_SHOWN]
    )
    cause = BreakCause.REVERSAL if all(row.reverses for row in case.late_rows) else BreakCause.LATE_ROW
    return [BreakExplanation(cause, f"{what}; {read}; backdated since: {shown}")]


def number_hints(one: str | None, other: str | None) -> list[BreakExplanation]:
    """Return hints from the two values alone, ranked after every cause that has evidence of its own."""
    left, right = as_decimal(one), as_decimal(other)
    if left is None or right is None:
        return _date_hint(one, other)
    if left and left == -right:
        return [BreakExplanation(BreakCause.SIGN, f"{left} is {right} with its sign turned")]
    for power in (1, 2, 3):
        factor = Decimal(10) ** power
        if right and (left == right * factor or left * factor == right):
            return [BreakExplanation(BreakCause.SCALE, f"the values differ by a factor of {factor}")]
    # Two digits changing places make a difference divisible by 9: a weak hint, so the digits themselves must agree.
    digits = [sorted(f"{abs(value):f}".replace(".", "")) for value in (left, right)]
    if left != right and digits[0] == digits[1]:
        return [BreakExplanation(BreakCause.TRANSPOSED, "the same digits in another order (a weak hint)")]
    return []


def _date_hint(one: str | None, other: str | None) -> list[BreakExplanation]:
    try:
        days = abs((dt.date.fromisoformat(one or "") - dt.date.fromisoformat(other or "")).days)
    except ValueError:
        return []
    return (
        [BreakExplanation(BreakCause.DAY_SHIFT, "the dates are one day apart: look at time zones")] if days == 1 else []
    )


def severity(explanations: Sequence[BreakExplanation]) -> BreakSeverity:
    """Return EVENT for a portfolio held back, WARNING where the source moved on after a delivery, else ERROR."""
    cause = explanations[0].cause
    if cause is BreakCause.QUARANTINE:
        return BreakSeverity.EVENT  # held back by a rule, on record: many of them raise an alert of their own
    return BreakSeverity.WARNING if cause in MOVED_ON else BreakSeverity.ERROR
