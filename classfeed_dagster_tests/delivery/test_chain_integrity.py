"""A run refuses to build on manifests that the chain doesn't name, and on a store that is behind its deliveries."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from classfeed_dagster.delivery.chain_integrity import StoreBehindError, require_chain, require_reached
from classfeed_dagster.errors import DamagedRecordError, ExitCode
from classfeed_dagster.store import LocalStore
from classfeed_dagster.stored_records import chain_key, manifest_key
from classfeed_dagster_tests.fixtures.delivery_pipeline import AUDIENCE, DAY1, DAY2, FEED, deliver, edit, simple


@pytest.fixture
def delivered(local_store: LocalStore) -> LocalStore:
    """Return three deliveries: two revisions of the first date, one of the second."""
    deliver(local_store, simple(DAY1))
    deliver(local_store, simple(DAY1, P1=["11.00"], P2=["1.00"], P3=[], P4=["7.77"], P5=["0.01"]))
    deliver(local_store, simple(DAY2))
    return local_store


def test_untouched_chain_is_sound(delivered: LocalStore) -> None:
    require_chain(delivered, FEED, [DAY1, DAY2], AUDIENCE)
    require_reached(delivered, FEED, 3)


@pytest.mark.parametrize(("day", "revision"), [(DAY1, 0), (DAY1, 1), (DAY2, 0)])
def test_edited_manifest_is_refused_in_any_place(delivered: LocalStore, day: dt.date, revision: int) -> None:
    key = manifest_key(FEED, day, revision)
    manifest = json.loads(delivered.read(key))
    edit(delivered, key, manifest["portfolio_list"]["sha256"].encode(), b"0" * 64)
    with pytest.raises(DamagedRecordError, match="restore the object's earlier version") as error:
        require_chain(delivered, FEED, [day], AUDIENCE)
    assert error.value.exit_code is ExitCode.STOPPED


def test_older_revision_copied_over_a_newer_one_is_refused(delivered: LocalStore) -> None:
    delivered.put(manifest_key(FEED, DAY1, 1), delivered.read(manifest_key(FEED, DAY1, 0)))
    with pytest.raises(DamagedRecordError, match="manifest of another delivery"):
        require_chain(delivered, FEED, [DAY1], AUDIENCE)


def test_changed_chain_entry_is_refused(delivered: LocalStore) -> None:
    edit(delivered, chain_key(FEED, 3), b'"revision":0', b'"revision":7')
    with pytest.raises(DamagedRecordError, match="position 3 of the chain names another delivery"):
        require_chain(delivered, FEED, [DAY2], AUDIENCE)


def test_manifest_beyond_the_chain_is_refused(delivered: LocalStore) -> None:
    delivered.delete(chain_key(FEED, 3))
    with pytest.raises(DamagedRecordError, match="the chain has no position 3"):
        require_chain(delivered, FEED, [DAY2], AUDIENCE)


def test_store_behind_its_deliveries_is_refused_with_advice(delivered: LocalStore) -> None:
    with pytest.raises(StoreBehindError, match="restore the newer version of chain/, delivered/ and ledger/") as error:
        require_reached(delivered, FEED, 4)
    assert error.value.exit_code is ExitCode.STOPPED


def test_chain_without_the_manifest_of_a_known_delivery_is_refused(delivered: LocalStore) -> None:
    # Only ``delivered/`` was restored. Without Dagster's record this is an attempt that stopped before its manifest.
    delivered.delete(manifest_key(FEED, DAY2, 0))
    require_reached(delivered, FEED, 2)
    with pytest.raises(StoreBehindError, match="ends at position 2, but position 3 was delivered"):
        require_reached(delivered, FEED, 3)
