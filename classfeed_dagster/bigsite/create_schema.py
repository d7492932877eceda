"""bigsite's tables made by us: for local and test databases only, never for a database of another team."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from classfeed_dagster.bigsite.tables import SCHEMA, metadata
from classfeed_dagster.errors import SafeguardError

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class NotLocalError(SafeguardError):
    """The database is not one that this project may write to."""


def require_local(engine: sa.Engine, *, allowed: Collection[str] = ()) -> None:
    """Refuse any database that is not local or test: NotLocalError.

    Local means: this machine, and a database whose name ends in ``_test`` or is in ``allowed``; or ``bigsite`` over
    a unix socket, which is the embedded one (``localhost`` could be a tunnel to the real bigsite).
    """
    url = engine.url
    hosts = _hosts(url)
    socket = url.get_backend_name() == "postgresql" and bool(hosts) and all(host.startswith("/") for host in hosts)
    here = socket or (bool(hosts) and all(host in _LOCAL_HOSTS for host in hosts))
    name = url.database or ""
    if here and (name.endswith("_test") or name in allowed or (socket and name == SCHEMA)):
        return
    raise NotLocalError(
        f"the database {name or '(unnamed)'} is not known to be local or for tests, so nothing is written to it. "
        "Use the embedded database, or one on this machine whose name ends in _test."
    )


def create_schema(engine: sa.Engine, *, allowed: Collection[str] = ()) -> None:
    """Create bigsite's schema and tables where they are absent; NotLocalError as ``require_local`` says."""
    require_local(engine, allowed=allowed)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        metadata.create_all(connection)


def _hosts(url: sa.URL) -> list[str]:
    # psycopg takes the host from the URL's authority or from its query, where it may stand several times. None
    # at all is no proof of being local: the environment (PGHOST) could name any server.
    stated = url.query.get("host", ())
    listed = [stated] if isinstance(stated, str) else list(stated)
    return [host for text in [url.host or "", *listed] for host in text.split(",") if host]
