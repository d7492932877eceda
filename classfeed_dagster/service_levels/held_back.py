"""Summary of the portfolios held back: number, reasons and age."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from classfeed_dagster.delivery.quarantine import Quarantined

# A portfolio that breaks a rule on one date waits on all later dates: the rule is the reason.
_STRONGEST_FIRST = ("RULE", "WAITING", "CONSENT_ENDED")
_LACKING_DATA = ("RULE", "WAITING")  # after the end of consent no data is due


@dataclass(frozen=True, slots=True)
class HeldBackSummary:
    """Distinct portfolios that are held back.

    Attributes:
        by_reason: number of portfolios by reason; each portfolio is counted once, by its strongest reason.
        oldest: longest time for which a portfolio has been held back by a rule or an earlier date.
    """

    by_reason: dict[str, int]
    oldest: dt.timedelta

    @property
    def lacking_data(self) -> int:
        """Number of portfolios without data that is due."""
        return sum(self.by_reason[reason] for reason in _LACKING_DATA)


def summarize(records: Iterable[Quarantined], now: dt.datetime) -> HeldBackSummary:
    """Count the portfolios of quarantine records, over all dates. ``now`` is UTC.

    A portfolio whose data a revision of the date delivered is not held back for that date.
    """
    reasons: dict[str, str] = {}
    oldest = dt.timedelta()
    for record in records:
        if not record.lacks_data:
            continue
        strongest = reasons.get(record.number)
        reason = record.held_back.kind
        if strongest is None or _STRONGEST_FIRST.index(reason) < _STRONGEST_FIRST.index(strongest):
            reasons[record.number] = reason
        if reason in _LACKING_DATA:
            oldest = max(oldest, record.age(now))
    counts = Counter(reasons.values())
    return HeldBackSummary({reason: counts[reason] for reason in _STRONGEST_FIRST}, oldest)
