"""Landed files: row group k holds slice k whatever the batches, and no row is lost or moved."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classfeed_dagster.bigsite.landing import (
    DamagedFileError,
    RowGroups,
    SlicedFiles,
    StoredFile,
    StoredTable,
    write_slices,
)
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster.stored_records import sha256_of

SCHEMA = pa.schema([("value", pa.int64())])
READ = pa.schema([("position", pa.int32()), ("value", pa.int64())])


def _batches(positions: list[int], cuts: list[int]) -> list[pa.RecordBatch]:
    table = pa.table({"position": pa.array(positions, pa.int32()), "value": range(len(positions))}, schema=READ)
    bounds = sorted({0, *(cut % (len(positions) + 1) for cut in cuts), len(positions)})
    return [batch for start, end in pairwise(bounds) for batch in table.slice(start, end - start).to_batches()]


def _one_key(name: str, shard: int, digest: str) -> str:
    return f"landing/{name}.parquet"


def _shard_key(name: str, shard: int, digest: str) -> str:
    return f"landing/{name}-{shard}-{digest}.parquet"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    positions=st.lists(st.integers(0, 20), max_size=60).map(sorted),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    ends=st.sets(st.integers(1, 20), max_size=8).map(lambda some: [*sorted(some), 21]),
)
def test_row_groups_are_slices(tmp_path: Path, positions: list[int], cuts: list[int], ends: list[int]) -> None:
    calls: list[int] = []
    with RowGroups(tmp_path / "rows.parquet", SCHEMA) as target:
        batches = _batches(positions, cuts)
        write_slices(target, batches, ends, lambda batch: calls.append(batch.num_rows))
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    matches = [file.read_row_group(group).column("value").to_pylist() for group in range(file.num_row_groups)]
    expected = [[row for row, at in enumerate(positions) if first <= at < end] for first, end in pairwise([0, *ends])]
    assert matches == expected
    assert sum(calls) == len(positions)


def test_landed_files_opened_together_are_checked_first(tmp_path: Path, local_store: ObjectStore) -> None:
    tables = {}
    for name in ("one", "two"):
        path = tmp_path / name
        with RowGroups(path, SCHEMA) as target:
            write_slices(target, _batches([0, 1, 2], []), [2, 3])
        tables[name] = target.store(local_store, partial(_one_key, name))
    assert tables["one"].files == (
        StoredFile(
            key="landing/one.parquet",
            sha256=sha256_of(tmp_path / "one"),
            rows=3,
            bytes=(tmp_path / "one").stat().st_size,
        ),
    )
    with SlicedFiles(local_store, tables) as files:
        assert files.slices == range(2)
        assert [part["two"]["value"].to_list() for part in files] == [[0, 1], [2]]
    spoilt = tables["two"].files[0].model_copy(update={"sha256": "0" * 64})
    changed = {**tables, "two": StoredTable(files=(spoilt,))}
    with pytest.raises(DamagedFileError, match=r"two\.parquet was changed after it was written"):
        SlicedFiles(local_store, changed).__enter__()
    with SlicedFiles(local_store, {}) as none:
        assert list(none) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    positions=st.lists(st.integers(0, 20), max_size=60).map(sorted),
    ends=st.sets(st.integers(1, 20), max_size=20).map(lambda some: [*sorted(some), 21]),
    shard_slices=st.integers(1, 8),
    bounds=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_sharded_table_reads_as_one_file(
    tmp_path: Path, positions: list[int], ends: list[int], shard_slices: int, bounds: tuple[int, int]
) -> None:
    slice_count = len(ends)
    expected = range(min(bounds) % slice_count, max(bounds) % slice_count + 1)
    read = {}
    for name, size in (("whole", None), ("shards", shard_slices)):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            store = LocalStore(Path(folder) / "store")
            with RowGroups(Path(folder) / "rows.parquet", SCHEMA, size) as target:
                write_slices(target, _batches(positions, [len(positions) // 2]), ends)
            table = target.store(store, partial(_shard_key, name))
            assert table.rows == len(positions)
            with SlicedFiles(store, {"t": table}) as files:
                everything = [part["t"]["value"].to_list() for part in files]
            assert [row for rows in everything for row in rows] == list(range(len(positions)))
            assert len(everything) == slice_count
            assert len(table.files) == (1 if size is None else -(-slice_count // shard_slices))
            for others in [file.key for file in table.files if file not in table.files_of(expected).values()]:
                store.delete(others)  # no other shard's file is opened
            with SlicedFiles(store, {"t": table}, slices=expected) as files:
                read[name] = {at: files.slice(at)["t"]["value"].to_list() for at in files.slices}
    assert read["whole"] == read["shards"]


def test_table_record_without_shards_is_read_as_one_file() -> None:
    before = {"key": "landing/one.parquet", "sha256": "0" * 64, "rows": 3, "bytes": 5}
    table = StoredTable.model_validate(before)
    assert (table.key, table.sha256, table.rows, table.bytes) == tuple(before.values())
    assert StoredTable.model_validate_json(table.model_dump_json()) == table
