"""Reports of comparisons with the old app, one a date, and the running score of clean dates."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt

from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, find_record, sha256, to_json

LISTED = 1000  # differences that a report lists; its counts are complete


class SourceFile(StoredRecord):
    """A compared file of the old app."""

    key: str
    sha256: str


class ParityDifference(StoredRecord):
    """One difference. Values of personal fields are masked; a cash account is named by a hash."""

    line: Literal["D", "B"]
    portfolio_number: str
    key: str
    kind: str
    field: str | None
    old: str | None
    new: str | None
    explanation: str | None


class ParityReport(StoredRecord):
    """Result of comparing one feed's business date."""

    feed: str
    business_date: dt.date
    legacy_files: tuple[SourceFile, ...]
    revisions: tuple[NonNegativeInt, ...]  # of the new feed
    old_lines: NonNegativeInt
    new_lines: NonNegativeInt
    equal_lines: NonNegativeInt
    arrived: NonNegativeInt  # late lines of the previous business date that the old app has on this date
    explained: dict[str, NonNegativeInt]  # differences by rule
    unexplained: NonNegativeInt
    differences: tuple[ParityDifference, ...]  # unexplained ones first; at most LISTED
    promised: tuple[str, ...]  # late lines that the old app must have on the next business date
    complete: bool  # False: too many differences to classify each

    @property
    def clean(self) -> bool:
        """Return True if every difference is explained."""
        return self.unexplained == 0 and self.complete

    @property
    def empty(self) -> bool:
        """Return True if neither side has a line: clean, but without evidence."""
        return self.old_lines == self.new_lines == 0


def report_key(feed: str, day: dt.date) -> str:
    """Return the key of the latest report of a date."""
    return f"parity/{feed}/{day.isoformat()}.json"


def record_parity(store: ObjectStore, report: ParityReport) -> str:
    """Store the report permanently under its hash, and as the latest of its date. Return the permanent key."""
    data = to_json(report)
    key = f"reconciliation/{report.feed}/{report.business_date.isoformat()}/parity/{sha256(data)[:32]}.json"
    store.create(key, data)
    store.put(report_key(report.feed, report.business_date), data)
    return key


def read_report(store: ObjectStore, feed: str, day: dt.date) -> ParityReport | None:
    """Return the latest report of a date; None if it was never compared. DamagedRecordError if it is unreadable."""
    return find_record(store, ParityReport, report_key(feed, day))


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Clean dates in a row up to ``last``. ``dates`` has the verdicts, newest first.

    A date on which neither side has a line neither counts nor ends the run.
    """

    feed: str
    last: dt.date
    clean_run: int
    broken_by: str | None  # date and verdict that ended the run; None if it reaches the feed's first date
    dates: tuple[tuple[dt.date, str], ...]


def scorecard(
    store: ObjectStore, feed: str, audience: RecipientSchedule, last: dt.date, *, show: int = 30
) -> Scorecard:
    """Return the running score up to ``last``, over the whole run, with at least ``show`` dates."""
    run, broken_by, dates = 0, None, list[tuple[dt.date, str]]()
    day: dt.date | None = last
    while day is not None and (broken_by is None or len(dates) < show):
        report = read_report(store, feed, day)
        verdict = _verdict(report)
        dates.append((day, verdict))
        if broken_by is None and (report is None or not report.clean):
            broken_by = f"{day.isoformat()}, {verdict}"
        elif broken_by is None and report is not None and not report.empty:
            run += 1
        day = audience.previous(day)
    return Scorecard(feed, last, run, broken_by, tuple(dates))


def _verdict(report: ParityReport | None) -> str:
    if report is None:
        return "not compared"
    if report.empty:
        return "empty"
    if not report.clean:
        return f"{report.unexplained} unexplained" if report.complete else "too many differences"
    return f"clean, {sum(report.explained.values())} explained"
