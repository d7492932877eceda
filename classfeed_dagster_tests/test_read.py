"""Frames for analysts: exact, of the delivered snapshot, with metadata; clear errors."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from classfeed_dagster import read
from classfeed_dagster.domains.build import DomainReference
from classfeed_dagster.errors import DamagedRecordError, DataError, UsageError
from classfeed_dagster.runtime import Runtime
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter, monday_delivered

MONDAY = "2026-03-02"


@pytest.fixture
def delivered(live_desk_after: DeskAfter) -> Runtime:
    """Return the runtime of a desk that delivered Monday."""
    return live_desk_after(monday_delivered).runtime


def test_read_frames_are_exact_in_both_libraries(delivered: Runtime) -> None:
    ours = read.frame("investment_holdings", MONDAY, runtime=delivered)
    assert ours.schema["units"] == pl.Decimal(20, 6)
    theirs = read.frame("investment_holdings", MONDAY, library="pandas", runtime=delivered)
    assert list(theirs.columns) == ours.columns
    assert str(theirs["units"].dtype) == "decimal128(20, 6)[pyarrow]"
    assert [Decimal(units) for units in theirs["units"]] == ours["units"].to_list()
    landed = read.frame("landing/holding_eod", MONDAY, runtime=delivered)
    assert landed["units"].to_list() == [Decimal(units) for units in landed["units"]]


def test_parquet_file_states_its_origin_units_and_personal_columns(delivered: Runtime, tmp_path: Path) -> None:
    path, day = tmp_path / "accounts.parquet", dt.date.fromisoformat(MONDAY)
    rows = read.write_parquet("accounts", day, path, runtime=delivered)
    schema = pq.read_schema(path)
    assert pq.read_metadata(path).num_rows == rows == 2
    assert (schema.metadata or {})[b"classfeed.business_date"] == b"2026-03-02"
    assert len((schema.metadata or {})[b"classfeed.snapshot_id"]) > 20
    assert (schema.field("portfolio_number").metadata or {})[b"personal"] == b"false"
    assert b"true" in {(schema.field(name).metadata or {})[b"personal"] for name in schema.names}
    read.write_parquet("investment_holdings", day, path, runtime=delivered)
    assert (pq.read_schema(path).field("market_value").metadata or {})[b"unit"] == b"currency"


def test_landed_frame_states_its_personal_columns(delivered: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "portfolio.parquet"
    read.write_parquet("landing/portfolio", dt.date.fromisoformat(MONDAY), path, runtime=delivered)
    schema = pq.read_schema(path)
    personal = json.loads((schema.metadata or {})[b"classfeed.personal_columns"])
    assert "abn" in personal
    assert "status" not in personal
    assert (schema.field("abn").metadata or {})[b"personal"] == b"true"
    assert (schema.field("status").metadata or {})[b"description"]


def test_read_accepts_every_declared_name(delivered: Runtime) -> None:
    assert len(read.assets()) > 15
    for asset in read.assets():
        assert isinstance(read.frame(asset, MONDAY, runtime=delivered), pl.DataFrame)


def test_read_accepts_the_key_of_a_domain_asset(delivered: Runtime) -> None:
    table = read.frame("class/investment_holdings", MONDAY, runtime=delivered)
    assert table.equals(read.frame("investment_holdings", MONDAY, runtime=delivered))
    with pytest.raises(read.UnknownAssetError, match="choose accounts or cash_accounts"):
        read.frame("class/account_details", MONDAY, runtime=delivered)


def test_read_errors_name_the_remedy(delivered: Runtime) -> None:
    with pytest.raises(read.UnknownAssetError, match="the frames are landing/"):
        read.frame("nonsense", MONDAY, runtime=delivered)
    with pytest.raises(read.FrameMissingError, match="deliver it first"):
        read.frame("accounts", dt.date(2026, 3, 3), runtime=delivered)
    with pytest.raises(UsageError, match="there is no feed"):
        read.frame("accounts", MONDAY, feed="nope", runtime=delivered)


def test_domain_of_a_newer_snapshot_is_not_the_delivered(delivered: Runtime) -> None:
    audience = read._feed("class_super").audience(delivered.settings.first_business_date)
    name = audience.reference("account_details")
    day = dt.date.fromisoformat(MONDAY)
    reference = delivered.load_reference(name, day, DomainReference)
    delivered.save_reference(name, day, reference.model_copy(update={"snapshot_id": "another"}))
    with pytest.raises(read.FrameMissingError, match="built again from a newer snapshot"):
        read.frame("accounts", MONDAY, runtime=delivered)


def test_read_through_a_damaged_reference_names_it(delivered: Runtime) -> None:
    (key,) = [key for key in delivered.store.list("references/2026-03-02/") if key.endswith("account_details.json")]
    delivered.store.put(key, b"{")
    with pytest.raises(DamagedRecordError, match="account_details.json: not a readable record"):
        read.frame("accounts", MONDAY, runtime=delivered)


@pytest.mark.parametrize(
    ("asset", "prefix"),
    [
        ("accounts", "landing/2026-03-02/snapshot/"),
        ("landing/trade", "landing/2026-03-02/trade/"),
        ("accounts", "domains/2026-03-02/CLASS"),
    ],
)
def test_read_refuses_a_frame_of_changed_bytes(delivered: Runtime, asset: str, prefix: str) -> None:
    for key in [key for key in delivered.store.list(prefix) if "/accounts/" in key or "domains" not in key]:
        path = Path(delivered.store.location(key))
        path.chmod(0o600)
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="SHA-256 differs|isn't the descriptor"):
        read.frame(asset, MONDAY, runtime=delivered)


def test_package_is_typed() -> None:
    assert files("classfeed_dagster").joinpath("py.typed").is_file()
