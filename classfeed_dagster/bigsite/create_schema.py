"""Creation of bigsite's tables in local and test databases, never in another team's database."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.errors import SafeguardError

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class NotLocalError(SafeguardError):
    """The database is not local or a test database, so the project may not write to it."""


def require_local(engine: sa.Engine, *, allowed: Collection[str] = ()) -> None:
    """Raise NotLocalError for any database that is not local or for tests.

    Local means a database on this machine whose name ends in ``_test`` or is in ``allowed``, or ``bigsite`` over a unix
    socket, which is the embedded one. ``localhost`` could be a tunnel to the real bigsite.
    """
    url = engine.url
    hosts = _hosts(url)
    socket = url.get_backend_name() == "postgresql" and bool(hosts) and all(host.startswith("/") for host in hosts)
    here = socket or (bool(hosts) and all(host in _LOCAL_HOSTS for host in hosts))
    name = url.database or ""
    if here and (name.endswith("_test") or name in allowed or (socket and name == SCHEMA)):
        return
    raise NotLocalError(
        f"The database {name or '(unnamed)'} is neither local nor for tests, so nothing is written to it. "
        "Use the embedded database, or one on this machine whose name ends in _test."
    )


def create_schema(engine: sa.Engine) -> None:
    """Create bigsite's schema and missing tables. NotLocalError as in ``require_local``."""
    require_local(engine)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        metadata.create_all(connection)


def _hosts(url: sa.URL) -> list[str]:
    # psycopg takes hosts from the URL's authority or, several times, from its query. No host at all does not prove a
    # local database: the environment (PGHOST) could name any server.
    query = url.query.get("host", ())
    listed = [query] if isinstance(query, str) else list(query)
    return [host for text in [url.host or "", *listed] for host in text.split(",") if host]
