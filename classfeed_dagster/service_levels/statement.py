"""Monthly service-level statement of a feed, for its recipient: when each business date was delivered and answered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from classfeed_dagster.acknowledgements.inbox import FileAnswers, file_answers
from classfeed_dagster.acknowledgements.mapping import FileState
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.service_levels.service_levels import Attainment, Judgment, due_since, judge
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import SYDNEY
from classfeed_dagster.wording import counted


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One business date of a statement."""

    judgment: Judgment
    revisions: int
    files: int
    acknowledged: int  # files that the recipient loaded


@dataclass(frozen=True, slots=True)
class Statement:
    """A feed's service level over one calendar month of deadlines, in Sydney."""

    feed: Feed
    month: dt.date  # its first day
    lines: tuple[StatementLine, ...]

    @property
    def attainment(self) -> Attainment:
        """Punctuality over the month."""
        return Attainment(self.feed.name, tuple(line.judgment for line in self.lines))


def statement(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, month: dt.date, now: dt.datetime
) -> Statement:
    """Return the statement of ``month`` (its first day), over the deadlines that have passed at ``now`` (UTC)."""
    dates = due_since(feed, audience, now, month - dt.timedelta(days=14))
    within = [
        date
        for date in dates
        if date.deadline_at <= now and date.deadline_at.astimezone(SYDNEY).date().replace(day=1) == month
    ]
    return Statement(feed, month, tuple(_line(store, feed, judge(store, feed, date)) for date in within))


def _line(store: ObjectStore, feed: Feed, judgment: Judgment) -> StatementLine:
    files: tuple[FileAnswers, ...] = file_answers(store, feed.name, judgment.due.business_date)
    loaded = sum(file.state is FileState.LOADED for file in files)
    return StatementLine(judgment, len({file.manifest.revision for file in files}), len(files), loaded)


def statement_document(of: Statement) -> dict[str, Any]:
    """Return the statement as plain values."""
    dates = [
        {
            "business_date": line.judgment.due.business_date,
            "delivered_at": line.judgment.delivered_at,
            "verdict": line.judgment.verdict.value,
            "revisions": line.revisions,
            "files": line.files,
            "loaded": line.acknowledged if of.feed.acknowledgements else None,
        }
        for line in of.lines
    ]
    kept = of.attainment
    return {"feed": of.feed.name, "month": f"{of.month:%Y-%m}", "in_time": kept.in_time, "dates": dates}


def statement_page(of: Statement) -> Iterator[str]:
    """Yield the statement's lines for the recipient, as Markdown. It holds no portfolio."""
    level, kept = of.feed.service_level, of.attainment
    yield f"# {of.feed.title}: service level of {of.month:%B %Y}"
    yield ""
    percent = "no date was due" if kept.percent is None else f"{kept.percent} %"
    yield (
        f"Delivered by {level.deadline:%H:%M} Sydney on the next business morning: {kept.in_time} of "
        f"{counted(len(kept.judgments), 'date')} ({percent}). Target: {level.target:%H:%M}."
    )
    yield ""
    yield "| business date | delivered (Sydney) | verdict | revisions | files | loaded by the recipient |"
    yield "|---|---|---|---|---|---|"
    for line in of.lines:
        at = line.judgment.delivered_at
        when = "" if at is None else f"{at.astimezone(SYDNEY):%Y-%m-%d %H:%M}"
        answered = str(line.acknowledged) if of.feed.acknowledgements else "not stated"
        yield (
            f"| {line.judgment.due.business_date} | {when} | {line.judgment.verdict.value} | {line.revisions} | "
            f"{line.files} | {answered} |"
        )
