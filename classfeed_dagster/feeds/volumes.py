"""Volumes against recent days: a warning when a document has far more or fewer records of a kind than usual."""

from __future__ import annotations

from statistics import median

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.evaluate import Evaluation
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.store import ObjectStore

RECENT_DATES = 20
_FEWEST_DATES = 5
_FACTOR = 5
_SMALL = 20  # counts below this vary too much to mean anything


def unusual_volumes(store: ObjectStore, feed: str, audience: Audience, build: Build) -> Evaluation:
    """Records of each kind against the median of the first deliveries of up to twenty dates before.

    Passes on re-issues, and while fewer than five dates have been delivered.
    """
    recent: list[dict[str, int]] = []
    day = audience.previous(build.business_date)
    while day is not None and len(recent) < RECENT_DATES:
        deliveries = delivered_state(store, feed, day).deliveries
        if not deliveries:
            break
        recent.append(dict(deliveries[0].counts))
        day = audience.previous(day)
    if build.revision or len(recent) < _FEWEST_DATES:
        return Evaluation("volumes", True, "too little to compare with", (), 0)
    offenders: list[tuple[str, str]] = []
    counts = build.totals.counts
    for name in sorted({*counts, *(name for one in recent for name in one)}):
        usual = median(one.get(name, 0) for one in recent)
        count = counts.get(name, 0)
        if max(usual, count) >= _SMALL and not usual <= count * _FACTOR <= usual * _FACTOR * _FACTOR:
            offenders.append((name, f"{count} records; the median of {len(recent)} dates is {usual:g}"))
    summary = (
        f"compared with {len(recent)} dates" if not offenders else "; ".join(f"{w}: {how}" for w, how in offenders)
    )
    return Evaluation("volumes", not offenders, summary, tuple(offenders), len(offenders))
