"""Building the domains from real snapshots: slices, stored frames, measures, references that must not be mixed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.landing import DamagedFileError
from classfeed_dagster.bigsite.snapshot import Snapshot, take_snapshot
from classfeed_dagster.domains.build import (
    DOMAINS,
    STORED,
    AudienceNotReadError,
    DomainReference,
    MixedSnapshotsError,
    build_consented_portfolios,
    build_domain,
    build_domain_shard,
    open_domains,
    read_consent_roll,
    read_frame,
)
from classfeed_dagster.domains.columns import DOMAINS as DECLARED
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.domains.landed_tables import TABLES
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite

D = dt.date(2023, 2, 1)
CLASS = RecipientSchedule("CLASS", dt.date(2023, 1, 3))
BGL = RecipientSchedule("BGL", dt.date(2023, 1, 3))
TODAY = "2023-02-01T02:00Z"


@pytest.fixture
def engine(bigsite_engine: sa.Engine) -> sa.Engine:
    """Return five portfolios: current, new with a shared history, removed, broken, and one that shares with BGL alone."""
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP", price={"2023-01-31": "45.105"})
    woodside = bigsite.security("WPL", price={"2023-02-01": "33.00"})
    bigsite.code_change(woodside, "2023-02-02", "WDS")
    microsoft = bigsite.security("MSFT", {"2023-01-31": "250.00"}, exchange="NASDAQ", currency="USD")

    current = bigsite.portfolio("SW1").consent(history_from="2023-01-01")
    current.deposit("10000.00", on="2022-12-01")
    current.buy(bhp, 100, "45.00", on="2023-01-10")
    current.sell(bhp, "0.333333", "46.00", on="2023-02-01")
    current.deposit("5.00", on="2022-12-05", recorded_at=TODAY)  # late, before the shared history

    new = bigsite.portfolio("SW2").consent(TODAY, history_from="2022-07-01")
    new.deposit("9000.00", on="2022-06-01")
    new.buy(woodside, 50, "30.00", on="2022-06-10")
    new.dividend(woodside, "25.00", on="2022-09-01")
    new.reverse(new.buy(woodside, 10, "31.00", on="2022-10-03"), "2022-10-04T02:00Z")
    new.deposit("2000.00", on="2023-01-05", account=new.cash("USD"))
    new.buy(microsoft, 2, "240.00", on="2023-01-31")

    removed = bigsite.portfolio("SW3").consent(revoked_at=TODAY).consent(recipient="BGL")
    removed.deposit("77.00", on="2023-02-01")
    broken = bigsite.portfolio("SW4").consent()
    broken.deposit("1.00", on="2023-02-01")
    broken.buy(bhp, 1, "45.00", on="2023-02-01", net_amount="1.00", settlement_date="2023-02-10")
    bigsite.portfolio("SW5").consent(recipient="BGL").deposit("3.00", on="2023-02-01")
    bigsite.end_of_day("2023-02-01").save()
    return bigsite_engine


def _snapshot(
    engine: sa.Engine, store: ObjectStore, slice_portfolios: int = 500, *audiences: RecipientSchedule
) -> Snapshot:
    return take_snapshot(engine, store, D, audiences or (CLASS,), slice_portfolios=slice_portfolios)


def _build(store: ObjectStore, snapshot: Snapshot, audience: RecipientSchedule = CLASS) -> dict[str, DomainReference]:
    consented = build_consented_portfolios(store, snapshot, audience)
    built = {domain: build_domain(store, snapshot, audience, domain, consented) for domain in DECLARED}
    return {consented.domain: consented, **built}


def _frames(store: ObjectStore, references: Mapping[str, DomainReference]) -> dict[str, pl.DataFrame]:
    with open_domains(store, references.values()) as slices:
        parts = list(slices)
        assert len(slices) == len(parts)
    return {name: pl.concat(part[name] for part in parts) for name in parts[0]}


def test_domains_are_built_stored_and_read_back(engine: sa.Engine, store: ObjectStore) -> None:
    snapshot = _snapshot(engine, store, 1)
    built = _build(store, snapshot)
    assert tuple(built) == DOMAINS
    frames = _frames(store, built)
    declared = {frame.name: frame for listed in STORED.values() for frame in listed}
    assert set(frames) == set(declared)
    for name, frame in frames.items():
        assert frame.schema == pl.Schema(declared[name].schema)
        assert frame.equals(declared[name].conform(frame)), name
    assert frames["consented_portfolios"].select("portfolio_number", "change").rows() == [
        ("SW1", "CURRENT"),
        ("SW2", "NEW"),
        ("SW3", "REMOVED"),
        ("SW4", "CURRENT"),
    ]
    for reference in built.values():
        assert (reference.snapshot_id, reference.slices, reference.audience) == (snapshot.snapshot_id, 3, CLASS.key)
        for name, table in reference.frames.items():
            assert table.key.startswith(f"domains/2023-02-01/{CLASS.key}/{name}/")
            assert table.sha256.startswith(Path(table.key).stem)
        assert DomainReference.model_validate_json(reference.model_dump_json()) == reference


def test_build_reports_the_findings_of_its_frames(engine: sa.Engine, local_store: ObjectStore) -> None:
    frames = _frames(local_store, _build(local_store, _snapshot(engine, local_store)))
    movements = frames["movement_transactions"].select("portfolio_number", "transaction_type", "units", "amount").rows()
    assert [row for row in movements if row[0] == "SW1"] == [
        ("SW1", "SELL", Decimal("-0.333333"), None),
        ("SW1", "OPENING_CASH", None, Decimal("5.00")),  # recorded an hour later
    ]
    new = frames["movement_transactions"].filter(pl.col("portfolio_number") == "SW2")
    assert new["transaction_type"].to_list()[:2] == ["OPENING_CASH", "OPENING_UNITS"]
    assert new["security_code"].drop_nulls().unique().sort().to_list() == ["MSFT", "WPL"]
    holdings = frames["investment_holdings"].select(
        "portfolio_number", "security_code", "settled_units", "market_value"
    )
    assert holdings.filter(pl.col("portfolio_number") != "SW4").rows() == [
        ("SW1", "BHP", Decimal("100.000000"), Decimal("4495.47")),
        ("SW2", "WPL", Decimal("50.000000"), Decimal("1650.00")),
        ("SW2", "MSFT", Decimal("0.000000"), Decimal("500.00")),  # bought the day before: not settled
    ]
    assert frames["findings"].select("portfolio_number", "rule", "severity").rows() == [
        ("SW4", "net_amount", "QUARANTINE"),
        ("SW4", "settlement_date", "WARNING"),
    ]


def test_new_portfolios_movements_sum_to_holdings_and_balances(engine: sa.Engine, local_store: ObjectStore) -> None:
    frames = _frames(local_store, _build(local_store, _snapshot(engine, local_store)))
    mine = {name: frame.filter(pl.col("portfolio_number") == "SW2") for name, frame in frames.items()}
    moved = mine["movement_transactions"].filter(pl.col("transaction_date") <= D)
    units = moved.filter(pl.col("ex_date").is_null()).group_by("security_code").agg(pl.col("units").sum())
    holding = mine["investment_holdings"].select("security_code", "units")
    assert units.drop_nulls().sort("security_code").rows() == holding.sort("security_code").rows()
    cash = moved.drop_nulls("amount").group_by("account_number", "currency").agg(pl.col("amount").sum())
    balances = mine["account_balances"].select("account_number", "currency", "ledger_balance")
    assert cash.sort("account_number").rows() == balances.sort("account_number").rows()


def test_slice_size_changes_no_frame(engine: sa.Engine, local_store: ObjectStore) -> None:
    whole = _frames(local_store, _build(local_store, _snapshot(engine, local_store, 500, CLASS, BGL)))
    for size in (1, 2, 3):
        snapshot = _snapshot(engine, local_store, size, CLASS, BGL)
        sliced = _frames(local_store, _build(local_store, snapshot))
        assert set(sliced) == set(whole)
        for name, frame in whole.items():
            assert sliced[name].equals(frame), (size, name)


def test_audience_sees_its_own_rows_only(engine: sa.Engine, local_store: ObjectStore) -> None:
    both = _snapshot(engine, local_store, 2, CLASS, BGL)
    alone = _frames(local_store, _build(local_store, _snapshot(engine, local_store)))
    for name, frame in _frames(local_store, _build(local_store, both)).items():
        assert frame.equals(alone[name]), name
    theirs = _frames(local_store, _build(local_store, both, BGL))
    assert theirs["accounts"]["portfolio_number"].to_list() == ["SW3", "SW5"]
    assert set(theirs["movement_transactions"]["portfolio_number"]) == {"SW3", "SW5"}


def test_build_again_stores_nothing_new(engine: sa.Engine, local_store: ObjectStore) -> None:
    snapshot = _snapshot(engine, local_store)
    first = _build(local_store, snapshot)
    keys = list(local_store.list("domains/"))
    assert _build(local_store, snapshot) == first
    assert list(local_store.list("domains/")) == keys
    # An unchanged bigsite, read again, gives the same frames under the same names.
    again = _build(local_store, _snapshot(engine, local_store))
    assert {name: it.frames for name, it in again.items()} == {name: it.frames for name, it in first.items()}


def test_measures_are_exact_and_not_personal(engine: sa.Engine, local_store: ObjectStore) -> None:
    built = _build(local_store, _snapshot(engine, local_store))
    consented = built["consented_portfolios"].measures
    assert {name: consented[f"portfolios_{name}"] for name in ("new", "current", "removed")} == {
        "new": 1,
        "current": 2,
        "removed": 1,
    }
    holdings = built["investment_holdings"].measures
    assert (holdings["market_value_AUD"], holdings["market_value_USD"]) == ("6190.58", "500.00")
    assert (holdings["units_held"], holdings["rows_investment_holdings"]) == ("152.666667", 4)
    movements = built["movement_transactions"].measures
    assert (movements["portfolios_quarantined"], movements["warnings"]) == (1, 1)
    assert movements["units_moved"] == "52.666667"
    assert built["account_balances"].measures["ledger_balance_USD"] == "2000.00"
    assert built["account_details"].measures["rows_cash_accounts"] == 4
    for reference in built.values():
        assert reference.measures["bytes"] == sum(table.bytes for table in reference.frames.values())
        assert "Super Fund" not in json.dumps(reference.model_dump(mode="json"))


def test_consent_rollforward_of_a_date_balances(engine: sa.Engine, local_store: ObjectStore) -> None:
    snapshot = _snapshot(engine, local_store, 1)
    roll = read_consent_roll(local_store, snapshot, CLASS, build_consented_portfolios(local_store, snapshot, CLASS))
    assert (roll.previous, roll.new, roll.removed, roll.current, roll.balanced) == (3, 1, 1, 3, True)
    assert roll.removed_numbers == ("SW3",)


def test_build_without_consents_is_empty(bigsite_engine: sa.Engine, local_store: ObjectStore) -> None:
    bigsite = Bigsite(bigsite_engine)
    bigsite.portfolio().deposit("1.00", on="2023-02-01")
    bigsite.end_of_day("2023-02-01").save()
    snapshot = _snapshot(bigsite_engine, local_store)
    built = _build(local_store, snapshot)
    assert all(table.rows == 0 for it in built.values() for table in it.frames.values())
    with open_domains(local_store, built.values()) as slices:
        assert list(slices) == []
    assert read_frame(local_store, built["movement_transactions"], FINDINGS.name).schema == pl.Schema(FINDINGS.schema)
    assert not read_consent_roll(local_store, snapshot, CLASS, built["consented_portfolios"]).exceeds(Decimal(1))


def test_shard_built_ahead_is_used_if_code_and_inputs_match(engine: sa.Engine, local_store: ObjectStore) -> None:
    domain = "account_details"
    item, other = (
        take_snapshot(engine, local_store, D, (CLASS,), slice_portfolios=1, shard_portfolios=2) for _ in range(2)
    )
    consented = build_consented_portfolios(local_store, item, CLASS)
    shards = range(len(item.shards))
    assert len(shards) > 1
    built = [build_domain_shard(local_store, item, CLASS, domain, consented, at, code_version="1") for at in shards]
    kept = [shard.frames["accounts"].key for shard in built]

    def is_taken(snapshot: Snapshot, version: str) -> bool:
        for key in kept:
            local_store.delete(key)  # building it again would store it again
        of = build_consented_portfolios(local_store, snapshot, CLASS)
        build_domain(local_store, snapshot, CLASS, domain, of, code_version=version, ahead=built.__getitem__)
        return not any(map(local_store.exists, kept))

    assert is_taken(item, "1")
    assert not is_taken(item, "2")
    assert not is_taken(other, "1")


def test_frames_of_different_snapshots_are_never_mixed(engine: sa.Engine, local_store: ObjectStore) -> None:
    item, other = (_snapshot(engine, local_store, 500, CLASS, BGL) for _ in range(2))
    consented = build_consented_portfolios(local_store, item, CLASS)
    with pytest.raises(MixedSnapshotsError, match=item.snapshot_id):
        build_domain(local_store, other, CLASS, "account_details", consented)
    with pytest.raises(MixedSnapshotsError, match="BGL"):
        build_domain(local_store, item, BGL, "account_details", consented)
    details = build_domain(local_store, item, CLASS, "account_details", consented)
    with pytest.raises(MixedSnapshotsError, match="was given account_details"):
        build_domain(local_store, item, CLASS, "account_balances", details)
    with pytest.raises(MixedSnapshotsError, match="given account_details"):
        read_consent_roll(local_store, item, CLASS, details)
    for mixed in (
        [details, build_consented_portfolios(local_store, other, CLASS)],
        [details, build_consented_portfolios(local_store, item, BGL)],
        [details, details],
    ):
        with pytest.raises(MixedSnapshotsError, match="cannot be combined"):
            open_domains(local_store, mixed)
    with pytest.raises(ValueError, match="no domains"):
        open_domains(local_store, [])


def test_snapshot_of_another_audience_is_refused(engine: sa.Engine, local_store: ObjectStore) -> None:
    snapshot = _snapshot(engine, local_store)
    with pytest.raises(AudienceNotReadError, match="not for BGL-20230103-daily"):
        build_consented_portfolios(local_store, snapshot, BGL)


def test_changed_file_is_refused(engine: sa.Engine, local_store: LocalStore) -> None:
    built = _build(local_store, _snapshot(engine, local_store))
    table = built["account_details"].frames["accounts"]
    with local_store.local_file(table.key) as path:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedFileError), open_domains(local_store, built.values()):
        pass


def test_landed_table_is_used_by_a_domain(engine: sa.Engine, local_store: ObjectStore) -> None:
    landed = set(_snapshot(engine, local_store).tables)
    assert {table for tables in TABLES.values() for table in tables} == landed
