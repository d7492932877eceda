"""Comparison of record counts with recent dates: a warning for far more or fewer records of a kind than usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.checks import CheckResult
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore

RECENT_DATES = 20
_FEWEST_DATES = 5
_FACTOR = 5
_SMALL = 20  # smaller counts vary too much


def unusual_volumes(store: ObjectStore, feed: str, audience: RecipientSchedule, build: Build) -> CheckResult:
    """Compare the records of each kind with the first deliveries of up to twenty earlier dates. Re-issues pass."""
    recent: list[Mapping[str, int]] = []
    day = audience.previous(build.business_date)
    while day is not None and len(recent) < RECENT_DATES:
        first = delivered_state(store, feed, day).first
        if first is None:
            break
        recent.append(first.counts)
        day = audience.previous(day)
    if build.revision:
        return CheckResult("volumes", True, "a re-issue contains only changed portfolios", (), 0)
    return compare_volumes(build.totals.counts, recent)


def compare_volumes(counts: Mapping[str, int], recent: Sequence[Mapping[str, int]]) -> CheckResult:
    """Compare ``counts`` by kind with the median of ``recent`` dates: a fifth to five times the median passes.

    Fewer than five dates pass, and so do small counts.
    """
    if len(recent) < _FEWEST_DATES:
        return CheckResult("volumes", True, "too few dates to compare with", (), 0)
    offenders: list[tuple[str, str]] = []
    for name in sorted({*counts, *(name for date_counts in recent for name in date_counts)}):
        usual = median(date_counts.get(name, 0) for date_counts in recent)
        count = counts.get(name, 0)
        if max(usual, count) >= _SMALL and not usual / _FACTOR <= count <= usual * _FACTOR:
            offenders.append((name, f"{count} records; the median of {len(recent)} dates is {usual:g}"))
    unusual = "; ".join(f"{name}: {detail}" for name, detail in offenders)
    return CheckResult(
        "volumes", not offenders, unusual or f"compared with {len(recent)} dates", tuple(offenders), len(offenders)
    )
