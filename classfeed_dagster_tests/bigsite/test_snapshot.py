"""The snapshot: one transaction, few statements, consented data only, immutable files, ordered slices."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import psycopg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite import queries, tables
from classfeed_dagster.bigsite import source_connection as reading
from classfeed_dagster.bigsite.landing import DamagedFileError, empty_tables
from classfeed_dagster.bigsite.snapshot import Snapshot, latest_snapshot, open_slices, snapshot_for, take_snapshot
from classfeed_dagster.errors import SourceReadError
from classfeed_dagster.schedules import Cadence, RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Portfolio, Row
from classfeed_dagster_tests.fixtures.reading_back import CLASS, DAY, END, START, frames, stored_files, take

BGL = RecipientSchedule("BGL", CLASS.first_business_date)


def _customer(bigsite: Bigsite, security: Row, number: str | None = None, **consent: Any) -> Portfolio:
    portfolio = bigsite.portfolio(number)
    if consent.pop("shares", True):
        portfolio.consent(**consent)
    portfolio.deposit("10000.00", on="2023-01-10")
    portfolio.buy(security, 100, "45.10", on="2023-01-12", recorded_at="2023-01-12T03:00Z")
    portfolio.dividend(security, "70.00", on=DAY)
    portfolio.security_movement(security, "BONUS_ISSUE", "5.5", on=DAY)
    return portfolio


@pytest.fixture
def bigsite(bigsite_engine: sa.Engine) -> Bigsite:
    """Add three consented customers with their end of day."""
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP", price={"2023-01-31": "45.00", DAY.isoformat(): "46.00"})
    for _ in range(3):
        _customer(bigsite, bhp)
    return bigsite.end_of_day(DAY).save()


def test_snapshot_statements_do_not_grow_with_portfolios(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    few: list[str] = []
    snapshot, _ = take(bigsite_engine, local_store, observe=few.append)
    for _ in range(30):
        _customer(bigsite, bigsite.rows[tables.security][0])
    bigsite.end_of_day(DAY).save()
    many: list[str] = []
    take(bigsite_engine, local_store, observe=many.append)
    assert few == many
    # The transactions visible to the snapshot: reconciliation looks a late row up in them.
    assert sum("pg_current_snapshot()" in statement for statement in few) == 1
    session_visibility_consent_readiness = 4
    assert len(few) == session_visibility_consent_readiness + len(queries.SLICED) + len(queries.REFERENCES)
    assert sum("data_sharing_consent" in statement for statement in few) == 1
    assert (snapshot.statements, snapshot.consent_questions) == (len(few), 1)


def test_driver_without_copy_lands_the_same_bytes(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_copy, _ = take(bigsite_engine, local_store)
    other_driver = SimpleNamespace(Connection=type("Other", (), {}), Error=psycopg.Error)
    monkeypatch.setattr(reading, "psycopg", other_driver)
    by_objects, _ = take(bigsite_engine, local_store)
    assert by_objects.statements == by_copy.statements
    hashes = [{name: table.sha256 for name, table in item.tables.items()} for item in (by_copy, by_objects)]
    assert hashes[0] == hashes[1]


def test_portfolio_without_consent_lands_nothing(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore, tmp_path: Path
) -> None:
    theirs = bigsite.security("ZZTOP", name="Private Holdings", price={DAY.isoformat(): "77.770000"})
    private = bigsite.portfolio("SWPRIVATE1", portfolio_id=777777, portfolio_name="Unshared Family Trust")
    private.cash_account(cash_account_id=888888, account_number="987654321")
    _ended = private.consent("2022-01-01T00:00Z", revoked_at="2022-06-01T00:00Z", reference="GONE")
    private.consent(recipient="BGL", reference="ELSEWHERE")
    private.deposit("31415.92", on=DAY, description="Unshared money")
    private.buy(theirs, 17, "77.77", on=DAY, confirmation_number="CNPRIVATE")
    private.dividend(theirs, "271.82", on=DAY)
    removed = bigsite.portfolio("SWREMOVED1", portfolio_name="Removed Family Trust", portfolio_id=666666)
    removed.consent(revoked_at=START, reference="LEFT").deposit("161.80", on=DAY, description="Removed money")
    bigsite.end_of_day(DAY).save()
    take(bigsite_engine, local_store)
    result = ""
    for key, path in stored_files(local_store, tmp_path).items():
        assert private.number not in key
        result += path.read_text() if key.endswith(".json") else str(pq.read_table(path).to_pylist())
    assert "SW100001" in result
    assert "SWREMOVED1" in result  # its number is announced, its data is not read
    for mark in ("SWPRIVATE1", "777777", "Unshared", "888888", "987654321", "31415.92", "CNPRIVATE", "ZZTOP", "77.77"):
        assert mark not in result
    for mark in ("Private Holdings", "271.82", "GONE", "ELSEWHERE", "Removed Family", "161.80", "Removed money"):
        assert mark not in result
    for mark in ("Given1", "Family1", "example.invalid"):  # owners, those of consented portfolios included
        assert mark not in result


def test_snapshot_reads_needed_columns_only(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    unneeded = {
        "member": set(tables.member.c.keys()),
        "portfolio_member": set(tables.portfolio_member.c.keys()),
        "fx_rate": set(tables.fx_rate.c.keys()),
        "security": {"listed_on", "delisted_on"},
        "security_code_change": {"new_code", "new_name"},
    }
    # A role without other privileges proves it better than reading the SQL does.
    role = f"reader_{bigsite_engine.url.database}"
    with bigsite_engine.begin() as connection:
        connection.execute(sa.text(f'CREATE ROLE "{role}"'))
        connection.execute(sa.text(f'GRANT USAGE ON SCHEMA bigsite TO "{role}"'))
        for table in tables.metadata.sorted_tables:
            state = {"updated_at"} - ({"updated_at"} if table.name.endswith("_eod") else set())
            allowed = set(table.c.keys()) - unneeded.get(table.name, set()) - state
            if allowed:
                connection.execute(sa.text(f'GRANT SELECT ({", ".join(sorted(allowed))}) ON {table} TO "{role}"'))
    reader = sa.create_engine(bigsite_engine.url, connect_args={"options": f"-c role={role}"})
    try:
        snapshot, _ = take(reader, local_store)
    finally:
        reader.dispose()
        with bigsite_engine.begin() as connection:
            connection.execute(sa.text(f'DROP OWNED BY "{role}"'))
            connection.execute(sa.text(f'DROP ROLE "{role}"'))
    assert snapshot.slices[0].portfolios == len(bigsite.portfolios)


def test_snapshot_keys_and_descriptor_are_as_designed(
    bigsite_engine: sa.Engine, bigsite: Bigsite, store: ObjectStore
) -> None:
    before = dt.datetime.now(dt.UTC)
    snapshot = take_snapshot(bigsite_engine, store, DAY, [CLASS])
    expected = {f"landing/2023-02-01/{table}/{snapshot.snapshot_id}.parquet" for table in queries.SCHEMAS}
    assert set(store.list("")) == {*expected, f"landing/2023-02-01/snapshot/{snapshot.snapshot_id}.json"}
    assert Snapshot.model_validate_json(store.read(snapshot.key())) == snapshot
    assert abs(snapshot.snapshot_at - before) < dt.timedelta(minutes=5)
    assert (snapshot.audiences, len(bigsite.portfolios)) == ((CLASS.key,), snapshot.slices[0].portfolios)
    for name, table in snapshot.tables.items():
        assert (len(store.read(table.key)), table.key.split("/")[2]) == (table.bytes, name)


def test_landed_types_are_exactly_those_declared(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    snapshot, landed = take(bigsite_engine, local_store)
    for name, schema in queries.SCHEMAS.items():
        with local_store.local_file(snapshot.tables[name].key) as path:
            assert pq.read_schema(path).equals(schema)
    for frame in landed.values():
        assert not any(dtype.is_float() for dtype in frame.dtypes)
    assert landed["holding_eod"]["units"].to_list() == [Decimal("105.500000")] * 3
    assert landed["security_price"]["close_price"].to_list() == [Decimal("46.000000")]


def test_rerun_reuses_the_landed_snapshot_and_fresh_overwrites_none(
    bigsite: Bigsite, bigsite_engine: sa.Engine, store: ObjectStore
) -> None:
    first = snapshot_for(bigsite_engine, store, DAY, [CLASS])
    requests: list[str] = []
    assert snapshot_for(bigsite_engine, store, DAY, [CLASS], observe=requests.append) == first
    assert not requests
    kept = {key: store.read(key) for key in store.list("")}
    fresh = snapshot_for(bigsite_engine, store, DAY, [CLASS], fresh=True)
    assert fresh.snapshot_id > first.snapshot_id
    assert {key: store.read(key) for key in kept} == kept
    assert latest_snapshot(store, DAY, [CLASS]) == fresh
    # An equal state of bigsite lands as equal bytes.
    assert {n: t.sha256 for n, t in fresh.tables.items()} == {n: t.sha256 for n, t in first.tables.items()}
    assert latest_snapshot(store, dt.date(2023, 2, 2)) is None


def test_snapshot_serves_only_audiences_it_was_read_for(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    weekly = RecipientSchedule("CLASS", CLASS.first_business_date, Cadence.WEEKLY)  # not due on a Wednesday
    item = snapshot_for(bigsite_engine, local_store, DAY, [CLASS, weekly])
    assert item.audiences == (CLASS.key,)
    both = snapshot_for(bigsite_engine, local_store, DAY, [CLASS, BGL])
    assert both.snapshot_id != item.snapshot_id
    assert snapshot_for(bigsite_engine, local_store, DAY, [BGL]) == both
    with pytest.raises(ValueError, match="No feed is due on 2023-02-01"):
        take_snapshot(bigsite_engine, local_store, DAY, [weekly])


def test_snapshot_without_a_descriptor_does_not_exist(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = local_store.create

    def fails_at_last(key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        if key.endswith(".json"):
            raise OSError("disk full")
        return create(key, data, metadata or {})

    monkeypatch.setattr(local_store, "create", fails_at_last)
    with pytest.raises(OSError, match="disk full"):
        take_snapshot(bigsite_engine, local_store, DAY, [CLASS])
    assert len(list(local_store.list("landing"))) == len(queries.SCHEMAS)
    assert latest_snapshot(local_store, DAY) is None


def test_file_that_was_changed_is_refused(bigsite: Bigsite, bigsite_engine: sa.Engine, store: ObjectStore) -> None:
    snapshot, _ = take(bigsite_engine, store)
    key = snapshot.tables["trade"].key
    whole = store.read(key)
    store.put(key, whole[:-20] + b"x" * 20)
    with pytest.raises(DamagedFileError, match=r"trade/.*SHA-256 differs.*fresh snapshot"):
        frames(snapshot, store)
    with open_slices(snapshot, store, ["holding_eod", "security"]) as slices:  # the others are not touched
        assert set(slices.slice(0)) == {"holding_eod", "security"}
    store.put(snapshot.key(), store.read(snapshot.key())[:-20])
    with pytest.raises(DamagedFileError, match="descriptor"):
        latest_snapshot(store, DAY)


def test_row_group_k_of_every_table_is_slice_k_ordered_by_number(
    bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP")
    numbers = ["b", "SW9", "SW10", "É1", "SW100", "Z", "a", "~", "0"]
    for number in numbers:
        portfolio = bigsite.portfolio(number)
        if number in ("SW10", "SW100"):
            portfolio.consent(revoked_at=START)  # removed: none of its data is read
        elif number != "a":
            portfolio.consent(granted_at=START)  # new: read with its whole history
        else:
            portfolio.consent()
        portfolio.cash_account()
        if number in ("0", "b", "~"):  # most slices have no row of most tables
            portfolio.buy(bhp, 1, "1.00", on=DAY)
    bigsite.end_of_day(DAY).save()
    snapshot, _ = take(bigsite_engine, local_store, slice_portfolios=2)
    assert [(part.first, part.last, part.portfolios) for part in snapshot.slices] == [
        ("0", "SW100", 3),
        ("SW9", "Z", 2),
        ("a", "b", 2),
        ("~", "É1", 2),
    ]
    for name in set(snapshot.tables) - {query.table for query in queries.REFERENCES}:
        with local_store.local_file(snapshot.tables[name].key) as path:
            assert pq.ParquetFile(path).num_row_groups == 4, name
    with open_slices(snapshot, local_store) as slices:
        parts = list(slices)
    ids = {portfolio.id: portfolio.number for portfolio in bigsite.portfolios}

    def numbers_in(table: str) -> list[list[str]]:
        return [[ids[at] for at in part[table]["portfolio_id"].unique(maintain_order=True)] for part in parts]

    assert numbers_in("data_sharing_consent") == [["0", "SW10", "SW100"], ["SW9", "Z"], ["a", "b"], ["~", "É1"]]
    assert numbers_in("portfolio") == [["0"], ["SW9", "Z"], ["a", "b"], ["~", "É1"]]
    assert numbers_in("trade") == [["0"], [], ["b"], ["~"]]
    assert numbers_in("income") == [[], [], [], []]
    assert all(part["security"]["code"].to_list() == ["BHP"] for part in parts)


def test_slice_size_changes_no_row(bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    _, item = take(bigsite_engine, local_store, slice_portfolios=1)
    _, all_at_once = take(bigsite_engine, local_store, slice_portfolios=500)
    assert set(item) == set(all_at_once)
    assert all(item[name].equals(all_at_once[name]) for name in item)


def test_snapshot_without_consents_lands_no_rows(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    bigsite.portfolio().cash_account()
    bigsite.end_of_day(DAY).save()
    snapshot, _ = take(bigsite_engine, local_store)
    assert snapshot.slices == ()
    assert {table.rows for table in snapshot.tables.values()} == {0}
    with open_slices(snapshot, local_store) as slices:
        assert list(slices) == []


def test_rehearsal_snapshot_states_its_own_instant(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    sydney = (END + dt.timedelta(hours=5)).astimezone(dt.timezone(dt.timedelta(hours=11)))
    snapshot, _ = take(bigsite_engine, local_store, snapshot_at=sydney)
    assert snapshot.snapshot_at == sydney
    assert json.loads(local_store.read(snapshot.key()))["snapshot_at"] == "2023-02-01T18:00:00Z"


def test_text_and_numbers_arrive_exactly(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP")
    name = 'O\'Brien & "Söhne" <\\N>, 🦘\r\nzweite\tZeile \\. NaN'
    portfolio = bigsite.portfolio("00012", portfolio_name=name, abn=None, hin=None, entity_type="TRUST").consent()
    account = portfolio.cash_account("USD", account_number="000000000001", account_name="")
    largest = Decimal("9999999999999999.99")
    portfolio.deposit(largest, on=DAY, account=account, description="\\.")
    portfolio.withdraw("0.01", on=DAY, account=account, description="NULL")
    units = Decimal("12345678901234.000001")
    portfolio.security_movement(bhp, "TRANSFER_IN", units, on=DAY, cost_base_change="-0.10", description=" ")
    portfolio.security_movement(bhp, "TRANSFER_OUT", "-0.000001", on=DAY)
    bigsite.end_of_day(DAY).save()
    _, landed = take(bigsite_engine, local_store)
    person = landed["portfolio"].row(0, named=True)
    assert (person["portfolio_name"], person["abn"], person["hin"]) == (name, None, None)
    cash = landed["cash_account"].row(0, named=True)
    assert (cash["account_number"], cash["account_name"], cash["bsb"]) == ("000000000001", "", None)
    moved = landed["security_movement"].rows_by_key("security_movement_id", named=True, unique=True)
    assert (moved[1]["units_change"], moved[1]["cost_base_change"]) == (units, Decimal("-0.10"))
    assert (moved[1]["description"], moved[2]["cost_base_change"]) == (" ", None)
    assert landed["cash_transaction"]["amount"].to_list() == [largest, Decimal("-0.01")]
    assert landed["cash_transaction"]["description"].to_list() == ["\\.", "NULL"]
    assert landed["cash_balance_eod"]["ledger_cash"].to_list() == [largest - Decimal("0.01")]
    assert landed["holding_eod"]["ledger_units"].to_list() == [units - Decimal("0.000001")]


def test_unreadable_value_is_listed_and_its_row_is_not_landed(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    before = take(bigsite_engine, local_store)[1]["cash_transaction"]
    with bigsite_engine.begin() as connection:
        bad = connection.execute(
            sa.text(
                "UPDATE bigsite.cash_transaction SET amount = 'NaN', description = E'a\\n\"b\"' WHERE cash_transaction_id "
                "= (SELECT max(cash_transaction_id) FROM bigsite.cash_transaction) RETURNING cash_transaction_id"
            )
        ).scalar_one()
    snapshot, landed = take(bigsite_engine, local_store)
    wrong = {(value.table, value.column, value.problem) for value in snapshot.unreadable_values}
    assert ("cash_transaction", "amount", "is not a number") in wrong
    assert landed["cash_transaction"].equals(before.filter(pl.col("cash_transaction_id") != bad))


def test_source_that_fails_half_way_lands_nothing(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    with bigsite_engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE bigsite.security_price"))
    with pytest.raises(SourceReadError, match=r"UndefinedTable, SQLSTATE 42P01.*nothing was landed"):
        take_snapshot(bigsite_engine, local_store, DAY, [CLASS])
    assert list(local_store.list("")) == []


def test_empty_frame_has_the_landed_shape() -> None:
    empty = empty_tables()
    assert set(empty) == set(queries.SCHEMAS)
    assert empty["holding_eod"].schema["units"] == pl.Decimal(20, 6)


def test_several_sessions_see_one_state_of_bigsite(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    for number in ("SW1", "SW2", "SW3", "SW4"):
        portfolio = bigsite.portfolio(number)
        portfolio.consent(granted_at=START)
        portfolio.deposit("10.00", DAY)
    bigsite.end_of_day(DAY).save()
    alone, expected = take(bigsite_engine, local_store, slice_portfolios=1, shard_portfolios=1)
    late: list[str] = []

    def written_meanwhile(statement: str) -> None:
        # Committed after the first session has begun and before the others do.
        if "pg_export_snapshot" in statement:
            late.append(statement)
            with bigsite_engine.begin() as other:
                # Three tables that are read at once, so that not all are read by the first session.
                other.execute(sa.text("UPDATE bigsite.portfolio SET portfolio_name = 'late'"))
                other.execute(sa.text("UPDATE bigsite.cash_account SET bsb = '000-000'"))
                other.execute(sa.text("UPDATE bigsite.cash_transaction SET amount = amount + 1"))

    options: dict[str, Any] = {
        "slice_portfolios": 1,
        "shard_portfolios": 1,
        "sessions": 3,
        "observe": written_meanwhile,
    }
    together, result = take(bigsite_engine, local_store, **options)
    assert len(late) == 1
    assert together.consent_questions == 1
    assert together.statements > alone.statements
    assert {name: frame.to_dicts() for name, frame in result.items()} == {
        name: frame.to_dicts() for name, frame in expected.items()
    }
    assert len(together.tables["cash_transaction"].files) == len(together.slices) >= 4
