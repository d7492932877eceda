"""Simulated rows never reach a database that may be real, and leave again without touching a real row."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import metadata, portfolio
from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.guard import SimulationRefusedError
from classfeed_dagster.simulation.identifiers import ID_BASE
from classfeed_dagster.simulation.retention import clean, remove
from classfeed_dagster.simulation.world import World
from classfeed_dagster_tests.fixtures.simulated_world import FIRST, days, small_world

UNREACHABLE = "postgresql+psycopg://someone@db.invalid:1/bigsite"


def add_real_portfolios(engine: sa.Engine, count: int) -> None:
    opened = {"status": "ACTIVE", "opened_on": FIRST, "updated_at": dt.datetime(2023, 1, 3, tzinfo=dt.UTC)}
    rows = [
        {
            "portfolio_id": n,
            "portfolio_number": f"SW{n:08d}",
            "portfolio_name": "Real",
            "entity_type": "TRUST",
            **opened,
        }
        for n in range(1, count + 1)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(portfolio), rows)


def row_counts(engine: sa.Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }


def test_production_is_refused_before_connecting() -> None:
    world = small_world(environment=Environment.PROD)
    engine = sa.create_engine(UNREACHABLE)
    with pytest.raises(SimulationRefusedError, match="CLASSFEED_ENV"):
        world.seed(engine)
    with pytest.raises(SimulationRefusedError, match="CLASSFEED_ENV"):
        world.advance(engine, FIRST)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://someone@db.invalid/bigsite_prod",
        "postgresql+psycopg://someone@db.invalid/PRODUCTION",
        "postgresql+psycopg://someone@bigsite-prd1.invalid/bigsite",
        "postgresql+psycopg://prod_writer@db.invalid/bigsite",
        "postgresql+psycopg:///bigsite?host=live.db.invalid",
        "postgresql+psycopg:///bigsite?host=one.invalid&host=prod.invalid",
    ],
)
@pytest.mark.parametrize("environment", [Environment.LOCAL, Environment.DEV, Environment.STG])
def test_production_like_url_is_refused_before_connecting(url: str, environment: Environment) -> None:
    with pytest.raises(SimulationRefusedError, match="looks like production"):
        small_world(environment=environment).seed(sa.create_engine(url))


def test_local_environment_accepts_a_local_database_only() -> None:
    with pytest.raises(SimulationRefusedError, match="neither local nor for tests"):
        guard.require_target(sa.create_engine(UNREACHABLE), Environment.LOCAL)
    guard.require_target(sa.create_engine(UNREACHABLE), Environment.STG)
    guard.require_target(sa.create_engine("postgresql+psycopg:///products_test?host=/home/prod/run"), Environment.LOCAL)


def test_database_that_is_not_empty_needs_the_marker(bigsite_engine: sa.Engine) -> None:
    add_real_portfolios(bigsite_engine, 3)
    world = small_world()
    with pytest.raises(SimulationRefusedError, match="marker"):
        world.seed(bigsite_engine)
    assert row_counts(bigsite_engine)["member"] == 0
    with pytest.raises(SimulationRefusedError, match="CLASSFEED_ENV"):
        guard.mark(bigsite_engine, Environment.PROD)
    guard.mark(bigsite_engine, Environment.DEV)
    world.seed(bigsite_engine)
    assert row_counts(bigsite_engine)["portfolio"] > 3


def test_database_with_many_portfolios_is_refused_despite_its_marker(bigsite_engine: sa.Engine) -> None:
    guard.mark(bigsite_engine, Environment.DEV)
    add_real_portfolios(bigsite_engine, guard.MAX_REAL_PORTFOLIOS + 1)
    with pytest.raises(SimulationRefusedError, match="looks like the real one"):
        small_world().seed(bigsite_engine)
    assert row_counts(bigsite_engine)["security"] == 0


def test_database_without_bigsite_is_refused(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    with pytest.raises(SimulationRefusedError, match="create bigsite's tables"):
        small_world(environment=Environment.DEV).seed(engine)
    engine.dispose()


def test_old_rows_and_closed_portfolios_expire(bigsite_engine: sa.Engine) -> None:
    world = small_world(12, 10)
    world.seed(bigsite_engine)
    guard.mark(bigsite_engine, Environment.LOCAL)  # again: harmless
    add_real_portfolios(bigsite_engine, 2)
    world.catch_up(bigsite_engine, days(120)[-1])
    before = row_counts(bigsite_engine)
    limit = dt.date(2023, 3, 20)
    deleted = clean(bigsite_engine, limit, Environment.LOCAL)
    after = row_counts(bigsite_engine)
    assert deleted["portfolio"] == 1
    assert all(before[table] - count == after[table] for table, count in deleted.items())
    with bigsite_engine.connect() as connection:
        left = connection.execute(
            sa.text("""
            SELECT (SELECT min(as_at_date) FROM bigsite.holding_eod),
                   (SELECT min(as_at_date) FROM bigsite.cash_balance_eod),
                   (SELECT count(DISTINCT security_id) FROM bigsite.security_price),
                   (SELECT count(*) FROM bigsite.portfolio WHERE portfolio_id < :base)"""),
            {"base": ID_BASE},
        ).one()
    assert left[0] >= limit
    assert left[1] >= limit
    assert left[2] == len(world._market.securities())
    assert left[3] == 2
    assert world.advance(bigsite_engine, days(121)[-1]).written  # and the simulation continues
    with pytest.raises(ValueError, match="90 days"):
        clean(bigsite_engine, days(120)[-1], Environment.LOCAL)


def test_removed_world_leaves_no_trace(bigsite_engine: sa.Engine) -> None:
    guard.mark(bigsite_engine, Environment.LOCAL)
    add_real_portfolios(bigsite_engine, 2)
    first, second = small_world(5, 4), small_world(6, 4)
    first.seed(bigsite_engine)
    remove(bigsite_engine, Environment.LOCAL)
    left = {name: count for name, count in row_counts(bigsite_engine).items() if count}
    assert left.pop("fx_rate") > 0
    assert left == {"portfolio": 2}
    second.seed(bigsite_engine)
    assert isinstance(second, World)


def test_cleaning_without_a_world_is_refused(bigsite_engine: sa.Engine) -> None:
    for marked in (False, True):
        if marked:
            guard.mark(bigsite_engine, Environment.LOCAL)
        with pytest.raises(SimulationRefusedError, match="no simulated world"):
            remove(bigsite_engine, Environment.LOCAL)
        with pytest.raises(SimulationRefusedError, match="no simulated world"):
            clean(bigsite_engine, FIRST, Environment.LOCAL)
