"""The world of an environment: the one that its bigsite holds, or else the one that its settings describe.

Whoever advances an environment (the daily asset, the command line) goes through here, so that all continue one world.
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
    """Result of advancing an environment: ``written`` are the new days, in order; none if all existed.

    ``summary`` is that of the day asked for, written now or before.
    """

    world: World
    summary: DaySummary
    written: tuple[DaySummary, ...]


def market_of(path: Path | None, seed: int, first_day: dt.date) -> Market:
    """Real prices where a file is given, else an invented market. MarketFileError if the file can't be used."""
    return FileMarket(path, seed=seed, anchor=first_day) if path else InventedMarket(seed, first_day)


def described_world(settings: Settings) -> World:
    """The world that the settings describe; some customers beside those who share never do, and must never appear."""
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
    """The world that bigsite holds, or the described one if it holds none yet. Writes nothing.

    Raises SimulationRefusedError where simulation is forbidden, before connecting; WorldError if the world there was
    made with another market than the settings name.
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
            f"bigsite's customers deal in the market {row.market}, and the settings name {market.name}: set "
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
    """The business date up to which bigsite's customers have lived; None if there are none yet."""
    guard.require_target(engine, settings.env)
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(world_table.name, schema=world_table.schema):
            return None
        found: dt.date | None = connection.execute(sa.select(world_table.c.last_day)).scalar()
        return found


def advance(engine: sa.Engine, settings: Settings, day: dt.date) -> Advance:
    """Let the environment's customers live up to business date ``day``: missing days are caught up in order.

    A database without customers gets them, and their history, first. Running a day twice adds nothing. Raises as
    ``World`` does: SimulationRefusedError in production and for whatever looks like it.
    """
    guard.require_target(engine, settings.env)
    if settings.env is Environment.LOCAL:
        create_schema(engine)
    world = world_in(engine, settings)
    world.seed(engine)
    days = world.catch_up(engine, day)
    return Advance(world, days[-1], tuple(one for one in days if one.written))


def expire(engine: sa.Engine, settings: Settings) -> tuple[dt.date, dict[str, int]]:
    """Delete simulated rows older than the setting keeps them: the first day kept, and rows deleted by table.

    SimulationRefusedError where simulation is forbidden, or where there are no simulated customers.
    """
    last = last_day(engine, settings)
    if last is None:
        raise guard.SimulationRefusedError("bigsite holds no simulated customers, so there is nothing to clean")
    before = last - dt.timedelta(days=settings.simulation_keep_days)
    return before, clean(engine, before, settings.env)
