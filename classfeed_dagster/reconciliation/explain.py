"""Explanations of a disagreement, the likeliest first. Each is accepted only if its own evidence proves it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.reconciliation.evidence import LateRow
from classfeed_dagster.warehouse.records import UNEXPLAINED, BreakCause, BreakExplanation, BreakSeverity, as_decimal

# Causes that leave the delivery correct: the source changed after it was read.
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
_NOT_SENT = "the delivery's own ledger has another value: the file was changed after delivery"
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Evidence on one disagreement about a record of a portfolio. Unproven facts are None or empty."""

    record: str
    field: str | None
    file: str | None
    landing: str | None
    bigsite: str | None
    in_file: bool
    file_is_landing: bool | None  # None: the landing could not be compared
    file_is_bigsite: bool
    evidence: Row  # instants of changes of bigsite's row
    snapshot_at: dt.datetime
    page_fault: str | None  # fault of the delivered page, if any
    landing_faults: Sequence[str] = ()
    state_evidence: str | None = None  # evidence column of the row that a state field comes from
    late_rows: Sequence[LateRow] = ()  # complete explanation of an end-of-day figure's difference
    late_movement: LateRow | None = None  # movement absent from the file, provably not visible
    consent_change: str | None = None  # proven by the landing's old values
    decided_by_consent: bool = False
    ledger_denies: bool = False  # the delivery's own ledger has another value of the field than the file
    held_back_since: str | None = None  # a later revision that held the portfolio back, with its reason

    def changed_since(self, name: str) -> str | None:
        """Return the instant of bigsite's change after the snapshot, by an evidence column; None if none."""
        text = self.evidence.get(name)
        return text if text is not None and dt.datetime.fromisoformat(text) > self.snapshot_at else None


def explain(case: Circumstances) -> tuple[BreakExplanation, ...]:
    """Return every explanation that its evidence proves, the likeliest first; UNEXPLAINED if there is none.

    That the portfolio is held back since proves no cause: it is added to UNEXPLAINED.
    """
    explanations: list[BreakExplanation] = []
    if case.ledger_denies:
        explanations.append(BreakExplanation(BreakCause.FILE_ALTERED, _NOT_SENT))
    if case.file_is_landing is not True and case.page_fault:
        explanations.append(BreakExplanation(BreakCause.FILE_ALTERED, case.page_fault))
    if case.file_is_bigsite:
        if case.landing_faults:
            explanations.append(BreakExplanation(BreakCause.LANDING_ALTERED, case.landing_faults[0]))
        else:
            explanations.append(
                BreakExplanation(BreakCause.LANDING_ALTERED, "file and bigsite agree; only the landed copy differs")
            )
    elif case.file_is_landing:
        # Only a landing with the file's value proves that bigsite had it when it was read.
        explanations += _changed_since_snapshot(case)
    elif case.late_movement is not None and case.late_movement.sent:
        # The date was issued again, from a landing that has the row, after a later date had sent it.
        explanations.append(_late_movement(case.late_movement, "to the date's first snapshot"))
    if not explanations and case.file_is_landing is False:
        explanations.append(
            BreakExplanation(BreakCause.EXPORT_FAULT, "the file differs from the landed copy it was built from")
        )
    explanations += number_hints(case.file, case.landing if case.file_is_bigsite else case.bigsite)
    if not explanations and case.held_back_since:
        return (BreakExplanation(BreakCause.UNKNOWN, f"{UNEXPLAINED.evidence}; {case.held_back_since}"),)
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
        return [_late_movement(case.late_movement, f"when {read[4:]}")]
    if not case.late_rows:
        return []
    at = case.changed_since("eod_updated_at")
    event = f"bigsite rewrote its end of day at {at}" if at else "bigsite's end of day no longer has the row"
    shown = ", ".join(
        f"{row.source_row} recorded {row.recorded_at}"
        + (f" reversing {row.reverses}" if row.reverses else "")
        + f" ({row.travel})"
        for row in case.late_rows[:_SHOWN]
    )
    cause = BreakCause.REVERSAL if all(row.reverses for row in case.late_rows) else BreakCause.LATE_ROW
    return [BreakExplanation(cause, f"{event}; {read}; backdated since: {shown}")]


def _late_movement(row: LateRow, unseen: str) -> BreakExplanation:
    cause = BreakCause.REVERSAL if row.reverses else BreakCause.LATE_ROW
    return BreakExplanation(cause, f"recorded {row.recorded_at}, and not visible {unseen}; {row.travel}")


def number_hints(value: str | None, other_value: str | None) -> list[BreakExplanation]:
    """Return hints from the two values only, ranked after every cause with evidence."""
    left, right = as_decimal(value), as_decimal(other_value)
    if left is None or right is None:
        return _date_hint(value, other_value)
    if left and left == -right:
        return [BreakExplanation(BreakCause.SIGN, f"{left} is {right} with the opposite sign")]
    for power in (1, 2, 3):
        factor = Decimal(10) ** power
        if right and (left == right * factor or left * factor == right):
            return [BreakExplanation(BreakCause.SCALE, f"the values differ by a factor of {factor}")]
    # Transposed digits give a difference divisible by 9. That hint is weak, so the digits themselves must agree.
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
        [BreakExplanation(BreakCause.DAY_SHIFT, "the dates are one day apart: check time zones")] if days == 1 else []
    )


def severity(explanations: Sequence[BreakExplanation]) -> BreakSeverity:
    """Return EVENT for a portfolio held back, WARNING if the source changed after a delivery, otherwise ERROR."""
    cause = explanations[0].cause
    if cause is BreakCause.QUARANTINE:
        return BreakSeverity.EVENT  # held back by a rule, on record: many of them raise an alert of their own
    return BreakSeverity.WARNING if cause in MOVED_ON else BreakSeverity.ERROR
