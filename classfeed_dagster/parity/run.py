"""Comparison of a feed's date with the old app's output, and the running score."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import UsageError
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.parity.comparison import (
    ParityReport,
    Scorecard,
    compare_parity,
    read_report,
    record_parity,
    scorecard,
)
from classfeed_dagster.parity.legacy_files import legacy_prefix
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import canonical, sha256

RECENT_DATES = 30  # dates with old files that are checked for a new comparison


class NoOldAppError(UsageError):
    """The feed replaces no old app."""

    def __init__(self, feed: str) -> None:
        super().__init__(f"{feed} replaces no old app, so it cannot be compared: choose a feed that replaces one")


@dataclass(frozen=True, slots=True)
class ParityResult:
    """Result of comparing a date: the report, the running score up to it, and the report's permanent key."""

    report: ParityReport
    score: Scorecard
    key: str


def compare_date(store: ObjectStore, feed: Feed, audience: RecipientSchedule, day: dt.date) -> ParityResult:
    """Compare the date, live or shadow, with the old app's output, and store the report. ``store`` is the plain store.

    NoOldAppError for a feed without one; LegacyMissingError or NothingToCompareError while one side is missing;
    LegacyFileError if the old file is damaged.
    """
    layout = feed.format.csv_layout
    if not feed.legacy or layout is None:
        raise NoOldAppError(feed.name)
    view = live_and_shadow(store, feed.name)
    report = compare_parity(view, feed=feed.name, layout=layout, audience=audience, day=day)
    key = record_parity(store, report)
    return ParityResult(report, scorecard(store, feed.name, audience, day), key)


def to_compare(store: ObjectStore, feed: Feed, audience: RecipientSchedule) -> Iterator[tuple[dt.date, str]]:
    """Yield recent dates that both sides have, oldest first, each with a fingerprint of the comparison's input.

    The fingerprint changes with the old app's files, the deliveries and the report of the previous date. The old app
    must have that report's late lines on this date. A file replaced under its own name does not change it.
    """
    files: dict[dt.date, list[str]] = {}
    for key in store.list(f"legacy/{feed.name}/"):
        day = _day(key.split("/")[2])
        if day is not None and audience.is_due(day) and key.startswith(legacy_prefix(feed.name, day)):
            files.setdefault(day, []).append(key)
    view = live_and_shadow(store, feed.name)
    for day in sorted(files)[-RECENT_DATES:]:
        state = delivered_state(view, feed.name, day)
        if state.latest is None:
            continue
        previous = audience.previous(day)
        before = None if previous is None else read_report(store, feed.name, previous)
        inputs = [files[day], state.fingerprint, None if before is None else before.model_dump(mode="json")]
        yield day, sha256(canonical(inputs))[:16]


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None
