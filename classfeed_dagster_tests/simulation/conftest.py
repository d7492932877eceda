"""One small world, simulated once for all tests that only look at it, and fresh databases for those that write."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation.day import DaySummary
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.world import World
from classfeed_dagster.trading_days import business_days_between
from classfeed_dagster_tests.conftest import fresh_bigsite

FIRST = dt.date(2023, 1, 3)
SEED = 7


def small_world(portfolios: int = 30, consented: int = 24, **more: object) -> World:
    """A world of the shared seed and market; ``more`` as World takes it."""
    options: dict[str, object] = {
        "first_day": FIRST, "history_days": 12, "environment": Environment.LOCAL, **more
    }  # fmt: skip
    return World(SEED, InventedMarket(SEED, FIRST), consented=consented, portfolios=portfolios, **options)  # type: ignore[arg-type]


def days(count: int) -> list[dt.date]:
    """The first ``count`` business days of the world."""
    return list(business_days_between(FIRST, dt.date(2026, 1, 1)))[:count]


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
    with fresh_bigsite(postgres_url) as engine:
        world = small_world(110, 80)
        world.seed(engine)
        yield Simulated(world, engine, [world.advance(engine, day) for day in days(30)])


@pytest.fixture
def another_bigsite(postgres_url: str) -> Iterator[sa.Engine]:
    """A second fresh database."""
    with fresh_bigsite(postgres_url) as engine:
        yield engine
