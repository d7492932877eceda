"""Incidents of what recipients answer: nothing by the agreed hour, failure, contradiction, unreadable messages."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING

from classfeed_dagster.acknowledgements.inbox import FileAnswers, dead_letters, rejections
from classfeed_dagster.acknowledgements.mapping import AnswerMapping, FileState
from classfeed_dagster.alerting.incidents import Incident
from classfeed_dagster.trading_days import SYDNEY
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.repair.observations import Observations, ObservedDate
    from classfeed_dagster.store import ObjectStore

RECENT = dt.timedelta(days=7)  # a dead letter is reported for so long


def recipient_incidents(store: ObjectStore, observations: Observations) -> list[Incident]:
    """Return the incidents of all feeds whose recipient answers."""
    by_feed: dict[str, list[ObservedDate]] = defaultdict(list)
    mappings: dict[str, AnswerMapping] = {}
    for date in observations.dates:
        if date.feed.acknowledgements is not None:
            by_feed[date.feed.name].append(date)
            mappings[date.feed.name] = date.feed.acknowledgements
    incidents = [
        incident
        for feed, dates in by_feed.items()
        for incident in (
            _silent(feed, dates, mappings[feed], observations.at),
            _refused(feed, dates, mappings[feed]),
            _dead_letters(store, feed, observations.at),
        )
    ]
    return [incident for incident in incidents if incident is not None]


def _silent(feed: str, dates: list[ObservedDate], mapping: AnswerMapping, at: dt.datetime) -> Incident | None:
    late: dict[dt.date, int] = {}
    for date in dates:
        morning = date.due.deadline_at.astimezone(SYDNEY).date()
        due = dt.datetime.combine(morning, mapping.due, tzinfo=SYDNEY)
        count = sum(not file.answers for file in date.answers)
        if count and due < at and not date.facts.unsent:
            late[date.due.business_date] = count
    if not late:
        return None
    return Incident(
        key=f"not-acknowledged.{feed}",
        what=f"The recipient of {feed} has not acknowledged {counted(sum(late.values()), 'file')}",
        means="It is unknown whether these customers' funds have the data.",
        feeds=(feed,),
        dates=tuple(sorted(late)),
        counts={"files": sum(late.values())},
        doing="No automatic action: ask the recipient.",
        runbook="not-acknowledged",
    )


def _refused(feed: str, dates: list[ObservedDate], mapping: AnswerMapping) -> Incident | None:
    words: set[str] = set()
    days: set[dt.date] = set()
    numbers: set[str] = set()
    for date in dates:
        rejected = {entry.portfolio_number or "" for entry in rejections(date.answers, mapping)}
        problems = {"rejected"} if rejected else set()
        for file in date.answers:
            if file.contradictory:
                problems.add("contradictory")
            elif file.state in (FileState.FAILED, FileState.CANCELLED) and not _replaced(file, date.answers):
                problems.add("failed")
        if problems:
            words |= problems
            numbers |= rejected
            days.add(date.due.business_date)
    if not words:
        return None
    return Incident(
        key=f"refused.{feed}",
        what=f"The recipient of {feed} did not load everything: {', '.join(sorted(words))} answers",
        means="These customers' funds do not have the data that was delivered.",
        feeds=(feed,),
        dates=tuple(sorted(days)),
        counts={"dates": len(days), "portfolios": len(numbers)},
        offenders=tuple(sorted(numbers)),
        doing="Once bigsite's rows are corrected, the portfolios concerned are issued again, and only they.",
        runbook="refused",
        page="failed" in words,
    )


def _replaced(file: FileAnswers, files: tuple[FileAnswers, ...]) -> bool:
    later = {
        number
        for other in files
        if other.manifest.revision > file.manifest.revision and other.state is FileState.LOADED
        for number in other.numbers
    }
    return file.numbers <= later


def _dead_letters(store: ObjectStore, feed: str, at: dt.datetime) -> Incident | None:
    letters = [letter for letter in dead_letters(store, feed) if at - letter.read_at < RECENT]
    if not letters:
        return None
    return Incident(
        key=f"unreadable-answers.{feed}",
        what=f"{counted(len(letters), 'message')} of the recipient of {feed} could not be read or matched",
        means="A failure at the recipient may be unknown to us.",
        feeds=(feed,),
        counts={"messages": len(letters)},
        doing="They are kept with their reason. The other messages were read.",
        runbook="unreadable-answers",
    )
