"""Beside the old app: compare a feed's date with what the old app wrote for it, and keep the score. Without Dagster."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import UsageError
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.parity.comparison import compare_parity
from classfeed_dagster.parity.legacy_files import legacy_prefix
from classfeed_dagster.parity.report import (
    ParityReport,
    Scorecard,
    read_report,
    record_parity,
    scorecard,
)
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import canonical, sha256

RECENT_DATES = 30  # how many dates with old files are looked at for something new


class NoOldAppError(UsageError):
    """The feed replaces no old app, so there is nothing to compare it with."""

    def __init__(self, feed: str) -> None:
        super().__init__(f"{feed} replaces no old app: there is nothing to compare it with")


@dataclass(frozen=True, slots=True)
class Compared:
    """What comparing a date found, the running score up to it, and under which key the report is for ever."""

    report: ParityReport
    score: Scorecard
    key: str


def compare_date(store: ObjectStore, feed: Feed, audience: RecipientSchedule, day: dt.date) -> Compared:
    """Compare the date, live or shadow, with the old app's output, and keep the report. ``store`` is the plain store.

    NoOldAppError for a feed without one; LegacyMissingError or NothingToCompareError while one side isn't there;
    LegacyFileError if the old file is damaged.
    """
    layout = feed.format.csv_layout
    if not feed.legacy or layout is None:
        raise NoOldAppError(feed.name)
    view = live_and_shadow(store, feed.name)
    report = compare_parity(view, feed=feed.name, layout=layout, audience=audience, day=day)
    key = record_parity(store, report)
    return Compared(report, scorecard(store, feed.name, audience, day), key)


def to_compare(store: ObjectStore, feed: Feed, audience: RecipientSchedule) -> Iterator[tuple[dt.date, str]]:
    """Recent dates of which both sides are there, oldest first, each with a mark of what a comparison would see.

    The mark changes with the old app's files, with what was delivered, and with the report of the date before, whose
    late lines the old app must have on this date. A file that is replaced under its own name doesn't change it.
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
        seen = [files[day], state.fingerprint, None if before is None else before.model_dump(mode="json")]
        yield day, sha256(canonical(seen))[:16]


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None
