"""Volumes against recent days: a warning when a document has far more or fewer records of a kind than usual."""

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
_SMALL = 20  # counts below this vary too much to mean anything


def unusual_volumes(store: ObjectStore, feed: str, audience: RecipientSchedule, build: Build) -> CheckResult:
    """Records of each kind against the first deliveries of up to twenty dates before. Re-issues are not judged."""
    recent: list[Mapping[str, int]] = []
    day = audience.previous(build.business_date)
    while day is not None and len(recent) < RECENT_DATES:
        deliveries = delivered_state(store, feed, day).deliveries
        if not deliveries:
            break
        recent.append(deliveries[0].counts)
        day = audience.previous(day)
    if build.revision:
        return CheckResult("volumes", True, "a re-issue holds only what changed", (), 0)
    return judge_volumes(build.totals.counts, recent)


def judge_volumes(counts: Mapping[str, int], recent: Sequence[Mapping[str, int]]) -> CheckResult:
    """``counts`` of records by kind against the median of ``recent`` dates: a fifth to five times it passes.

    Passes while there are fewer than five dates to compare with, and where both are small.
    """
    if len(recent) < _FEWEST_DATES:
        return CheckResult("volumes", True, "too little to compare with", (), 0)
    offenders: list[tuple[str, str]] = []
    for name in sorted({*counts, *(name for one in recent for name in one)}):
        usual = median(one.get(name, 0) for one in recent)
        count = counts.get(name, 0)
        if max(usual, count) >= _SMALL and not usual / _FACTOR <= count <= usual * _FACTOR:
            offenders.append((name, f"{count} records; the median of {len(recent)} dates is {usual:g}"))
    found = "; ".join(f"{name}: {what}" for name, what in offenders)
    return CheckResult(
        "volumes", not offenders, found or f"compared with {len(recent)} dates", tuple(offenders), len(offenders)
    )
