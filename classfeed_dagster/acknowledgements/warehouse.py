"""Acknowledgements in the warehouse: one row a file and one a record, and a break for each rejection."""

# ruff: noqa: S608  # SQL of this package's own text and checked literals

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

import polars as pl

from classfeed_dagster.acknowledgements.inbox import FileAnswers, rejections
from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.warehouse.breaks import BreakChanges, save_breaks
from classfeed_dagster.warehouse.database import Connection, Staging, literal, query, transaction
from classfeed_dagster.warehouse.records import Side

TABLE = "ACKNOWLEDGEMENT"
_SCHEMA = {
    "FEED": pl.String(),
    "BUSINESS_DATE": pl.Date(),
    "REVISION": pl.Int64(),
    "MESSAGE_ID": pl.String(),
    "FILE_STATE": pl.String(),
    "PORTFOLIO_NUMBER": pl.String(),
    "TRANSACTION_ID": pl.String(),
    "RECORD_STATE": pl.String(),
    "CODE": pl.String(),
    "ANSWER_SHA256": pl.String(),
    "READ_AT": pl.Datetime("us"),
}


def load_acknowledgements(
    connection: Connection,
    feed: str,
    day: dt.date,
    files: Iterable[FileAnswers],
    mapping: AnswerMapping,
    *,
    at: dt.datetime,
    attempt: str,
) -> tuple[int, BreakChanges]:
    """Replace a date's acknowledgements and its breaks with the recipient; return the rows and the breaks' changes.

    The rows are last: a date with all its answers in the warehouse has its breaks there too.
    """
    listed = list(files)
    changes = save_breaks(connection, feed, Side.RECIPIENT, day, rejections(listed, mapping), at=at, attempt=attempt)
    frame = pl.DataFrame(list(_rows(listed)), schema=_SCHEMA, orient="row")
    where = f"WHERE FEED = {literal(feed)} AND BUSINESS_DATE = {literal(day)}"
    with Staging(connection) as staging:
        staged = staging.table(TABLE)
        staging.put(staged, frame)
        rows = staging.copy(staged)
        with transaction(connection) as cursor:
            cursor.execute(f"DELETE FROM {TABLE} {where}")
            cursor.execute(f"INSERT INTO {TABLE} SELECT * FROM {staged}")
    return rows, changes


def loaded_answers(connection: Connection, feed: str) -> frozenset[tuple[dt.date, str]]:
    """Return business date and SHA-256 of every answer in the warehouse."""
    rows = query(connection, f"SELECT DISTINCT BUSINESS_DATE, ANSWER_SHA256 FROM {TABLE} WHERE FEED = {literal(feed)}")
    return frozenset((day, digest) for day, digest in rows)


def _rows(files: Iterable[FileAnswers]) -> Iterator[tuple[object, ...]]:
    for file in files:
        for answer in file.answers:
            head = (answer.feed, answer.business_date, answer.revision, answer.message_id, answer.state.value)
            tail = (answer.sha256, answer.read_at.astimezone(dt.UTC).replace(tzinfo=None))
            yield (*head, None, None, None, None, *tail)
            for record in answer.records:
                one = (record.portfolio_number, record.transaction_id, record.state.value, record.code)
                yield (*head, *one, *tail)
