"""Records of older dates: kept while the date needs a run, removed once bigsite confirms that it does not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.repair import restatements
from classfeed_dagster.repair.decisions import DateFacts, RunFact, RunState
from classfeed_dagster.repair.observations import Observations, ObservedDate
from classfeed_dagster.service_levels.service_levels import due
from classfeed_dagster.store import LocalStore, ObjectStore

DAY = dt.date(2026, 3, 2)
DUE = due(FEED, DAY)
SNAPSHOT = dt.datetime(2026, 3, 2, 20, tzinfo=dt.UTC)
DONE = DateFacts(FEED.name, DAY, DUE.starts_at, DUE.target_at, delivered=True, snapshot_at=SNAPSHOT)
NEEDS: dict[str, dict[str, Any]] = {
    "bigsite changed": {"source_changed_at": SNAPSHOT + dt.timedelta(days=30)},
    "freed by an earlier date": {"freed": "abc"},
    "not sent": {"unsent": 1},
    "its run failed": {"runs": [RunFact("a", RunState.FAILED, SNAPSHOT)]},
    "its run is under way": {"runs": [RunFact("a", RunState.RUNNING)]},
}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path)


def record(store: ObjectStore, facts: DateFacts, *, asked: bool, up: bool = True, restated: bool = True) -> bool:
    """Record one observed date; return True if it is on record afterwards."""
    date = ObservedDate(FEED, True, DUE, facts, (), (), (), restated=restated)
    restatements.record(store, Observations(SNAPSHOT + dt.timedelta(days=40), (date,), up), asked=asked)
    return restatements.open_dates(store, FEED.name) == (DAY,)


@pytest.mark.parametrize("need", NEEDS)
def test_date_is_on_record_until_bigsite_confirms_that_it_is_done(store: ObjectStore, need: str) -> None:
    assert record(store, replace(DONE, **NEEDS[need]), asked=True)
    assert record(store, DONE, asked=False)
    assert record(store, DONE, asked=True, up=False)
    assert not record(store, DONE, asked=True)


def test_date_that_is_watched_anyway_needs_no_record(store: ObjectStore) -> None:
    assert not record(store, replace(DONE, unsent=1), asked=True, restated=False)
