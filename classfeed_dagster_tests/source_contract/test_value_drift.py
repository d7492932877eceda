"""Anomalous values are reported with their exports; ordinary days are not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.landing import DamagedFileError
from classfeed_dagster.feeds.column_exports import column_exports
from classfeed_dagster.orchestration.asset_keys import LANDING, landing_key
from classfeed_dagster.orchestration.asset_policies import preview_features
from classfeed_dagster.orchestration.checks.landing import values_check
from classfeed_dagster.orchestration.definitions import business_date_partitions
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.source_contract.contract import load_contract
from classfeed_dagster.source_contract.value_drift import (
    FEWEST_DATES,
    FEWEST_ROWS,
    MOST_DISTINCT,
    NO_CODE,
    ColumnStatistics,
    ValueAnomaly,
    ValueStatistics,
    keep_statistics,
    statistics_before,
    statistics_of,
    value_drift,
)
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite
from classfeed_dagster_tests.fixtures.reading_back import DAY, FIRST, take

TODAY = dt.date(2026, 3, 16)


def dated(day: dt.date, columns: dict[str, ColumnStatistics]) -> ValueStatistics:
    return ValueStatistics(business_date=day, snapshot_id="s", columns=columns)


def usual(dates: int = 5, **facts: Any) -> list[ColumnStatistics]:
    return [ColumnStatistics(**{"rows": 100, "nulls": 5 + at, **facts}) for at in range(dates)]


def jumps(column: str, now: ColumnStatistics, before: Sequence[ColumnStatistics]) -> list[ValueAnomaly]:
    days = [dated(TODAY - dt.timedelta(days=len(before) - at), {column: item}) for at, item in enumerate(before)]
    anomalies = value_drift(dated(TODAY, {column: now}), days, column_exports())
    return [break_.jump for break_ in anomalies if not break_.expected]


def now(**facts: Any) -> ColumnStatistics:
    return ColumnStatistics(**{"rows": 100, "nulls": 5, **facts})


MONEY: dict[str, Any] = {"least": "0.00", "greatest": "950.00", "distinct": 80}
DAYS: dict[str, Any] = {"least": "2026-03-01", "greatest": "2026-03-15", "distinct": 10}
TEXT = {"shortest": 3, "longest": 20, "distinct": 40}
CODES = {"shortest": 3, "longest": 4, "codes": {"BUY": 60, "SELL": 40}}


@pytest.mark.parametrize(
    ("column", "was", "facts", "expected"),
    [
        ("trade.gst", MONEY, {**MONEY, "nulls": 30}, [ValueAnomaly.NULL_RATE]),
        ("trade.gst", MONEY, {**MONEY, "nulls": 15}, []),
        ("trade.gst", MONEY, {**MONEY, "greatest": "96000.00"}, [ValueAnomaly.RANGE]),
        ("trade.gst", MONEY, {**MONEY, "greatest": "9600.00"}, []),
        ("trade.gst", MONEY, {**MONEY, "least": "-1.00"}, [ValueAnomaly.RANGE]),
        ("trade.gst", {**MONEY, "least": "0.00", "greatest": "0.00"}, {**MONEY, "greatest": "5.00"}, []),
        ("trade.gst", MONEY, {**MONEY, "distinct": 10}, [ValueAnomaly.DISTINCT]),
        ("trade.gst", MONEY, {**MONEY, "distinct": 400}, [ValueAnomaly.DISTINCT]),
        ("trade.gst", MONEY, {**MONEY, "least": None, "greatest": None, "distinct": None}, []),
        ("trade.trade_date", DAYS, {**DAYS, "least": "0001-01-01"}, [ValueAnomaly.RANGE]),
        ("trade.trade_date", DAYS, {**DAYS, "greatest": "2099-12-31"}, [ValueAnomaly.RANGE]),
        ("trade.trade_date", DAYS, {**DAYS, "least": "2025-03-01", "greatest": "2026-03-16"}, []),
        ("security.name", TEXT, {**TEXT, "longest": 31}, [ValueAnomaly.LENGTH]),
        ("security.name", TEXT, {**TEXT, "longest": 30}, []),
        ("security.name", TEXT, {**TEXT, "shortest": 0}, [ValueAnomaly.LENGTH]),
        ("trade.side", CODES, {**CODES, "codes": {"BUY": 60, "SHORT": 1}}, [ValueAnomaly.NEW_CODE]),
        ("trade.side", CODES, {**CODES, "codes": {"BUY": 60, NO_CODE: 1}}, [ValueAnomaly.NEW_CODE]),
        ("trade.side", CODES, {**CODES, "codes": {"BUY": 100}}, []),
    ],
)  # fmt: skip
def test_value_anomaly_is_reported_and_an_ordinary_day_is_not(
    column: str, was: dict[str, Any], facts: dict[str, Any], expected: list[ValueAnomaly]
) -> None:
    assert jumps(column, now(**facts), usual(**was)) == expected
    assert jumps(column, now(**facts), usual(FEWEST_DATES - 1, **was)) == []  # too few dates


def test_value_anomaly_of_few_rows_is_not_reported() -> None:
    few = now(**{**MONEY, "rows": FEWEST_ROWS - 1, "nulls": 40})
    assert jumps("trade.gst", few, usual(**MONEY)) == []
    assert jumps("trade.gst", now(**{**MONEY, "nulls": 40}), usual(rows=FEWEST_ROWS - 1, **MONEY)) == []


def test_rare_code_of_the_contract_is_only_a_note() -> None:
    kind = "security_movement.movement_type"
    known = sorted(load_contract().vocabularies[kind])
    before = [dated(TODAY, {kind: item}) for item in usual(codes={known[0]: 5})]
    (anomalies,) = value_drift(dated(TODAY, {kind: now(codes={known[0]: 4, known[1]: 1})}), before, column_exports())
    assert anomalies.expected
    assert known[1] in str(anomalies)


def test_value_anomaly_names_the_elements_of_its_column() -> None:
    before = [dated(TODAY, {"trade.gst": item}) for item in usual(**MONEY)]
    (anomalies,) = value_drift(dated(TODAY, {"trade.gst": now(**{**MONEY, "nulls": 90})}), before, column_exports())
    assert "MovementTransaction/Gst" in str(anomalies)
    assert "90.0%, was 5.0% to 9.0%" in str(anomalies)
    unread = [dated(TODAY, {"member.created_at": item}) for item in usual(**DAYS)]
    (anomalies,) = value_drift(
        dated(TODAY, {"member.created_at": now(**{**DAYS, "nulls": 90})}), unread, column_exports()
    )
    assert "no document" in str(anomalies)


def frames(gst: Sequence[str | None]) -> dict[str, pl.DataFrame]:
    return {
        "trade": pl.DataFrame(
            {
                "trade_id": range(len(gst)),
                "gst": [None if row is None else Decimal(row) for row in gst],
                "side": ["BUY"] * (len(gst) - 1) + ["Jane Citizen"],
                "reversed_portfolio_id": [None] * len(gst),  # computed by bigsite
            },
            schema_overrides={"gst": pl.Decimal(18, 2), "reversed_portfolio_id": pl.Int64},
        ),
        "cash_account": pl.DataFrame({"account_number": ["12345678", None]}),
        "security": pl.DataFrame({"code": ["BHP"], "listed_on": [None]}, schema_overrides={"listed_on": pl.Date}),
    }


def test_slices_add_up_and_whole_tables_count_once() -> None:
    result = statistics_of([frames(["1.00", None]), frames(["-3.50", "1.00", "2.00"])])
    assert result["trade.gst"] == ColumnStatistics(rows=5, nulls=1, least="-3.50", greatest="2.00", distinct=3)
    assert result["trade.side"].codes == {"BUY": 3, NO_CODE: 2}
    assert (result["trade.trade_id"].distinct, result["trade.trade_id"].least) == (None, None)
    assert result["security.code"].rows == 1
    assert "trade.reversed_portfolio_id" not in result


def test_statistics_of_many_values_state_their_count_only() -> None:
    many = [str(number) for number in range(MOST_DISTINCT + 500)]
    assert statistics_of([frames(many), frames(["0.01", "0.02"])])["trade.gst"].distinct == MOST_DISTINCT + 1


@pytest.fixture
def bigsite(bigsite_engine: sa.Engine) -> Bigsite:
    bigsite = Bigsite(bigsite_engine)
    bhp = bigsite.security("BHP", {"2023-01-31": "45.105"})
    portfolio = bigsite.portfolio("SW1").consent(history_from="2023-01-01")
    portfolio.deposit("10000.00", on="2022-12-01")
    portfolio.buy(bhp, 100, "45.00", on="2023-01-10")
    portfolio.buy(bhp, 1, "45.00", on=DAY)  # in the date's window
    bigsite.end_of_day(DAY).save()
    return bigsite


def test_statistics_are_kept_once_a_snapshot_without_personal_data(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    snapshot, landed = take(bigsite_engine, local_store)
    kept = keep_statistics(local_store, snapshot)
    assert keep_statistics(local_store, snapshot) == kept
    (key,) = local_store.list("values/")
    text = local_store.read(key).decode()
    for column in load_contract().personal & kept.columns.keys():
        statistics = kept.columns[column]
        assert (statistics.least, statistics.greatest, statistics.distinct, statistics.codes) == (None,) * 4, column
        table, _, name = column.partition(".")
        assert [value for value in landed[table][name].to_list() if isinstance(value, str) and value in text] == []
    assert [day.business_date for day in statistics_before(local_store, DAY + dt.timedelta(days=1), 5)] == [DAY]
    assert statistics_before(local_store, DAY, 5) == []


def checked(runtime: Runtime) -> dg.AssetCheckEvaluation:
    """Run the check of DAY through Dagster."""

    dates = business_date_partitions(FIRST)

    @dg.asset(key=landing_key("portfolio"), partitions_def=dates)
    def landed() -> None:
        """Replace the landing."""

    with preview_features(), dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [landed, values_check(column_exports, dates)],
            instance=instance,
            partition_key=DAY.isoformat(),
            resources={"runtime": runtime},
        )
    (check,) = result.get_asset_check_evaluations()
    return check


def test_value_drift_check_names_column_and_elements(bigsite: Bigsite, tmp_path: Path) -> None:
    url = bigsite.engine.url.render_as_string(hide_password=False)  # type: ignore[union-attr]
    runtime = Runtime(Settings(bigsite_url=url, home=tmp_path, first_business_date=FIRST))
    store = runtime.store
    snapshot, _ = take(bigsite.engine, store)  # type: ignore[arg-type]
    runtime.save_reference(LANDING, DAY, snapshot)
    kept = keep_statistics(store, snapshot)
    for at in range(1, FEWEST_DATES + 1):
        day = DAY - dt.timedelta(days=at)
        other = {**kept.columns, "trade.side": kept.columns["trade.side"].model_copy(update={"codes": {"SELL": 1}})}
        other["cash_transaction.transaction_type"] = ColumnStatistics(rows=1, nulls=0, codes={"FEE": 1})
        store.create(f"values/{day}/s.json", dated(day, other).model_dump_json().encode())

    check = checked(runtime)
    assert (check.passed, "jumps" in check.metadata) == (True, False)  # both codes are the contract's: rare, not new
    assert "trade.side: BUY" in str(check.metadata["rare_codes"].value)

    store.delete(f"values/{DAY}/{snapshot.snapshot_id}.json")
    strange = {**kept.columns, "trade.side": kept.columns["trade.side"].model_copy(update={"codes": {"SHORT": 2}})}
    store.create(
        f"values/{DAY}/{snapshot.snapshot_id}.json",
        ValueStatistics(business_date=DAY, snapshot_id=snapshot.snapshot_id, columns=strange)
        .model_dump_json()
        .encode(),
    )
    check = checked(runtime)
    runtime.close()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    table = str(check.metadata["anomalies"].value)
    assert "SHORT in 2 rows" in table
    assert "MovementTransaction/TransactionType" in table


def test_changed_statistics_record_states_the_remedy(
    bigsite: Bigsite, bigsite_engine: sa.Engine, local_store: ObjectStore
) -> None:
    snapshot, _ = take(bigsite_engine, local_store)
    local_store.put(f"values/{DAY}/{snapshot.snapshot_id}.json", b"{}")
    with pytest.raises(DamagedFileError, match="delete it"):
        keep_statistics(local_store, snapshot)
