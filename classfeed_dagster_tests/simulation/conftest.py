"""One small world, simulated once for all tests that only look at it, and fresh databases for those that write."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation.day import DaySummary
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.world import World
from classfeed_dagster.trading_days import business_days_between

FIRST = dt.date(2023, 1, 3)
SEED = 7
_numbers = itertools.count()


def small_world(portfolios: int = 30, consented: int = 24, **more: object) -> World:
    """A world of the shared seed and market; ``more`` as World takes it."""
    options: dict[str, object] = {
        "first_day": FIRST, "history_days": 12, "environment": Environment.LOCAL, **more
    }  # fmt: skip
    return World(SEED, InventedMarket(SEED, FIRST), consented=consented, portfolios=portfolios, **options)  # type: ignore[arg-type]


def days(count: int) -> list[dt.date]:
    """The first ``count`` business days of the world."""
    return list(business_days_between(FIRST, dt.date(2026, 1, 1)))[:count]


def fresh_database(postgres_url: str) -> Iterator[sa.Engine]:
    name = f"simulated_{os.getpid()}_{next(_numbers)}_test"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    engine = sa.create_engine(sa.make_url(postgres_url).set(database=name))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
    try:
        yield engine
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        admin.dispose()


@dataclass
class Simulated:
    """A world and the database it was written to, one summary a day."""

    world: World
    engine: sa.Engine
    summaries: list[DaySummary] = field(default_factory=list)

    @property
    def days(self) -> list[dt.date]:
        return [summary.day for summary in self.summaries]

    def query(self, sql: str, **parameters: object) -> list[sa.Row[tuple[object, ...]]]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(sql), parameters).all())


@pytest.fixture(scope="module")
def simulated(postgres_url: str) -> Iterator[Simulated]:
    """110 portfolios, 80 of them consented, 30 business days, written day by day."""
    for engine in fresh_database(postgres_url):
        world = small_world(110, 80)
        world.seed(engine)
        yield Simulated(world, engine, [world.advance(engine, day) for day in days(30)])


@pytest.fixture
def empty_bigsite(postgres_url: str) -> Iterator[sa.Engine]:
    """A fresh database with bigsite's tables, without rows."""
    yield from fresh_database(postgres_url)


@pytest.fixture
def another_bigsite(postgres_url: str) -> Iterator[sa.Engine]:
    """A second fresh database."""
    yield from fresh_database(postgres_url)
