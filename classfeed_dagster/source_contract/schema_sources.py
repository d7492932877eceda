"""Another environment's bigsite schema for a comparison: from a live database, a history or a stored file."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.postgres_session import configure_sessions
from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import Schema, SchemaUnreadableError
from classfeed_dagster.source_contract.schema_history import NoSchemaKeptError, days_kept, schema_on
from classfeed_dagster.store import open_store


def schema_there(where: str, *, s3_endpoint_url: str | None = None) -> tuple[str, Schema]:
    """Return the schema of another environment and its display name, without a password.

    ``where``: a database's SQLAlchemy URL (read only), an object store (a folder or ``s3://``) whose last stored
    schema is used, or a stored schema's file. SchemaUnreadableError or NoSchemaKeptError if there is none.
    """
    path = Path(where)
    if path.is_file():
        return path.name, Schema.from_json(path.read_bytes())
    if where.startswith("s3://") or path.is_dir():
        store = open_store(where, s3_endpoint_url=s3_endpoint_url)
        kept = days_kept(store)
        if not kept:
            raise NoSchemaKeptError(f"{where} has no stored schema of bigsite: materialize bigsite/schema there first")
        day, schema = schema_on(store, kept[-1])
        return f"{where} of {day.isoformat()}", schema
    try:
        url = sa.make_url(where)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise SchemaUnreadableError("--with is neither a file, a folder, an s3:// address nor a database URL") from None
    engine = configure_sessions(sa.create_engine(url))
    try:
        return url.render_as_string(hide_password=True), live_schema(engine)
    except sa.exc.OperationalError as error:
        shown = url.render_as_string(hide_password=True)
        raise SchemaUnreadableError(f"{shown} cannot be reached ({type(error.orig).__name__})") from None
    finally:
        engine.dispose()
