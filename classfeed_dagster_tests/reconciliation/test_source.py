"""Every kind of fault planted in a delivered date: found, the only thing found, explained, gone when mended."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from classfeed_dagster.reconciliation.source import reconcile_source
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.reconciliation import world as w


def reconcile(store: ObjectStore, engine: sa.Engine, attempt: str = "a1"):
    return reconcile_source(store, engine, w.FEED, w.DAY, attempt, audience=w.AUDIENCE.key, previous=w.BEFORE)


@pytest.fixture
def delivered(bigsite_engine: sa.Engine, local_store: ObjectStore):
    world = w.make_world(8)
    world.load(bigsite_engine)
    snapshot = w.land(bigsite_engine, local_store)
    manifest = w.deliver(local_store, world, world.frames(), snapshot)
    return world, snapshot, manifest


def test_a_clean_date_has_no_breaks(delivered, bigsite_engine, local_store):
    result = reconcile(local_store, bigsite_engine)
    assert result.breaks == (), result.markdown(50)
