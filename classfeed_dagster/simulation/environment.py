"""The simulated world of an environment: the one in its bigsite, or otherwise the one that its settings describe.

The daily asset and the command line both advance an environment through this module, so that they continue one world.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.bigsite.create_schema import create_schema
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.day import DaySummary
from classfeed_dagster.simulation.file_market import FileMarket
from classfeed_dagster.simulation.guard import plan_table, world_table
from classfeed_dagster.simulation.invented_market import InventedMarket
from classfeed_dagster.simulation.market import Market
from classfeed_dagster.simulation.retention import clean
from classfeed_dagster.simulation.world import PLANS, World, WorldError


@dataclass(frozen=True, slots=True)
class Advance:
    """Result of advancing an environment. ``written``: the new days, in order; empty if all existed.

    ``summary``: of the requested day, written now or before.
    """

    world: World
    summary: DaySummary
    written: tuple[DaySummary, ...]


def market_of(path: Path | None, seed: int, first_day: dt.date) -> Market:
    """Return real prices from a file if given, otherwise an invented market. MarketFileError for an unusable file."""
    return FileMarket(path, seed=seed, anchor=first_day) if path else InventedMarket(seed, first_day)


def described_world(settings: Settings) -> World:
    """Return the world that the settings describe. Some of its customers never share and must never appear."""
    first, seed, sharing = settings.first_business_date, settings.simulation_seed, settings.simulation_portfolios
    return World(
        seed,
        market_of(settings.simulation_market, seed, first),
        consented=sharing,
        portfolios=sharing + max(1, sharing // 10),
        first_day=first,
        environment=settings.env,
    )


def world_in(engine: sa.Engine, settings: Settings) -> World:
    """Return the world in bigsite, or the described one if there is none yet. Writes nothing.

    Raises SimulationRefusedError where simulation is forbidden, before connecting; WorldError if the world uses another
    market than the settings.
    """
    guard.require_target(engine, settings.env)
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(plan_table.name, schema=plan_table.schema):
            return described_world(settings)
        row = connection.execute(sa.select(plan_table.c.market, plan_table.c.plan)).first()
    if row is None:
        return described_world(settings)
    plan = PLANS.validate_json(row.plan)
    market = market_of(settings.simulation_market, plan.seed, plan.first_day)
    if market.name != row.market:
        raise WorldError(
            f"bigsite's simulated customers use the market {row.market}, but the settings name {market.name}: set "
            "CLASSFEED_SIMULATION_MARKET to that market's file (unset it for the invented one)"
        )
    return World(
        plan.seed,
        market,
        consented=plan.consented,
        portfolios=plan.portfolios,
        first_day=plan.first_day,
        history_days=plan.history,
        faults=plan.faults,
        environment=settings.env,
    )


def last_day(engine: sa.Engine, settings: Settings) -> dt.date | None:
    """Return the last simulated business date in bigsite; None if there are no customers yet."""
    guard.require_target(engine, settings.env)
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(world_table.name, schema=world_table.schema):
            return None
        day: dt.date | None = connection.execute(sa.select(world_table.c.last_day)).scalar()
        return day


def advance(engine: sa.Engine, settings: Settings, day: dt.date) -> Advance:
    """Simulate the environment's customers up to business date ``day``; missing days are added in order.

    A database without customers gets them and their history first. A repeated day adds nothing. Raises as ``World``:
    SimulationRefusedError in production and in anything that resembles it.
    """
    guard.require_target(engine, settings.env)
    if settings.env is Environment.LOCAL:
        create_schema(engine)
    world = world_in(engine, settings)
    world.seed(engine)
    days = world.catch_up(engine, day)
    return Advance(world, days[-1], tuple(summary for summary in days if summary.written))


def expire(engine: sa.Engine, settings: Settings) -> tuple[dt.date, dict[str, int]]:
    """Delete simulated rows older than the setting; return the first day kept, and the deleted rows by table.

    SimulationRefusedError where simulation is forbidden, or where there are no simulated customers.
    """
    last = last_day(engine, settings)
    if last is None:
        raise guard.SimulationRefusedError("bigsite has no simulated customers, so there is nothing to delete")
    before = last - dt.timedelta(days=settings.simulation_keep_days)
    return before, clean(engine, before, settings.env)
