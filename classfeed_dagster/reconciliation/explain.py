"""Why two sides disagree: hypotheses tested one by one, each with its evidence, the likeliest first. Deterministic."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.warehouse.records import UNEXPLAINED, Cause, Explanation, Severity, as_decimal

# What explains a break without anything being wrong with the delivery: the source moved on after it was read.
MOVED_ON = frozenset({Cause.LATE_ROW, Cause.REVERSAL, Cause.PRICE_REVISED, Cause.CONSENT_CHANGED, Cause.STATE_CHANGED})
_CONSENT_FIELDS = frozenset({"consent", "extract", "recipient_reference"})
_EOD_RECORDS = frozenset({"investment_holdings", "account_balances"})
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class LateRow:
    """A ledger row that bigsite recorded after its snapshot was read, dated on or before the business date."""

    source_row: str
    recorded_at: str
    reverses: str | None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that is known around one disagreement about a record of a portfolio."""

    record: str
    field: str | None
    file: str | None
    landing: str | None
    bigsite: str | None
    in_file: bool
    in_bigsite: bool
    file_is_landing: bool | None  # None: the landing could not be compared
    file_is_bigsite: bool
    evidence: Row  # of bigsite's row: when it changed
    snapshot_at: dt.datetime
    page_fault: str | None  # what is wrong with the delivered page, if anything
    landing_faults: Sequence[str] = ()
    late_rows: Sequence[LateRow] = dataclasses.field(default=())

    def changed_since(self, name: str) -> str | None:
        """When a piece of evidence says that bigsite changed after the snapshot; None if it didn't."""
        text = self.evidence.get(name)
        return text if text is not None and dt.datetime.fromisoformat(text) > self.snapshot_at else None


def explain(case: Circumstances) -> tuple[Explanation, ...]:
    """Every hypothesis that the data supports, the likeliest first; UNEXPLAINED alone if there is none."""
    found: list[Explanation] = []
    if case.file_is_landing is not True and case.page_fault:
        found.append(Explanation(Cause.FILE_ALTERED, case.page_fault))
    if case.file_is_bigsite:
        if case.landing_faults:
            found.append(Explanation(Cause.LANDING_ALTERED, case.landing_faults[0]))
        else:
            found.append(Explanation(Cause.LANDING_ALTERED, "file and bigsite agree, the landed copy alone differs"))
    else:
        found += _moved_on(case)
    if not found and case.file_is_landing is False:
        found.append(Explanation(Cause.EXPORT_FAULT, "the landed copy differs from the file made of it"))
    found += number_hints(case.file, case.landing if case.file_is_bigsite else case.bigsite)
    return tuple(found) or (UNEXPLAINED,)


def _moved_on(case: Circumstances) -> list[Explanation]:
    """What bigsite changed after the snapshot; only where the file says what was landed (or nobody knows)."""
    if case.file_is_landing is False:
        return []
    found: list[Explanation] = []
    read = f"the snapshot was read at {case.snapshot_at:%Y-%m-%d %H:%M:%S}Z"
    consent = case.changed_since("consent_updated_at")
    if consent and (case.record == "portfolio" or case.field is None or case.field in _CONSENT_FIELDS):
        found.append(Explanation(Cause.CONSENT_CHANGED, f"a consent was updated at {consent}; {read}"))
    price = case.changed_since("price_updated_at")
    if price and case.field in ("price", "price_date", "market_value"):
        found.append(Explanation(Cause.PRICE_REVISED, f"bigsite's price was updated at {price}; {read}"))
    found += _late(case, read)
    if state := case.changed_since("state_updated_at"):
        found.append(Explanation(Cause.STATE_CHANGED, f"bigsite updated it in place at {state}; {read}"))
    return found


def _late(case: Circumstances, read: str) -> list[Explanation]:
    if case.record == "movement_transactions" and case.in_bigsite and not case.in_file:
        stated = case.evidence.get("recorded_last")
        cause = Cause.REVERSAL if case.evidence.get("reverses") else Cause.LATE_ROW
        return [Explanation(cause, f"recorded_at says {stated}, yet it was not there when {read.removeprefix('the ')}")]
    eod = case.changed_since("eod_updated_at")
    # A backdated row may leave nothing to state: bigsite's rewritten end of day then has no row at all.
    gone = case.in_file and not case.in_bigsite and case.file_is_landing is True and bool(case.late_rows)
    if case.record not in _EOD_RECORDS or not (eod or gone):
        return []
    what = f"bigsite rewrote its end of day at {eod}" if eod else "bigsite's end of day has no such row any more"
    rewritten = f"{what}; {read}"
    if not case.late_rows:
        return [Explanation(Cause.LATE_ROW, rewritten)]
    shown = ", ".join(
        f"{row.source_row} recorded {row.recorded_at}" + (f" reversing {row.reverses}" if row.reverses else "")
        for row in case.late_rows[:3]
    )
    cause = Cause.REVERSAL if all(row.reverses for row in case.late_rows) else Cause.LATE_ROW
    return [Explanation(cause, f"{rewritten}; backdated since: {shown}")]


def number_hints(one: str | None, other: str | None) -> list[Explanation]:
    """What two values look like beside each other: hints, ranked after every cause that has evidence of its own."""
    left, right = as_decimal(one), as_decimal(other)
    if left is None or right is None:
        return _date_hint(one, other)
    if left and left == -right:
        return [Explanation(Cause.SIGN, f"{left} is {right} with its sign turned")]
    for power in (1, 2, 3):
        factor = Decimal(10) ** power
        if right and (left == right * factor or left * factor == right):
            return [Explanation(Cause.SCALE, f"the values differ by a factor of {factor}")]
    # Two digits changing places make a difference divisible by 9: a weak hint, so the digits themselves must agree.
    digits = [sorted(f"{abs(value):f}".replace(".", "")) for value in (left, right)]
    if left != right and digits[0] == digits[1]:
        return [Explanation(Cause.TRANSPOSED, "the same digits in another order (a weak hint)")]
    return []


def _date_hint(one: str | None, other: str | None) -> list[Explanation]:
    try:
        days = abs((dt.date.fromisoformat(one or "") - dt.date.fromisoformat(other or "")).days)
    except ValueError:
        return []
    return [Explanation(Cause.DAY_SHIFT, "the dates are one day apart: look at time zones")] if days == 1 else []


def severity(explanations: Sequence[Explanation]) -> Severity:
    """WARNING where the source moved on after a faithful delivery, or a portfolio is held back; else ERROR."""
    cause = explanations[0].cause
    return Severity.WARNING if cause in MOVED_ON or cause is Cause.QUARANTINE else Severity.ERROR
