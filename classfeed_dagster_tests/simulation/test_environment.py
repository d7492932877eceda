"""The world of an environment: seeded by the settings, continued by any process, refused in production."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite.tables import portfolio
from classfeed_dagster.orchestration.asset_keys import SIMULATED_CUSTOMERS
from classfeed_dagster.orchestration.definitions import business_date_partitions, simulation_definitions
from classfeed_dagster.orchestration.jobs import CLEANING_JOB, SIMULATION_JOB
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.simulation.environment import advance, described_world, expire, last_day, world_in
from classfeed_dagster.simulation.guard import SimulationRefusedError, mark, marker_metadata
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.retention import remove
from classfeed_dagster.simulation.world import World, WorldError
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, days

UNREACHABLE = "postgresql+psycopg://someone@db.invalid:1/bigsite"
NIGHT_OF_FRIDAY = dt.datetime(2023, 1, 7, 3, 30, tzinfo=trading_days.SYDNEY)


def settings_of(engine: sa.Engine, tmp_path: Path, **more: Any) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings(bigsite_url=url, home=tmp_path, first_business_date=FIRST, simulation_portfolios=12, **more)


def portfolios(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(portfolio)).scalar_one()


def test_simulation_seeds_an_empty_database_and_catches_up(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    settings = settings_of(bigsite_engine, tmp_path)
    assert last_day(bigsite_engine, settings) is None
    third = days(3)[-1]
    result = advance(bigsite_engine, settings, third)
    assert [item.day for item in result.written] == days(3)
    assert result.summary.day == last_day(bigsite_engine, settings) == third
    assert portfolios(bigsite_engine) == 13  # one never shares
    assert advance(bigsite_engine, settings, third).written == ()


def test_second_process_continues_the_stored_world(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    first, second = days(2)
    World(
        5, InventedMarket(5, FIRST), consented=9, portfolios=10, first_day=FIRST, history_days=8,
        environment=Environment.LOCAL,
    ).seed(bigsite_engine)  # fmt: skip
    settings = settings_of(bigsite_engine, tmp_path)
    advance(bigsite_engine, settings, first)
    result = advance(bigsite_engine, settings, second)
    assert [item.day for item in result.written] == [second]
    assert (result.world.plan.seed, result.world.plan.portfolios, result.world.plan.history) == (5, 10, 8)


def test_market_other_than_the_worlds_own_is_refused(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    settings = settings_of(bigsite_engine, tmp_path)
    advance(bigsite_engine, settings, FIRST)
    prices = tmp_path / "prices.parquet"
    dates = [day.isoformat() for day in trading_days.business_days_between(dt.date(2022, 10, 3), dt.date(2023, 2, 1))]
    frame = {"code": ["BHP"] * len(dates), "date": dates, "close": ["45.10"] * len(dates), "volume": ["1"] * len(dates)}
    pl.DataFrame(frame).write_parquet(prices)
    with pytest.raises(WorldError, match="CLASSFEED_SIMULATION_MARKET"):
        world_in(bigsite_engine, settings.model_copy(update={"simulation_market": prices}))


def test_removed_world_lets_the_settings_decide(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    settings = settings_of(bigsite_engine, tmp_path)
    advance(bigsite_engine, settings, FIRST)
    remove(bigsite_engine, settings.env)
    other = settings.model_copy(update={"simulation_seed": 9})
    assert world_in(bigsite_engine, other).fingerprint == described_world(other).fingerprint
    assert last_day(bigsite_engine, other) is None
    assert advance(bigsite_engine, other, FIRST).world.plan.seed == 9


def test_production_is_refused_before_connecting(tmp_path: Path) -> None:
    settings = Settings(env="prod", home=tmp_path, store_url=str(tmp_path / "store"), first_business_date=FIRST)
    engine = sa.create_engine(UNREACHABLE)
    for refused in (
        lambda: advance(engine, settings, FIRST), lambda: last_day(engine, settings), lambda: expire(engine, settings),
        lambda: world_in(engine, settings),
    ):  # fmt: skip
        with pytest.raises(SimulationRefusedError, match="CLASSFEED_ENV"):
            refused()


def test_cleaning_keeps_the_days_of_the_setting_and_needs_customers(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    settings = settings_of(bigsite_engine, tmp_path)
    mark(bigsite_engine, settings.env)
    with pytest.raises(SimulationRefusedError, match="no simulated customers"):
        expire(bigsite_engine, settings)
    advance(bigsite_engine, settings, days(2)[-1])
    before, deleted = expire(bigsite_engine, settings.model_copy(update={"simulation_keep_days": 90}))
    assert before == days(2)[-1] - dt.timedelta(days=90)
    assert sum(deleted.values()) == 0


# -- in Dagster -------------------------------------------------------------------------------------------------------


def definitions(settings: Settings) -> dg.Definitions:
    return dg.Definitions.merge(
        simulation_definitions(settings, business_date_partitions(FIRST)),
        dg.Definitions(resources={"runtime": Runtime(settings)}),
    )


def test_daily_asset_shows_activity_and_a_second_run_writes_nothing(bigsite_engine: sa.Engine, tmp_path: Path) -> None:
    settings = settings_of(bigsite_engine, tmp_path)
    defs, second = definitions(settings), days(2)[-1]
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def(SIMULATION_JOB)
        output: list[dict[str, Any]] = []
        for _ in range(2):
            result = job.execute_in_process(instance=instance, partition_key=second.isoformat())
            (event,) = result.get_asset_materialization_events()
            assert event.asset_key == SIMULATED_CUSTOMERS
            metadata = event.step_materialization_data.materialization.metadata
            output.append({name: value.value for name, value in metadata.items()})
        cleaned = defs.resolve_job_def(CLEANING_JOB).execute_in_process(instance=instance)
    first, again = output
    assert first["days_written"] == 2
    assert first["rows_written"] > 0
    assert first["sharing_with_class"] >= 10
    assert "![trades a day](data:image/svg+xml;base64," in first["plot"]
    assert "buys" in first["customer_actions"]
    assert (again["days_written"], again["rows_written"]) == (0, 0)
    assert again["plot"] == first["plot"]
    (event,) = cleaned.get_asset_materialization_events()
    assert event.step_materialization_data.materialization.metadata["rows_deleted"].value == 0


def test_production_has_no_simulation() -> None:
    defs = simulation_definitions(
        Settings(env="prod", store_url="s3://bucket", first_business_date=FIRST), business_date_partitions(FIRST)
    )
    assert not list(defs.assets or [])
    assert not list(defs.schedules or [])


@pytest.mark.parametrize(
    ("env", "status"), [("stg", dg.DefaultScheduleStatus.RUNNING), ("local", dg.DefaultScheduleStatus.STOPPED)]
)
def test_simulation_schedules_are_on_in_unattended_environments(
    env: str, status: dg.DefaultScheduleStatus, tmp_path: Path
) -> None:
    defs = definitions(Settings(env=env, home=tmp_path, store_url=str(tmp_path / "store"), first_business_date=FIRST))
    for name in ("simulation_nightly", "simulation_cleaning_weekly"):
        assert defs.resolve_schedule_def(name).default_status is status


@pytest.mark.parametrize(
    ("night", "asked"),
    [
        (NIGHT_OF_FRIDAY, "2023-01-06"),
        (NIGHT_OF_FRIDAY + dt.timedelta(days=1), "not an ASX business day"),
        (NIGHT_OF_FRIDAY + dt.timedelta(days=3), "2023-01-09"),
        (dt.datetime(2022, 12, 30, 3, 30, tzinfo=trading_days.SYDNEY), "before the first business date"),
    ],
)
def test_night_schedule_runs_the_business_day_before(night: dt.datetime, asked: str, tmp_path: Path) -> None:
    defs = definitions(Settings(home=tmp_path, first_business_date=FIRST))
    with dg.DagsterInstance.ephemeral() as instance:
        schedule = defs.resolve_schedule_def("simulation_nightly")
        result = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance, scheduled_execution_time=night, repository_def=defs.get_repository_def()
            )
        )
    if result.skip_message:
        assert asked in result.skip_message
    else:
        (request,) = result.run_requests or ()
        assert (request.partition_key, request.run_key) == (asked, f"simulation-{asked}")
        assert asked in business_date_partitions(FIRST).get_partition_keys(current_time=night)


def test_marker_holds_no_secret() -> None:
    assert {table.name for table in marker_metadata.sorted_tables} == {"plan", "world"}
