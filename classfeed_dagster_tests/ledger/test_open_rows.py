"""Reading a ledger file for some portfolios at a time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from classfeed_dagster.ledger.files import RECORDS, LedgerFile, open_rows
from classfeed_dagster.ledger.writing import PartWriter, stage_file
from classfeed_dagster.store import LocalStore
from classfeed_dagster.stored_records import sha256
from classfeed_dagster_tests.ledger.test_positions import record, records

DAY = dt.date(2023, 1, 3)


def _staged(store: LocalStore, folder: Path, *portfolios: int) -> LedgerFile:
    """Stage the records of some portfolios, each in a slice of its own."""
    with PartWriter(folder, 0, frozenset("C")) as writer:
        for portfolio in portfolios:
            rows = records(record(portfolio, portfolio, DAY))
            writer._files["records"].write(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        path = writer._files["records"].paths[0]
    return stage_file(store, "staged/", "records", 0, path)


def test_rows_of_some_portfolios_are_returned(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "my [store] *")
    file = _staged(store, tmp_path, 1, 2, 3)
    with open_rows(store, "staged/", [file], "records", ["portfolio_id", "transaction_id"]) as rows:
        assert rows("portfolio_number", pl.Series(["SW3", "SW1"])).rows() == [(1, "C1"), (3, "C3")]
        assert rows("portfolio_number", pl.Series(["SW9"])).is_empty()
        assert rows("portfolio_number", pl.Series([], dtype=pl.String)).columns == ["portfolio_id", "transaction_id"]
    with open_rows(store, "staged/", [], "records") as rows:
        assert rows("portfolio_number", pl.Series(["SW1"])).schema == RECORDS.schema


def test_row_groups_of_other_portfolios_are_not_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    file = _staged(store, tmp_path, 1, 2)
    key = f"staged/{file.name}"
    with store.local_file(key) as path:
        content = bytearray(path.read_bytes())
        second = pq.read_metadata(path).row_group(1)
    start = second.column(0).data_page_offset
    content[start : start + second.total_byte_size] = b"\xff" * second.total_byte_size
    store.put(key, bytes(content))
    damaged = file.model_copy(update={"sha256": sha256(bytes(content))})
    with open_rows(store, "staged/", [damaged], "records", ["transaction_id"]) as rows:
        assert rows("portfolio_number", pl.Series(["SW1"])).rows() == [("C1",)]
