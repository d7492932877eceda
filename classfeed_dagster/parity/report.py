"""What a comparison with the old app leaves behind: a report a date, and the running score of clean dates."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt

from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import StoredRecord, from_json, sha256, to_json

LISTED = 1000  # differences that a report lists; its counts are complete


class SourceFile(StoredRecord):
    """A file of the old app, as it was compared."""

    key: str
    sha256: str


class ParityDifference(StoredRecord):
    """One difference. Values of personal fields are not shown; a cash account is named by a hash."""

    line: Literal["D", "B"]
    portfolio_number: str
    key: str
    kind: str
    field: str | None
    old: str | None
    new: str | None
    explanation: str | None


class ParityReport(StoredRecord):
    """What the comparison of one feed's business date found."""

    feed: str
    business_date: dt.date
    legacy_files: tuple[SourceFile, ...]
    revisions: tuple[NonNegativeInt, ...]  # of the new feed
    old_lines: NonNegativeInt
    new_lines: NonNegativeInt
    equal_lines: NonNegativeInt
    arrived: NonNegativeInt  # late lines of the business date before that the old app had today
    explained: dict[str, NonNegativeInt]  # differences by rule
    unexplained: NonNegativeInt
    differences: tuple[ParityDifference, ...]  # unexplained ones first; at most LISTED
    promised: tuple[str, ...]  # late lines that the old app must have the next business date
    complete: bool  # False: there were too many differences to look at each

    @property
    def clean(self) -> bool:
        """True if every difference is explained."""
        return self.unexplained == 0 and self.complete

    @property
    def empty(self) -> bool:
        """True if neither side has a line: clean, and no proof of anything."""
        return self.old_lines == self.new_lines == 0


def report_key(feed: str, day: dt.date) -> str:
    """The newest report of a date."""
    return f"parity/{feed}/{day.isoformat()}.json"


def record_parity(store: ObjectStore, report: ParityReport) -> str:
    """Keep the report: for ever under its hash, and as the newest of its date. The result is where it is for ever."""
    data = to_json(report)
    key = f"reconciliation/{report.feed}/{report.business_date.isoformat()}/parity/{sha256(data)[:32]}.json"
    store.create(key, data)
    store.put(report_key(report.feed, report.business_date), data)
    return key


def read_report(store: ObjectStore, feed: str, day: dt.date) -> ParityReport | None:
    """The newest report of a date; None if it was never compared. DamagedRecordError if it can't be read."""
    key = report_key(feed, day)
    try:
        return from_json(ParityReport, store.read(key), store.location(key))
    except ObjectNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Clean dates in a row up to ``last``, newest first in ``dates`` with a verdict each.

    A date on which neither side had a line neither counts nor breaks the run.
    """

    feed: str
    last: dt.date
    clean_run: int
    broken_by: str | None  # what ended the run, for people; None if the feed's first date did
    dates: tuple[tuple[dt.date, str], ...]


def scorecard(
    store: ObjectStore, feed: str, audience: RecipientSchedule, last: dt.date, *, show: int = 30
) -> Scorecard:
    """The running score: dates of the audience up to ``last``, as far back as the run goes, and at least ``show``."""
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
