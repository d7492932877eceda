"""Privileges of the warehouse's role, asked without writing."""

from __future__ import annotations

from collections.abc import Iterator

from classfeed_dagster.warehouse.columns import warehouse_tables
from classfeed_dagster.warehouse.database import Connection, query
from classfeed_dagster.warehouse.schema import stored_table

CREATED = ("STAGE", "TABLE", "VIEW")  # kinds of objects that migrations and loads create
_TABLES = """SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES
WHERE TABLE_SCHEMA = CURRENT_SCHEMA() AND TABLE_TYPE = 'BASE TABLE' ORDER BY TABLE_NAME"""
# Columns of SHOW GRANTS: created_on, privilege, granted_on, name, …
_PRIVILEGE, _KIND, _NAME = 1, 2, 3
# Either lets the role read ACCOUNT_USAGE, where the credits of a date are.
_CREDITS = (("USAGE", "DATABASE_ROLE", "SNOWFLAKE.USAGE_VIEWER"), ("USAGE", "DATABASE", "SNOWFLAKE"))
_ROLES = {"ROLE": "ROLE", "DATABASE_ROLE": "DATABASE ROLE"}  # granted_on, and its words in SHOW GRANTS


def missing_privileges(connection: Connection) -> list[str]:
    """Return the privileges that migrations, loads and the costs of a date need and the current role lacks.

    In the current schema it must create each kind of object, and own the tables that exist. Only the primary role
    creates objects, so secondary roles do not count; the roles granted to it, and the owner of the schema, do.
    """
    ((role, database, schema),) = query(connection, "SELECT CURRENT_ROLE(), CURRENT_DATABASE(), CURRENT_SCHEMA()")
    granted = set(_grants(connection, str(role)))
    place = f"{database}.{schema}"
    needed = [(f"CREATE {kind}", "SCHEMA", place) for kind in CREATED if ("OWNERSHIP", "SCHEMA", place) not in granted]
    ours = {"SCHEMA_VERSION", *map(stored_table, warehouse_tables())}
    needed += [("OWNERSHIP", "TABLE", f"{place}.{table}") for (table,) in query(connection, _TABLES) if table in ours]
    needed += _CREDITS[:1] if granted.isdisjoint(_CREDITS) else ()
    return [
        f"{privilege} ON {kind} {name}" for privilege, kind, name in needed if (privilege, kind, name) not in granted
    ]


def _grants(connection: Connection, role: str) -> Iterator[tuple[str, str, str]]:
    """Yield privilege, kind and name of everything granted to a role, or to a role that was granted to it."""
    waiting, seen = [("ROLE", role), ("ROLE", "PUBLIC")], set[tuple[str, str]]()
    while waiting:
        grantee = waiting.pop()
        if grantee in seen:
            continue
        seen.add(grantee)
        kind, name = grantee
        quoted = ".".join(f'"{part}"' for part in name.split("."))
        for row in query(connection, f"SHOW GRANTS TO {_ROLES[kind]} {quoted}"):
            # Snowflake quotes the names that need it.
            privilege, on, granted = (str(row[column]).replace('"', "") for column in (_PRIVILEGE, _KIND, _NAME))
            if privilege == "USAGE" and on in _ROLES and not granted.startswith("SNOWFLAKE."):
                waiting.append((on, granted))
            yield privilege, on, granted
