"""Guard of the simulation's target: never production, nor a database that might be production.

Two questions, in this order: one before connecting (environment and address), one before writing (what is in there).
A database that is not empty must carry the marker, which a person puts there once; an empty one gets it when seeded.
"""

from __future__ import annotations

import re

import sqlalchemy as sa

from classfeed_dagster.bigsite.create_schema import NotLocalError, require_local
from classfeed_dagster.bigsite.tables import SCHEMA, portfolio
from classfeed_dagster.errors import SafeguardError
from classfeed_dagster.settings import Environment
from classfeed_dagster.simulation.identifiers import ID_BASE

MAX_REAL_PORTFOLIOS = 1000
"""A development or staging database holds no more portfolios than this that are not simulated."""

_PRODUCTION = re.compile(r"(prod|prd|production|live)\d*")

marker_metadata = sa.MetaData(schema="classfeed_simulation")
world_table = sa.Table(
    "world",
    marker_metadata,
    sa.Column("world_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("description", sa.String(400)),
    sa.Column("first_day", sa.Date),
    sa.Column("last_day", sa.Date),
    comment="This database may be written to by simulated customers. Never create it by hand in production.",
)
plan_table = sa.Table(
    "plan",
    marker_metadata,
    sa.Column("world_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("market", sa.String(400)),
    sa.Column("plan", sa.Text),
    comment="What the world in this database is made of, so that anybody can continue it.",
)


class SimulationRefusedError(SafeguardError):
    """Simulated customers must not be written here; nothing was written."""


def require_environment(environment: Environment) -> None:
    """Refuse production by its setting, before there is even an engine: SimulationRefusedError."""
    if environment is Environment.PROD:
        raise SimulationRefusedError("customers are never simulated where CLASSFEED_ENV is prod")


def require_target(engine: sa.Engine, environment: Environment) -> None:
    """Refuse by environment and address, before any connection: SimulationRefusedError.

    Production is refused, and whatever calls itself so in the name of database, host or user. ``local`` takes local
    and test databases only.
    """
    require_environment(environment)
    for kind, name in _names(engine.url):
        if any(_PRODUCTION.fullmatch(word) for word in re.split(r"[^a-z0-9]+", name.lower())):
            raise SimulationRefusedError(
                f"the {kind} is called {name}, which looks like production, so nothing is simulated there. "
                "Point CLASSFEED_BIGSITE_URL at a development, staging or test database."
            )
    if environment is Environment.LOCAL:
        try:
            require_local(engine)
        except NotLocalError as error:
            raise SimulationRefusedError(str(error)) from error


def require_database(connection: sa.Connection, *, max_real_portfolios: int = MAX_REAL_PORTFOLIOS) -> bool:
    """Refuse by what is in the database, before any writing: SimulationRefusedError. True if the marker is there."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(portfolio.name, schema=SCHEMA):
        raise SimulationRefusedError(f"the database has no {SCHEMA}.{portfolio.name}: create bigsite's tables first")
    marked = inspector.has_table(world_table.name, schema=world_table.schema)
    if not marked and connection.execute(sa.select(portfolio.c.portfolio_id).limit(1)).first() is not None:
        raise SimulationRefusedError(
            f"the database holds portfolios but not the marker {world_table.fullname}, so it may be anybody's. If it "
            "is for rehearsals, a person who knows puts the marker there (classfeed_dagster.simulation.guard.mark)."
        )
    few = sa.select(sa.literal(1)).where(portfolio.c.portfolio_id < ID_BASE).limit(max_real_portfolios + 1).subquery()
    real = connection.execute(sa.select(sa.func.count()).select_from(few)).scalar_one()
    if real > max_real_portfolios:
        raise SimulationRefusedError(
            f"the database holds more than {max_real_portfolios} portfolios that are not simulated: it looks like the "
            "real one, whatever it is called."
        )
    return marked


def mark(engine: sa.Engine, environment: Environment) -> None:
    """Put the marker into a database that is for rehearsals: a person's decision, refused where simulation is."""
    require_target(engine, environment)
    with engine.begin() as connection:
        create_marker(connection)


def create_marker(connection: sa.Connection) -> None:
    """Create the marker's table where it is absent."""
    connection.execute(sa.schema.CreateSchema(str(world_table.schema), if_not_exists=True))
    marker_metadata.create_all(connection)


def _names(url: sa.URL) -> list[tuple[str, str]]:
    hosts = url.query.get("host", ())
    stated = [hosts] if isinstance(hosts, str) else list(hosts)
    # A socket's folder is a path on this machine: its words say nothing about the database.
    named = [host for host in [url.host or "", *stated] if host and not host.startswith("/")]
    candidates = [("database", url.database or ""), ("user", url.username or ""), *(("host", host) for host in named)]
    return [(kind, name) for kind, name in candidates if name]
