"""Session settings of every connection to bigsite. They override the defaults of database and role."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

STATEMENT_TIMEOUT = "2h"
LOCK_TIMEOUT = "5min"
# COPY's text and the driver's parsers depend on the first four.
SETTINGS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "search_path": "bigsite, public",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": LOCK_TIMEOUT,
    "row_security": "off",  # a policy that would hide rows is an error
}


def configure_sessions(engine: sa.Engine, statement_timeout: str = STATEMENT_TIMEOUT) -> sa.Engine:
    """Apply SETTINGS to each new connection of a PostgreSQL engine and return the engine."""
    if engine.dialect.name != "postgresql":
        return engine
    settings = {**SETTINGS, "statement_timeout": statement_timeout}
    statement = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())

    @sa.event.listens_for(engine, "connect")
    def apply(connection: Any, _: object) -> None:
        # A timeout of a few milliseconds, set as the database's default, must not stop the statement that lifts it.
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(statement)
        connection.commit()
        if engine.dialect.driver == "psycopg":
            _bound_dates(connection)

    @sa.event.listens_for(engine, "checkout")
    def reset_access(connection: Any, *_: object) -> None:
        # SQLAlchemy leaves READ WRITE behind a read-only transaction, and a read replica refuses to begin that.
        engine.dialect.set_readonly(connection, None)  # type: ignore[attr-defined]  # a PostgreSQL dialect's

    return engine


def _bound_dates(connection: Any) -> None:
    """Let psycopg return the nearest date or instant of Python in place of one that it cannot hold.

    One infinite date, or one beyond the year 9999, would otherwise end a statement about every portfolio.
    """
    from psycopg import DataError
    from psycopg.types.datetime import DateLoader, TimestamptzLoader

    def bounded(loader: Any, least: dt.date, greatest: dt.date) -> Any:
        class Bounded(loader):  # type: ignore[misc]  # a loader of the driver
            def load(self, data: Any) -> dt.date:
                try:
                    loaded: dt.date = super().load(data)
                except DataError:
                    text = bytes(data)
                    return least if text.startswith(b"-") or text.endswith(b"BC") else greatest
                return loaded

        return Bounded

    first, last = dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)
    connection.adapters.register_loader("date", bounded(DateLoader, dt.date.min, dt.date.max))
    connection.adapters.register_loader("timestamptz", bounded(TimestamptzLoader, first, last))
