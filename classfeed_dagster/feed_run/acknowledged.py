"""One reading of a recipient's inbox: answers kept, stored in the warehouse, reported. Dagster-free."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from classfeed_dagster.acknowledgements.inbox import FileAnswers, InboxResult, file_answers, kept_answers, read_inbox
from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.acknowledgements.warehouse import load_acknowledgements, loaded_answers
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.warehouse.connection import open_warehouse


@dataclass(frozen=True, slots=True)
class AcknowledgementRun:
    """One attempt at reading a feed's inbox at an instant (UTC)."""

    runtime: Runtime
    feed: Feed
    mapping: AnswerMapping
    at: dt.datetime
    correlation_id: str

    def process(self) -> InboxResult:
        """Keep the inbox's new messages, and store the dates whose answers the warehouse lacks. Safe to repeat.

        These may be answers that an earlier attempt kept and could not store.
        """
        result = read_inbox(self.runtime.store, self.feed.name, self.mapping, self.at)
        kept = kept_answers(self.runtime.store, self.feed.name)
        if kept:
            with open_warehouse(self.runtime.settings) as connection:
                for day in sorted({day for day, _ in kept - loaded_answers(connection, self.feed.name)}):
                    load_acknowledgements(
                        connection,
                        self.feed.name,
                        day,
                        file_answers(self.runtime.store, self.feed.name, day),
                        self.mapping,
                        at=self.at,
                        attempt=f"{self.correlation_id}-recipient",
                    )
        return result

    def dates(self, result: InboxResult) -> list[dt.date]:
        """Return the business dates of the new answers, in order."""
        return sorted({answer.business_date for answer in result.acknowledgements})


def read_answers(runtime: Runtime, feed: Feed, day: dt.date) -> tuple[FileAnswers, ...]:
    """Return the files of a date with their answers; none for a feed whose recipient does not answer."""
    return () if feed.acknowledgements is None else file_answers(runtime.store, feed.name, day)
