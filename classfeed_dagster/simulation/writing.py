"""Bulk writing of simulated rows into bigsite: COPY for added rows, statements for the few changed ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from classfeed_dagster.bigsite.tables import SCHEMA, fx_rate, metadata
from classfeed_dagster.simulation.booking import DayRows, Row

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def write(connection: sa.Connection, rows: DayRows) -> int:
    """Write one day's rows within the caller's transaction, and return the number added. PostgreSQL only."""
    for name, keys in rows.removed.items():
        if keys:
            connection.execute(_delete(name, len(keys[0])), [_bound(key) for key in keys])
    count = 0
    for table in metadata.sorted_tables:
        added = rows.added.get(table.name)
        if added and table is fx_rate:
            # The only table without its own key: an existing rate stays.
            names = [column.name for column in table.columns]
            absent = postgresql.insert(table).on_conflict_do_nothing()
            connection.execute(absent, [dict(zip(names, row, strict=True)) for row in added])
        elif added:
            copy_rows(connection, table, added)
        if added:
            count += len(added)
    for update in rows.updates:
        table = metadata.tables[f"{SCHEMA}.{update.table}"]
        matches = [table.c[name] == value for name, value in update.key.items()]
        connection.execute(sa.update(table).where(*matches).values(**update.values))
    return count


def copy_rows(connection: sa.Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    """COPY ``rows``, with the table's columns in order, into ``table``."""
    columns = ", ".join(column.name for column in table.columns)
    driver = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {SCHEMA}.{table.name} ({columns}) FROM STDIN") as copy:  # type: ignore[union-attr]
        copy.write("".join("\t".join(map(_text, row)) + "\n" for row in rows))


def _delete(name: str, parts: int) -> sa.Delete:
    table = metadata.tables[f"{SCHEMA}.{name}"]
    keys = list(table.primary_key.columns)[:parts]
    return sa.delete(table).where(*(column == sa.bindparam(f"key{at}") for at, column in enumerate(keys)))


def _bound(key: tuple[Any, ...]) -> dict[str, Any]:
    return {f"key{at}": part for at, part in enumerate(key)}


def _text(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    return str(value)
