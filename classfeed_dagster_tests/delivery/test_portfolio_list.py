"""The file that lists a delivery's portfolios, and manifests of earlier releases, which hold the list themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from classfeed_dagster.delivery import portfolio_list
from classfeed_dagster.delivery.build import read_build
from classfeed_dagster.delivery.manifest import Manifest, read_manifest
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord, publish_portfolios, stored_portfolios
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed, verify_paths
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.reconciliation.delivered import UnreadableDeliveryError, read_revisions
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import build_key, canonical, file_facts, manifest_key, to_json
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    CHANGED,
    DAY1,
    FEED,
    FORMAT,
    build,
    check,
    deliver,
    go,
    simple,
)

FIRST = manifest_key(FEED, DAY1, 0)


def portfolios(count: int) -> tuple[PortfolioRecord, ...]:
    return tuple(
        PortfolioRecord(
            number=f"SW{at:08d}",
            change="CURRENT",
            extract="DELTA",
            digest=f"{at:064x}",
            bytes=at,
            consent_ids=tuple(range(at % 3)),
            page="p1",
        )
        for at in range(count)
    )


def in_version_1(store: ObjectStore) -> None:
    """Rewrite the first delivery's manifest as an earlier release wrote it."""
    record = json.loads(store.read(FIRST))
    key = record.pop("portfolio_list")["key"]
    with store.local_file(key) as path:
        record |= {"portfolios": pq.read_table(path).to_pylist(), "schema_version": 1}
    store.delete(key)
    store.put(FIRST, canonical(record))


def manifest_of(store: ObjectStore) -> Manifest:
    manifest = read_manifest(store.read(FIRST), FIRST, store)
    assert isinstance(manifest, Manifest)
    return manifest


@pytest.mark.parametrize("count", [0, 1, 10, 11, 25])
def test_list_is_read_as_written_in_parts(local_store: LocalStore, count: int) -> None:
    with mock.patch.multiple(portfolio_list, _ROW_GROUP=10, _BATCH=4):
        file = publish_portfolios(local_store, FEED, DAY1, 0, portfolios(count))
        assert file is not None
        listed = stored_portfolios(local_store, file)
        assert (len(listed), tuple(listed)) == (count, portfolios(count))
        with local_store.local_file(file.key) as path:
            assert pq.ParquetFile(path).num_row_groups == -(-count // 10)
        assert listed == portfolios(count) == listed
        assert listed != portfolios(count + 1)


def test_list_of_another_attempt_is_taken_if_its_rows_are_the_same(local_store: LocalStore, tmp_path: Path) -> None:
    file = publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3))
    assert file is not None
    assert publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3)) == file
    assert publish_portfolios(local_store, FEED, DAY1, 0, portfolios(2)) is None
    with local_store.local_file(file.key) as path:
        pq.write_table(pq.read_table(path), tmp_path / "other", compression="none")
    local_store.put(file.key, (tmp_path / "other").read_bytes())
    other = publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3))
    assert other is not None
    assert other.sha256 != file.sha256
    assert tuple(stored_portfolios(local_store, other)) == portfolios(3)
    local_store.put(file.key, b"PAR1")
    assert publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3)) is None


def test_list_of_a_revision_that_another_attempt_closed_is_not_taken(local_store: LocalStore) -> None:
    closed = mock.Mock(wraps=local_store, location=local_store.location)
    closed.create.side_effect = lambda key, path: True
    assert publish_portfolios(closed, FEED, DAY1, 0, portfolios(3)) is None
    closed.create.side_effect = lambda key, path: local_store.create(key, b"PAR1")
    with pytest.raises(DamagedRecordError, match="differs from the one written"):
        publish_portfolios(closed, FEED, DAY1, 0, portfolios(3))


def test_list_that_is_missing_changed_or_no_list_is_refused(local_store: LocalStore) -> None:
    file = publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3))
    assert file is not None
    local_store.put(file.key, b"PAR1")
    with pytest.raises(DamagedRecordError, match="not the list of portfolios that its record names"):
        tuple(stored_portfolios(local_store, file))
    forged = file.model_copy(update={"sha256": file_facts(local_store.root / file.key)[1], "bytes": 4})
    with pytest.raises(DamagedRecordError, match="it is no list of portfolios"):
        tuple(stored_portfolios(local_store, forged))
    local_store.delete(file.key)
    with pytest.raises(DamagedRecordError, match="that a manifest or build names is missing"):
        tuple(stored_portfolios(local_store, file))


def test_build_of_an_earlier_release_is_delivered(local_store: LocalStore) -> None:
    """A deployment replaced the code between the staging and the delivery of a date."""
    staged = build(local_store, simple(DAY1))
    assert staged.portfolio_list is not None
    rows = [json.loads(TypeAdapter(PortfolioRecord).dump_json(portfolio)) for portfolio in staged.portfolios]
    key = build_key(FEED, DAY1, staged.build_id)
    record = json.loads(local_store.read(key)) | {"portfolios": rows, "schema_version": 1}
    del record["portfolio_list"]
    local_store.put(key, canonical(record))
    local_store.delete(staged.portfolio_list.key)
    earlier = read_build(local_store, FEED, DAY1, staged.build_id)
    check(local_store, earlier, simple(DAY1))
    assert go(local_store, earlier, simple(DAY1)).kind == "DELIVERED"
    assert tuple(manifest_of(local_store).portfolios) == earlier.portfolios
    assert len(earlier.portfolios) == len(rows) == 5
    assert verify_feed(local_store, FEED, FORMAT).sound


def test_build_is_the_same_whatever_bytes_its_list_has(local_store: LocalStore) -> None:
    with mock.patch.object(portfolio_list, "_ROW_GROUP", 2):
        staged = build(local_store, simple(DAY1))
    assert build(local_store, simple(DAY1)) == staged
    assert staged.portfolio_list is not None
    assert pq.ParquetFile(local_store.root / staged.portfolio_list.key).num_row_groups == 3


def test_staged_list_of_other_portfolios_is_refused(local_store: LocalStore) -> None:
    staged = build(local_store, simple(DAY1))
    assert build(local_store, simple(DAY1)) == staged
    assert staged.portfolio_list is not None
    local_store.put(staged.portfolio_list.key, b"PAR1")
    with pytest.raises(DamagedRecordError, match="the staged list is not that of its build"):
        build(local_store, simple(DAY1))
    with pytest.raises(DamagedRecordError, match="not the list of portfolios that its record names"):
        check(local_store, staged, simple(DAY1))


def test_list_that_differs_from_the_builds_is_compared_by_its_rows(local_store: LocalStore, tmp_path: Path) -> None:
    deliver(local_store, simple(DAY1))
    manifest = manifest_of(local_store)
    assert manifest.portfolio_list is not None
    with local_store.local_file(manifest.portfolio_list.key) as path:
        pq.write_table(pq.read_table(path), tmp_path / "other", compression="none")
    local_store.put(manifest.portfolio_list.key, (tmp_path / "other").read_bytes())
    size, digest = file_facts(tmp_path / "other")
    other = manifest.portfolio_list.model_copy(update={"bytes": size, "sha256": digest})
    local_store.put(FIRST, to_json(manifest.model_copy(update={"portfolio_list": other})))
    assert verify_feed(local_store, FEED, FORMAT).sound
    staged = read_build(local_store, FEED, DAY1, manifest.build_id)
    assert staged.portfolio_list is not None
    local_store.delete(staged.portfolio_list.key)
    assert [str(problem) for problem in verify_feed(local_store, FEED, FORMAT).problems] != []


def test_list_of_an_attempt_that_stopped_closes_its_revision(local_store: LocalStore) -> None:
    assert publish_portfolios(local_store, FEED, DAY1, 0, portfolios(3)) is not None
    outcome = deliver(local_store, simple(DAY1))
    assert outcome.manifest is not None
    assert outcome.manifest.revision == 1
    assert verify_feed(local_store, FEED, FORMAT).sound


def test_judge_refuses_a_list_that_is_missing_or_changed(local_store: LocalStore, tmp_path: Path) -> None:
    deliver(local_store, simple(DAY1))
    file = manifest_of(local_store).portfolio_list
    assert file is not None
    with local_store.local_file(file.key) as path:
        pq.write_table(pq.read_table(path).slice(1), tmp_path / "shorter")
    local_store.put(file.key, (tmp_path / "shorter").read_bytes())
    with pytest.raises(UnreadableDeliveryError, match="not the list of portfolios that the manifest names"):
        read_revisions(local_store, FEED, DAY1)
    local_store.delete(file.key)
    with pytest.raises(UnreadableDeliveryError, match="restore the object's earlier version"):
        read_revisions(local_store, FEED, DAY1)


def test_manifest_names_none_of_its_portfolios(local_store: LocalStore) -> None:
    numbers = [f"P{at:03d}" for at in range(50)]
    deliver(local_store, simple(DAY1, "s1", **{number: ["1.00"] for number in numbers}))
    manifest = manifest_of(local_store)
    assert [portfolio.number for portfolio in manifest.portfolios] == numbers
    assert len(manifest.portfolios) == 50
    assert not [number for number in numbers if number.encode() in local_store.read(FIRST)]


def test_manifest_of_an_earlier_release_is_read_verified_and_followed(local_store: LocalStore) -> None:
    deliver(local_store, simple(DAY1))
    listed, judged = tuple(manifest_of(local_store).portfolios), read_revisions(local_store, FEED, DAY1)
    folded = delivered_state(local_store, FEED, DAY1).portfolios
    in_version_1(local_store)
    assert manifest_of(local_store).portfolios == listed
    assert delivered_state(local_store, FEED, DAY1).portfolios == folded
    (revision,) = read_revisions(local_store, FEED, DAY1)
    assert revision.portfolios == judged[0].portfolios
    assert verify_feed(local_store, FEED, FORMAT).sound
    outcome = deliver(local_store, simple(DAY1, "s2", **CHANGED))
    assert outcome.manifest is not None
    assert outcome.manifest.revision == 1
    assert verify_feed(local_store, FEED, FORMAT).sound


def test_manifest_has_its_portfolios_in_exactly_one_place(local_store: LocalStore) -> None:
    deliver(local_store, simple(DAY1))
    record = json.loads(local_store.read(FIRST))
    for wrong in (
        {**record, "portfolios": []},
        {**record, "schema_version": 1},
        {name: value for name, value in record.items() if name != "portfolio_list"},
        {name: value for name, value in (record | {"schema_version": 1}).items() if name != "portfolio_list"},
    ):
        with pytest.raises(DamagedRecordError, match="not a readable record"):
            read_manifest(canonical(wrong), FIRST, local_store)


def test_folder_of_a_delivery_is_verified_with_its_list(local_store: LocalStore, tmp_path: Path) -> None:
    deliver(local_store, simple(DAY1))
    folder = Path(shutil.copytree(local_store.root / f"delivered/{FEED}/{DAY1}/r0", tmp_path / "copied"))
    verified = verify_paths([folder], {FEED: FORMAT})
    assert (verified.sound, verified.portfolios, verified.pages) == (True, 5, 2)
    (folder / "portfolios.parquet").write_bytes(b"PAR1")
    assert not verify_paths([folder], {FEED: FORMAT}).sound
    (folder / "portfolios.parquet").unlink()
    assert verify_paths([folder], {FEED: FORMAT}).sound
