"""Taking a snapshot in a test and reading back what it landed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from classfeed_dagster.bigsite.landing import WHOLE
from classfeed_dagster.bigsite.snapshot import Snapshot, open_slices, take_snapshot
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.store import ObjectStore

FIRST = dt.date(2023, 1, 3)
DAY = dt.date(2023, 2, 1)
CLASS = Audience("CLASS", FIRST)
# The window of DAY: from the cut-off of the business date before to its own. Sydney is at +11 in summer.
START = dt.datetime(2023, 1, 31, 13, tzinfo=dt.UTC)
END = dt.datetime(2023, 2, 1, 13, tzinfo=dt.UTC)
MICRO = dt.timedelta(microseconds=1)

Frames = dict[str, pl.DataFrame]


def take(
    engine: sa.Engine, store: ObjectStore, day: dt.date = DAY, audiences: Sequence[Audience] = (CLASS,), **options: Any
) -> tuple[Snapshot, Frames]:
    """A new snapshot and its tables, whole. Nothing missing is let pass unless ``max_missing_share`` says so."""
    snapshot = take_snapshot(engine, store, day, audiences, **{"max_missing_share": Decimal(0), **options})
    return snapshot, frames(snapshot, store)


def frames(snapshot: Snapshot, store: ObjectStore) -> Frames:
    with open_slices(snapshot, store) as slices:
        parts = list(slices)
        whole = {name: slices._references[name] for name in WHOLE}
    sliced = set(snapshot.tables) - WHOLE
    return {**whole, **{name: pl.concat([part[name] for part in parts]) for name in sliced if parts}}


def stored_files(store: ObjectStore, folder: Path) -> dict[str, Path]:
    """Every object of the store, copied to local files."""
    found = {}
    for number, key in enumerate(store.list("")):
        found[key] = folder / f"{number}"
        found[key].write_bytes(store.read(key))
    return found
