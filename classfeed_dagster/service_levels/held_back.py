"""Portfolios held back at this moment: how many, why, and for how long."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from classfeed_dagster.delivery.quarantine import Quarantined

# A portfolio that breaks a rule on one date waits on all later dates: the rule is the reason.
_STRONGEST_FIRST = ("RULE", "WAITING", "CONSENT_ENDED")
_LACKING_DATA = ("RULE", "WAITING")  # a portfolio whose consent ended lacks nothing that it should have


@dataclass(frozen=True, slots=True)
class HeldBackSummary:
    """Distinct portfolios that are held back.

    Attributes:
        by_reason: number of portfolios by reason; each portfolio is counted once, by its strongest reason.
        oldest: how long the longest has been held back for a rule or for an earlier date.
    """

    by_reason: dict[str, int]
    oldest: dt.timedelta

    @property
    def lacking_data(self) -> int:
        """Portfolios that lack data which their customers should have."""
        return sum(self.by_reason[reason] for reason in _LACKING_DATA)


def summarize(held: Iterable[Quarantined], now: dt.datetime) -> HeldBackSummary:
    """Count the portfolios of quarantine records, over all dates. ``now`` is UTC.

    A portfolio whose data a revision of the date delivered is not held back for that date.
    """
    reasons: dict[str, str] = {}
    oldest = dt.timedelta()
    for record in held:
        if not record.lacks_data:
            continue
        known = reasons.get(record.number)
        reason = record.held_back.kind
        if known is None or _STRONGEST_FIRST.index(reason) < _STRONGEST_FIRST.index(known):
            reasons[record.number] = reason
        if reason in _LACKING_DATA:
            oldest = max(oldest, record.age(now))
    counts = Counter(reasons.values())
    return HeldBackSummary({reason: counts[reason] for reason in _STRONGEST_FIRST}, oldest)
