"""The warehouse holds exactly what was delivered, however often and in whatever order dates are loaded."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.documents.epi import EPI, EpiFormat
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster.stored_records import manifest_key, to_json
from classfeed_dagster.warehouse import load
from classfeed_dagster.warehouse.database import LoadDiffersError, Staging, execute, query
from classfeed_dagster.warehouse.load import FACTS, LoadResult, NothingToLoadError, load_delivery
from classfeed_dagster_tests.fixtures import reconciliation_world as w
from classfeed_dagster_tests.fixtures.databases import fresh_bigsite
from classfeed_dagster_tests.fixtures.warehouse import fresh_schema

TABLES = (*FACTS, "DIM_PORTFOLIO", "DIM_CASH_ACCOUNT", "DIM_SECURITY")


def content(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sorted(query(connection, f"SELECT * FROM {table}"), key=repr) for table in TABLES}


@dataclass(frozen=True)
class Landed:
    """A world with the frames of its delivery, landed in a folder."""

    world: w.World
    frames: dict[str, pl.DataFrame]
    snapshot: Snapshot
    folder: Path

    def deliver(self, store: ObjectStore, frames: dict[str, pl.DataFrame] | None = None, **options: Any) -> Manifest:
        """Deliver the frames of the world, or others."""
        return w.deliver(store, self.world, frames or self.frames, self.snapshot, **options)


@dataclass(frozen=True)
class Loaded:
    """A date that was delivered and loaded once, with the tables' content. Its tests leave it as it was."""

    frames: dict[str, pl.DataFrame]
    manifest: Manifest
    folder: Path
    warehouse: Any
    result: LoadResult
    content: dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def landed(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Landed:
    world, folder = w.make_world(6), tmp_path_factory.mktemp("landed")
    with fresh_bigsite(postgres_url) as engine:
        world.load(engine)
        return Landed(world, world.frames(), w.land(engine, open_store(str(folder))), folder)


@pytest.fixture(scope="module")
def loaded(landed: Landed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("loaded")
    store = copied(landed.folder, folder)
    manifest = landed.deliver(store)
    with fresh_schema() as warehouse:
        result = load_delivery(warehouse, store, w.FEED, w.DAY, EPI)
        yield Loaded(landed.frames, manifest, folder, warehouse, result, content(warehouse))


def copied(folder: Path, target: Path) -> ObjectStore:
    """Open a copy of a store's folder."""
    return open_store(str(shutil.copytree(folder, target, dirs_exist_ok=True)))


@pytest.fixture
def store(landed: Landed, tmp_path: Path) -> ObjectStore:
    """Open a store with the landing."""
    return copied(landed.folder, tmp_path / "store")


@pytest.fixture
def loaded_store(loaded: Loaded, tmp_path: Path) -> ObjectStore:
    """Open a copy of the store from which the date was loaded."""
    return copied(loaded.folder, tmp_path / "store")


def test_date_is_loaded_as_it_was_delivered(loaded: Loaded) -> None:
    frames, manifest, warehouse = loaded.frames, loaded.manifest, loaded.warehouse
    assert loaded.result.rows == {
        "FACT_MOVEMENT": frames["movement_transactions"].height,
        "FACT_HOLDING_DAILY": frames["investment_holdings"].height,
        "FACT_CASH_BALANCE_DAILY": frames["account_balances"].height,
        "FACT_DELIVERY": len(manifest.portfolios),
    }
    assert loaded.result.pages == len(manifest.pages) > 1
    rows = query(
        warehouse,
        "SELECT TRANSACTION_ID, UNITS, NET_AMOUNT, AMOUNT, RECORDED_AT, SECURITY_KEY IS NULL, CASH_ACCOUNT_KEY IS NULL FROM FACT_MOVEMENT",
    )
    sent = frames["movement_transactions"]
    expected = {
        row["transaction_id"]: (row["units"], row["net_amount"], row["amount"], row["recorded_at"].replace(tzinfo=None),
                                row["exchange"] is None, row["account_number"] is None)
        for row in sent.iter_rows(named=True)
    }  # fmt: skip
    assert {row[0]: row[1:] for row in rows} == expected
    assert all(isinstance(row[1], Decimal) for row in rows if row[1] is not None)
    holdings = query(warehouse, "SELECT PORTFOLIO_NAME, SECURITY_NAME, MARKET_VALUE FROM HOLDING_AS_WAS")
    assert len(holdings) == frames["investment_holdings"].height
    assert all(name and security for name, security, _ in holdings)
    assert sorted(value for *_, value in holdings) == sorted(frames["investment_holdings"]["market_value"])
    assert (
        len(query(warehouse, "SELECT * FROM CASH_BALANCE_AS_WAS WHERE ACCOUNT_NAME IS NOT NULL"))
        == frames["account_balances"].height
    )
    codes = {row[0] for row in query(warehouse, "SELECT SECURITY_CODE FROM DIM_SECURITY")}
    assert codes == {"BHP", "CBAX", "MSFT"}


def test_loading_again_changes_nothing(loaded: Loaded, loaded_store: ObjectStore) -> None:
    load_delivery(loaded.warehouse, loaded_store, w.FEED, w.DAY, EPI)
    assert content(loaded.warehouse) == loaded.content
    assert all(loaded.content.values())


def test_revision_replaces_its_portfolios_and_no_others(landed: Landed, store: ObjectStore, warehouse: Any) -> None:
    frames = landed.frames
    landed.deliver(store)
    load_delivery(warehouse, store, w.FEED, w.DAY, EPI)
    item = pl.col("portfolio_number") == "SW000001"
    changed = {
        **frames,
        "account_balances": frames["account_balances"].with_columns(
            ledger_balance=pl.when(item)
            .then(pl.lit(Decimal("1.23")))
            .otherwise(pl.col("ledger_balance"))
            .cast(pl.Decimal(18, 2))
        ),
        "movement_transactions": frames["movement_transactions"].filter(~item | (pl.col("transaction_id") != "T102")),
        "accounts": frames["accounts"].with_columns(
            portfolio_name=pl.when(item).then(pl.lit("Renamed")).otherwise(pl.col("portfolio_name"))
        ),
    }
    landed.deliver(store, changed, revision=1, only=frozenset({"SW000001"}))
    loaded = load_delivery(warehouse, store, w.FEED, w.DAY, EPI)
    assert loaded.revisions == 2
    assert loaded.rows["FACT_MOVEMENT"] == changed["movement_transactions"].height
    assert query(
        warehouse, "SELECT LEDGER_BALANCE FROM FACT_CASH_BALANCE_DAILY WHERE PORTFOLIO_NUMBER = 'SW000001'"
    ) == [(Decimal("1.23"),)]
    names = query(
        warehouse,
        "SELECT PORTFOLIO_NAME, VALID_FROM, IS_CURRENT FROM DIM_PORTFOLIO WHERE PORTFOLIO_NUMBER = 'SW000001'",
    )
    assert names == [("Renamed", w.DAY, True)]
    of_both = query(
        warehouse, "SELECT REVISION, IS_LATEST FROM FACT_DELIVERY WHERE PORTFOLIO_NUMBER = 'SW000001' ORDER BY 1"
    )
    assert of_both == [(0, False), (1, True)]
    assert query(warehouse, "SELECT COUNT(*) FROM FACT_DELIVERY WHERE IS_LATEST") == [(frames["accounts"].height,)]


def redate(store: ObjectStore, manifest: Any, day: dt.date) -> None:
    """Deliver the same content for another date."""
    pages = []
    for page in manifest.pages:
        key = page.key.replace(str(w.DAY), str(day))
        store.create(key, store.read(page.key))
        pages.append(page.model_copy(update={"key": key}))
    copy = manifest.model_copy(update={"business_date": day, "pages": tuple(pages)})
    store.create(manifest_key(w.FEED, day, 0), to_json(copy))


@pytest.mark.parametrize(
    "order",
    [
        (1, 2, 0, 0),
        pytest.param((0, 1, 2), marks=pytest.mark.nightly),
        pytest.param((2, 0, 1), marks=pytest.mark.nightly),
    ],
)
def test_dimensions_keep_their_history_in_whatever_order_dates_come(
    landed: Landed, store: ObjectStore, warehouse: Any, order: tuple[int, ...]
) -> None:
    frames = landed.frames
    days = (w.DAY, dt.date(2025, 3, 13), dt.date(2025, 3, 14))
    redate(store, landed.deliver(store), days[1])
    renamed = {
        **frames,
        "accounts": frames["accounts"].with_columns(
            portfolio_name=pl.when(pl.col("consent") != "REMOVED").then(pl.lit("New name"))
        ),
    }
    renamed["investment_holdings"] = frames["investment_holdings"].with_columns(security_name=pl.lit("Same everywhere"))
    redate(store, landed.deliver(store, renamed, revision=7), days[2])
    store.delete(manifest_key(w.FEED, w.DAY, 7))
    for at in order:
        load_delivery(warehouse, store, w.FEED, days[at], EPI)
    versions = query(
        warehouse,
        "SELECT PORTFOLIO_NAME, VALID_FROM, VALID_TO, IS_CURRENT FROM DIM_PORTFOLIO WHERE PORTFOLIO_NUMBER = 'SW000001' ORDER BY 2",
    )
    assert [version[0][:5] for version in versions] == ["Smith", "New n"]
    assert [version[1:] for version in versions] == [(days[0], days[2], False), (days[2], dt.date(9999, 12, 31), True)]
    removed = query(warehouse, "SELECT IS_SHARED, VALID_FROM FROM DIM_PORTFOLIO WHERE PORTFOLIO_NUMBER = 'SW000003'")
    assert removed == [(False, days[0])]
    assert len(query(warehouse, "SELECT * FROM DIM_SECURITY")) == 6
    assert query(warehouse, "SELECT COUNT(*) FROM FACT_DELIVERY") == [(3 * frames["accounts"].height,)]
    # The same FULL extract delivered thrice must not be added up thrice; a DELTA is.
    standing = query(warehouse, "SELECT COUNT(*) FROM MOVEMENT_STANDING WHERE PORTFOLIO_NUMBER = 'SW000002'")
    full = frames["movement_transactions"].filter(pl.col("portfolio_number") == "SW000002").height
    assert standing == [(full,)]


def test_failed_load_leaves_the_date_as_it_was(loaded: Loaded, loaded_store: ObjectStore) -> None:
    loaded_store.put(loaded.manifest.pages[-1].key, b"something else")
    with pytest.raises(DamagedRecordError, match="differs from its manifest"):
        load_delivery(loaded.warehouse, loaded_store, w.FEED, w.DAY, EPI)
    assert content(loaded.warehouse) == loaded.content


def test_error_within_the_transaction_rolls_back(
    loaded: Loaded, loaded_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the network went away")

    monkeypatch.setattr(load, "_rebuild", fail)
    with pytest.raises(RuntimeError, match="network"):
        load_delivery(loaded.warehouse, loaded_store, w.FEED, w.DAY, EPI)
    assert content(loaded.warehouse) == loaded.content


LOST = "DELETE FROM {table} WHERE TRANSACTION_ID = (SELECT MIN(TRANSACTION_ID) FROM {table})"
ALTERED = "UPDATE {table} SET AMOUNT = AMOUNT + 0.01 WHERE AMOUNT IS NOT NULL"
DOUBLED = "INSERT INTO {table} SELECT * FROM {table}"


@pytest.mark.parametrize(
    ("harm", "says", "place"),
    [
        pytest.param(LOST, "rows", "staged", id="lost-staged"),
        pytest.param(LOST, "rows", "replaced", id="lost-replaced", marks=pytest.mark.nightly),
        pytest.param(ALTERED, "AMOUNT", "staged", id="altered-staged", marks=pytest.mark.nightly),
        pytest.param(ALTERED, "AMOUNT", "replaced", id="altered-replaced"),
        pytest.param(DOUBLED, "rows", "staged", id="doubled-staged"),
        pytest.param(DOUBLED, "rows", "replaced", id="doubled-replaced", marks=pytest.mark.nightly),
    ],
)
def test_rows_that_change_on_their_way_are_noticed_and_nothing_is_replaced(
    loaded: Loaded, loaded_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, harm: str, says: str, place: str
) -> None:
    prove = Staging.prove

    def harmed(self: Staging, cursor: Any, staged: str, table: str, where: str = "") -> None:
        if "DELIVERED_MOVEMENT" in table and (staged == table) is (place == "staged"):
            cursor.execute(harm.format(table=table))
        prove(self, cursor, staged, table, where)

    monkeypatch.setattr(Staging, "prove", harmed)
    with pytest.raises(LoadDiffersError, match=f"DELIVERED_MOVEMENT.* differs from the uploaded rows.*{says}"):
        load_delivery(loaded.warehouse, loaded_store, w.FEED, w.DAY, EPI)
    assert content(loaded.warehouse) == loaded.content


def test_sums_of_large_amounts_are_compared_exactly(warehouse: Any) -> None:
    amounts = pl.Series("AMOUNT", [Decimal("987654321.24")] * 20_000, pl.Decimal(18, 2))
    execute(warehouse, "CREATE TABLE LARGE_AMOUNTS (AMOUNT NUMBER(18,2))")
    with Staging(warehouse) as staging:
        table = staging.table("LARGE_AMOUNTS")
        staging.put(table, amounts.to_frame())
        assert staging.copy(table) == amounts.len()


def test_page_read_wrongly_is_not_loaded(landed: Landed, store: ObjectStore, warehouse: Any) -> None:
    landed.deliver(store)

    class Forgetful(EpiFormat):
        def read(self, path: Path) -> dict[str, pl.DataFrame]:
            return {name: frame.head(1) for name, frame in EPI.read(path).items()}

    with pytest.raises(DamagedRecordError, match="do not add up to its manifest's control totals"):
        load_delivery(warehouse, store, w.FEED, w.DAY, Forgetful())
    assert not any(content(warehouse).values())


def test_load_without_delivery_is_refused(local_store: ObjectStore, warehouse: Any) -> None:
    with pytest.raises(NothingToLoadError, match="deliver it first"):
        load_delivery(warehouse, local_store, w.FEED, w.DAY, EPI)
