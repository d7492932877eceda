"""Breaks: differences between two sides of a reconciliation. Values are text; personal ones are masked."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from dataclasses import dataclass
from decimal import Context, Decimal

_EXACT = Context(prec=100)  # more digits than two of 38, at any scales, need


class Side(enum.StrEnum):
    """Data that the delivery is compared with."""

    SOURCE = "source"
    DATA_TEAM = "data_team"
    RECIPIENT = "recipient"

    def reference(self, feed: str) -> str:
        """Return the name of the asset and reference with the result of this side's reconciliation of ``feed``."""
        return f"{feed}/{self.value}_reconciliation"


class BreakKind(enum.StrEnum):
    """Kind of a break."""

    MISSING_IN_EXPORT = "missing in export"
    EXTRA_IN_EXPORT = "extra in export"
    VALUE_DIFFERS = "value differs"
    LATE = "late"
    CONSENT = "consent"
    ALTERED_FILE = "altered file"
    EXPIRED_FILE = "expired file"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable value"
    MISSING_DATE = "missing date"
    LATE_DATE = "late date"
    RECOMPUTED_DATE = "recomputed date"
    REJECTED = "rejected by the recipient"


class BreakSeverity(enum.StrEnum):
    """ERROR: the delivery or its evidence is wrong. WARNING: to be reviewed. EVENT: no action needed."""

    ERROR = "error"
    WARNING = "warning"
    EVENT = "event"


class BreakCause(enum.StrEnum):
    """Likely cause of a break."""

    FILE_ALTERED = "delivered file altered"
    EXPORT_FAULT = "export fault"
    LANDING_ALTERED = "landed file altered"
    LANDING_EXPIRED = "landed file expired by rule"
    CONSENT_ENDED = "consent had ended"
    CONSENT_CHANGED = "consent changed"
    REVERSAL = "reversal"
    LATE_ROW = "late row"
    PRICE_REVISED = "price revised"
    STATE_CHANGED = "changed in bigsite since"
    QUARANTINE = "held in quarantine"
    DATA_TEAM_TIMING = "timing of the data team's run"
    SIGN = "sign turned"
    SCALE = "factor of ten"
    TRANSPOSED = "digits transposed"
    DAY_SHIFT = "shifted by a day"
    ONE_ROW = "one row makes the difference"
    REJECTED = "rejected by the recipient"
    UNKNOWN = "not explained"


@dataclass(frozen=True, slots=True)
class BreakExplanation:
    """BreakCause of a break, with its evidence in the data."""

    cause: BreakCause
    evidence: str


UNEXPLAINED = BreakExplanation(BreakCause.UNKNOWN, "no evidence in the data")


@dataclass(frozen=True, slots=True)
class RecordTrace:
    """Places of a record: source row, landed file, page and line of the document; None for a missing one."""

    source_row: str | None = None
    landed_file: str | None = None
    page: str | None = None
    line: str | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """Difference between two sides.

    Attributes:
        record: kind of record, or metric.
        subject: transaction id, code or masked account.
        explanations: ranked, the likeliest first.
    """

    feed: str
    business_date: dt.date
    side: Side
    kind: BreakKind
    severity: BreakSeverity
    portfolio_number: str | None
    record: str
    subject: str
    field: str | None = None
    export_value: str | None = None
    other_value: str | None = None
    difference: Decimal | None = None
    explanations: tuple[BreakExplanation, ...] = (UNEXPLAINED,)
    trace: RecordTrace = RecordTrace()

    @property
    def break_id(self) -> str:
        """Identity of the break, independent of its values and of the attempt."""
        parts = (
            self.feed,
            self.business_date.isoformat(),
            self.side,
            self.portfolio_number,
            self.record,
            self.subject,
            self.field,
        )
        return hashlib.sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:32]

    @property
    def likeliest(self) -> BreakExplanation:
        """BreakExplanation ranked first."""
        return self.explanations[0]


def as_decimal(text: str | None) -> Decimal | None:
    """Return ``text`` as a finite number; None if it is not one."""
    try:
        number = None if text is None else Decimal(text)
    except ArithmeticError:
        return None
    return number if number is not None and number.is_finite() else None


def difference(ours: str | None, theirs: str | None) -> Decimal | None:
    """Return ``ours`` less ``theirs`` if both are numbers. Exact."""
    left, right = as_decimal(ours), as_decimal(theirs)
    return None if left is None or right is None else _EXACT.subtract(left, right)
