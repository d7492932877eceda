"""Ledger rows that the feeds' earlier dates sent or landed, for the comparison with a snapshot's look-back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import numpy as np
import polars as pl

from classfeed_dagster.bigsite.landing import SlicedFiles, StoredTable
from classfeed_dagster.bigsite.late_rows import Ids, SentRows
from classfeed_dagster.bigsite.ledger_tables import LETTERS
from classfeed_dagster.bigsite.snapshot import latest_snapshot
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.delivery.sent import SentDate, sent_date
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import cutoff

_NONE: Ids = np.array([], dtype=np.int64)


def sent_rows(
    store: ObjectStore, feeds: Iterable[Feed], first_business_date: dt.date, day: dt.date, look_back_days: int
) -> SentRows | None:
    """Return the rows that earlier dates of ``feeds`` sent or will send; None without a look-back.

    ``store`` is the plain store. A row counts as sent if every feed that carries its ledger has it. The look-back
    ends at the newest date that was neither delivered with a ledger nor landed: rows of its window are its own.
    """
    since: list[dt.datetime] = []
    by_feed: list[dict[str, Ids]] = []
    for feed in feeds:
        audience = feed.audience(first_business_date)
        if not look_back_days or not audience.is_due(day) or (previous := audience.previous(day)) is None:
            continue
        start = audience.window(day).start - dt.timedelta(days=look_back_days)
        dates = [d for d in audience.dates_between(audience.first_business_date, previous) if cutoff(d) > start]
        view = live_and_shadow(store, feed.name)
        rows, gap = _known(view, feed, audience, dates, start)
        if rows is None:
            continue  # the feed has never delivered
        since.append(max(start, cutoff(gap)) if gap is not None else start)
        by_feed.append(rows)
    if not since:
        return None
    tables = {table for rows in by_feed for table in rows}
    shared = {table: reduce(np.intersect1d, [rows[table] for rows in by_feed if table in rows]) for table in tables}
    return SentRows(since=max(since), ids=shared)


def _known(
    store: ObjectStore, feed: Feed, audience: RecipientSchedule, dates: Sequence[dt.date], start: dt.datetime
) -> tuple[dict[str, Ids] | None, dt.date | None]:
    # The rows of the feed's dates by table, and the newest date without known rows. None: never delivered.
    tables = [table for table, letter in LETTERS.items() if letter in feed.format.ledgers]
    parts: dict[str, list[Ids]] = {table: [_NONE] for table in tables}
    delivered, gap = False, None
    for day in dates:
        date = sent_date(store, feed.name, day)
        delivered = delivered or bool(date.ledgers)
        rows = _sent(date, start) if date.complete else None if date.ledgers else _landed(store, audience, day, tables)
        if rows is None:
            gap = day
            continue
        for table, ids in rows:
            if table in parts:
                parts[table].append(ids)
    return ({table: np.unique(np.concatenate(ids)) for table, ids in parts.items()}, gap) if delivered else (None, gap)


def _sent(date: SentDate, start: dt.datetime) -> list[tuple[str, Ids]]:
    rows = date.frame("records", ["ledger", "row_id", "recorded_at"])
    rows = rows.filter(pl.col("row_id").is_not_null(), pl.col("recorded_at") >= start)
    return [(table, rows.filter(pl.col("ledger") == letter)["row_id"].to_numpy()) for table, letter in LETTERS.items()]


def _landed(
    store: ObjectStore, audience: RecipientSchedule, day: dt.date, tables: Sequence[str]
) -> list[tuple[str, Ids]] | None:
    snapshot = latest_snapshot(store, day, [audience])
    return None if snapshot is None else list(_landed_ids(store, snapshot.tables, tables))


def _landed_ids(
    store: ObjectStore, landed: Mapping[str, StoredTable], tables: Sequence[str]
) -> Iterator[tuple[str, Ids]]:
    with SlicedFiles(store, {table: landed[table] for table in tables}) as slices:
        for frames in slices:
            for table, frame in frames.items():
                yield table, frame[f"{table}_id"].to_numpy()
