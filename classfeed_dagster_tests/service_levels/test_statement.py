"""The monthly statement: dates by their deadline's month, with verdict, files and answers."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from classfeed_dagster import trading_days
from classfeed_dagster.acknowledgements.inbox import read_inbox
from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.cli.arguments import require_month
from classfeed_dagster.delivery.feed_mode import FeedMode
from classfeed_dagster.errors import UsageError
from classfeed_dagster.feeds.class_trade import FEED as TRADE
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.service_levels.statement import statement, statement_page
from classfeed_dagster.simulation.recipient_answers import put_answers
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures import csv_frames as make
from classfeed_dagster_tests.fixtures.delivering import deliver

FIRST = dt.date(2023, 1, 27)
DAYS = trading_days.business_days_between(FIRST, dt.date(2023, 2, 28))
CLASS = RecipientSchedule("CLASS", FIRST)
NOW = dt.datetime(2023, 2, 3, 12, tzinfo=dt.UTC)


def test_statement_counts_the_dates_whose_deadline_is_in_the_month(local_store: ObjectStore) -> None:
    feed = replace(TRADE, first_business_date=FIRST, acknowledgements=AnswerMapping())
    frames = make.frames([make.account("SW00000001")], [make.trade(1)])
    for day in DAYS[:3]:
        manifest = deliver(local_store, feed.format, CLASS, day, frames, mode=FeedMode.LIVE)
    put_answers(local_store, manifest, manifest.pages[0], AnswerMapping())
    read_inbox(local_store, feed.name, AnswerMapping(), NOW)
    january = statement(local_store, feed, CLASS, dt.date(2023, 1, 1), NOW)
    assert [line.judgment.due.business_date for line in january.lines] == list(DAYS[:2])
    february = statement(local_store, feed, CLASS, dt.date(2023, 2, 1), NOW)
    assert [line.judgment.due.business_date for line in february.lines] == list(DAYS[2:5])
    assert [(line.revisions, line.files, line.acknowledged) for line in february.lines] == [
        (1, 1, 1),
        (0, 0, 0),
        (0, 0, 0),
    ]
    page = "\n".join(statement_page(february))
    assert "service level of February 2023" in page
    assert f"| {DAYS[3]} |  | missing | 0 | 0 | 0 |" in page
    assert "SW00000001" not in page
    silent = "\n".join(statement_page(replace(february, feed=replace(feed, acknowledgements=None), lines=())))
    assert "no date was due" in silent


def test_month_is_a_year_and_a_month_that_has_begun() -> None:
    now = dt.datetime(2023, 1, 31, 14, tzinfo=dt.UTC)  # 1 February in Sydney
    assert require_month(None, now) == require_month("2023-02", now) == dt.date(2023, 2, 1)
    with pytest.raises(UsageError, match="expected YYYY-MM"):
        require_month("2023-13", now)
    with pytest.raises(UsageError, match="has not begun: choose 2023-02"):
        require_month("2023-03", now)
