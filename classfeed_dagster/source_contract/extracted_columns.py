"""Columns of bigsite that the feeds read, derived from the SQL itself so that the two cannot diverge.

A change to a column that no query reads is a note; a change to one that is read may stop a delivery.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import cache

from classfeed_dagster.bigsite import consent, queries
from classfeed_dagster.bigsite.tables import SCHEMA, metadata

_SCOPE = re.compile(r"(?=\bSELECT\b)")
_RELATION = re.compile(
    rf"\b(?:FROM|JOIN)\s+(?:({SCHEMA})\.)?(\w+)(?:\s+(?!(?:WHERE|JOIN|LEFT|FULL|ORDER|GROUP|ON)\b)(?:AS\s+)?(\w+))?"
)
_THREE_PARTS = re.compile(rf"\b{SCHEMA}\.(\w+)\.(?=\w)")
_QUALIFIED = re.compile(r"\b(\w+)\.(\w+)\b")
_BARE = re.compile(r"(?<![.\w])([a-z_]+)\b(?!\s*[.(])")


@cache
def columns_read() -> frozenset[str]:
    """Return every ``table.column`` that the snapshot and the consent query read, keys and conditions included."""
    any_time = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    consents = consent.consent_query([""], any_time, any_time)
    statements = [query.sql for query in (*queries.SLICED, *queries.REFERENCES)]
    return frozenset(
        column
        for statement in (*statements, queries.READINESS, str(consents.compile()))
        for column in _columns(statement)
    )


def _columns(sql: str) -> set[str]:
    # Not a parser. A name that its own SELECT does not explain counts for every table with that alias in the statement,
    # and a column without a table for each table without an alias. A column may therefore count as read although it is
    # not, but never the reverse; the tests prove the latter with database privileges.
    scopes = _SCOPE.split(_THREE_PARTS.sub(r"\1.", sql))
    anywhere = _tables_by_alias(" ".join(scopes))
    names: set[tuple[str, str]] = set()
    for scope in scopes:
        here = _tables_by_alias(scope)
        for alias, column in _QUALIFIED.findall(scope):
            names |= {(table, column) for table in here.get(alias, anywhere.get(alias, ()))}
        unnamed = [alias for alias, tables in here.items() if alias in tables]
        names |= {(table, column) for table in unnamed for column in _BARE.findall(scope)}
    return {f"{table}.{column}" for table, column in names if column in metadata.tables[f"{SCHEMA}.{table}"].columns}


def _tables_by_alias(sql: str) -> dict[str, set[str]]:
    # bigsite's tables by their FROM or JOIN alias; the statement's own relations have none.
    named: dict[str, set[str]] = {}
    for schema, table, alias in _RELATION.findall(sql):
        named.setdefault(alias or table, set()).update([table] if schema else [])
    return named
