"""A break: one thing on which two sides disagree. Values are text; personal ones are never shown."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from dataclasses import dataclass
from decimal import Decimal


class Side(enum.StrEnum):
    """Against what the delivery was compared."""

    SOURCE = "source"
    DATA_TEAM = "data_team"


class BreakKind(enum.StrEnum):
    """What is wrong."""

    MISSING_IN_EXPORT = "missing in export"
    EXTRA_IN_EXPORT = "extra in export"
    VALUE_DIFFERS = "value differs"
    LATE = "late"
    CONSENT = "consent"
    ALTERED_FILE = "altered file"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable value"
    MISSING_DATE = "missing date"
    LATE_DATE = "late date"
    RECOMPUTED_DATE = "recomputed date"


class Severity(enum.StrEnum):
    """ERROR: the delivery or its evidence is wrong. WARNING: for people to look at. EVENT: nothing to mend."""

    ERROR = "error"
    WARNING = "warning"
    EVENT = "event"


class Cause(enum.StrEnum):
    """The likely explanation of a break."""

    FILE_ALTERED = "delivered file altered"
    EXPORT_FAULT = "export fault"
    LANDING_ALTERED = "landed file altered"
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
    UNKNOWN = "not explained"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A cause and what in the data speaks for it."""

    cause: Cause
    evidence: str


UNEXPLAINED = Explanation(Cause.UNKNOWN, "nothing in the data says why")


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a record stands: source row, landed file, page and line of the document; None where it has none."""

    source_row: str | None = None
    landed_file: str | None = None
    page: str | None = None
    line: str | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """One break. ``record`` is the kind of record or the metric; ``subject`` a transaction id, code or masked account.

    ``explanations`` are ranked, the likeliest first.
    """

    feed: str
    business_date: dt.date
    side: Side
    kind: BreakKind
    severity: Severity
    portfolio_number: str | None
    record: str
    subject: str
    field: str | None = None
    export_value: str | None = None
    other_value: str | None = None
    difference: Decimal | None = None
    explanations: tuple[Explanation, ...] = (UNEXPLAINED,)
    trace: Trace = Trace()

    @property
    def break_id(self) -> str:
        """The same for the same disagreement, however often it is found and whatever its values become."""
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
    def likeliest(self) -> Explanation:
        """The explanation ranked first."""
        return self.explanations[0]


def as_decimal(text: str | None) -> Decimal | None:
    """The number that a value is; None if it is none."""
    try:
        return None if text is None else Decimal(text)
    except ArithmeticError:
        return None


def difference(one: str | None, other: str | None) -> Decimal | None:
    """``one`` less ``other`` where both are numbers. Exact."""
    left, right = as_decimal(one), as_decimal(other)
    return None if left is None or right is None else left - right
