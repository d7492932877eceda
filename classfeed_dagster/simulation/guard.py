"""Guard of the simulation's target: never production, nor a database that could be production.

It checks environment and address before connecting, and the database's content before writing. A database with data
needs the marker, which a person creates once; an empty one gets it when seeded.
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
"""Most portfolios of a development or staging database that are not simulated."""

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
    comment="Parameters of the world in this database, with which it can be continued.",
)


class SimulationRefusedError(SafeguardError):
    """Simulated customers must not be written here. Nothing was written."""


def require_environment(environment: Environment) -> None:
    """Refuse production by its setting, before there is an engine: SimulationRefusedError."""
    if environment is Environment.PROD:
        raise SimulationRefusedError("Customers are never simulated where CLASSFEED_ENV is prod")


def require_target(engine: sa.Engine, environment: Environment) -> None:
    """Refuse by environment and address, before any connection: SimulationRefusedError.

    Production is refused, and any database, host or user named like it. ``local`` accepts local and test databases
    only.
    """
    require_environment(environment)
    for kind, name in _names(engine.url):
        if any(_PRODUCTION.fullmatch(word) for word in re.split(r"[^a-z0-9]+", name.lower())):
            raise SimulationRefusedError(
                f"The {kind} is called {name}, which looks like production, so nothing is simulated there. "
                "Point CLASSFEED_BIGSITE_URL at a development, staging or test database."
            )
    if environment is Environment.LOCAL:
        try:
            require_local(engine)
        except NotLocalError as error:
            raise SimulationRefusedError(str(error)) from error


def require_database(connection: sa.Connection) -> bool:
    """Refuse by the database's content, before writing: SimulationRefusedError. True if the marker exists."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(portfolio.name, schema=SCHEMA):
        raise SimulationRefusedError(f"The database has no {SCHEMA}.{portfolio.name}: create bigsite's tables first")
    marked = inspector.has_table(world_table.name, schema=world_table.schema)
    if not marked and connection.execute(sa.select(portfolio.c.portfolio_id).limit(1)).first() is not None:
        raise SimulationRefusedError(
            f"The database has portfolios but not the marker {world_table.fullname}, so it may be in real use. If it "
            "is for rehearsals, its owner creates the marker (classfeed_dagster.simulation.guard.mark)."
        )
    few = sa.select(sa.literal(1)).where(portfolio.c.portfolio_id < ID_BASE).limit(MAX_REAL_PORTFOLIOS + 1).subquery()
    real = connection.execute(sa.select(sa.func.count()).select_from(few)).scalar_one()
    if real > MAX_REAL_PORTFOLIOS:
        raise SimulationRefusedError(
            f"The database has more than {MAX_REAL_PORTFOLIOS} portfolios that are not simulated: it looks like the "
            "real one."
        )
    return marked


def mark(engine: sa.Engine, environment: Environment) -> None:
    """Create the marker in a database for rehearsals, on a person's decision; refused where simulation is."""
    require_target(engine, environment)
    with engine.begin() as connection:
        create_marker(connection)


def create_marker(connection: sa.Connection) -> None:
    """Create the marker's table if it is absent."""
    connection.execute(sa.schema.CreateSchema(str(world_table.schema), if_not_exists=True))
    marker_metadata.create_all(connection)


def _names(url: sa.URL) -> list[tuple[str, str]]:
    hosts = url.query.get("host", ())
    stated = [hosts] if isinstance(hosts, str) else list(hosts)
    # A socket's folder is a path on this machine, so its words do not describe the database.
    named = [host for host in [url.host or "", *stated] if host and not host.startswith("/")]
    candidates = [("database", url.database or ""), ("user", url.username or ""), *(("host", host) for host in named)]
    return [(kind, name) for kind, name in candidates if name]
