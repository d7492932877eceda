"""History of bigsite's schema: the schema observed each day, and the changes between any two days.

A day's schemas are immutable objects, ``schemas/<date>/<digest>.json``; ``schemas/<date>/latest.json`` names the
last one. Unlike drift, the history holds everything reflected: defaults, comments, collations, views.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.postgres_session import configure_sessions
from classfeed_dagster.source_contract.live_schema import live_schema
from classfeed_dagster.source_contract.schema import (
    ForeignKey,
    Index,
    Schema,
    SchemaColumn,
    SchemaTable,
    SchemaUnreadableError,
)
from classfeed_dagster.source_contract.schema_changes import match
from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster.wording import counted, markdown_cell

_ROOT = "schemas"
_LATEST = "latest.json"
# Reported facts of a column (without its position and the engine's spelling of its type) and of a table.
_COLUMN_FACTS = ("type", "nullable", "values", "default", "collation", "comment")
_TABLE_FACTS = ("kind", "primary_key", "unique", "foreign_keys", "indexes", "checks", "definition", "comment")
_LISTS = {"values", "unique", "foreign_keys", "indexes", "checks"}  # reported as removed and added parts


class NoSchemaKeptError(DataError):
    """The history has no schema of that day or earlier."""

    exit_code = ExitCode.NOT_READY


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One change between two days. ``subject``: a table or ``table.column``, by its later name if it has one."""

    subject: str
    what: str  # "added column", "type", "primary key", ...
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """Changes between two stored schemas, each with the day of its observation."""

    before: dt.date
    after: dt.date
    changes: tuple[SchemaChange, ...]

    def to_markdown(self) -> str:
        """Return the changes as a Markdown table."""
        days = f"{self.before.isoformat()} to {self.after.isoformat()}"
        return changes_to_markdown(f"bigsite's schema, {days}", self.changes)


def changes_to_markdown(title: str, changes: Sequence[SchemaChange]) -> str:
    """Return the changes as a Markdown table with a title."""
    if not changes:
        return f"{title}: no change.\n"
    lines = [f"{title}: {counted(len(changes), 'change')}.", ""]
    lines += ["| where | what | was | is |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {' | '.join(map(markdown_cell, (change.subject, change.what, change.was, change.now)))} |"
        for change in changes
    ]
    return "\n".join(lines) + "\n"


def digest_of(schema: Schema) -> str:
    """Return the SHA-256 of the schema's canonical JSON, equal for equal schemas."""
    return hashlib.sha256(schema.to_json()).hexdigest()


def keep_schema(store: ObjectStore, day: dt.date, schema: Schema) -> str:
    """Store the schema observed on ``day`` and return its key. An equal schema is stored once."""
    digest = digest_of(schema)
    key = f"{_folder(day)}{digest}.json"
    store.create(key, schema.to_json())
    store.put(f"{_folder(day)}{_LATEST}", json.dumps({"digest": digest}).encode() + b"\n")
    return key


def days_kept(store: ObjectStore) -> tuple[dt.date, ...]:
    """Return the days that have a stored schema, ascending."""
    pointers = (key.split("/") for key in store.list(f"{_ROOT}/") if key.endswith(f"/{_LATEST}"))
    return tuple(dt.date.fromisoformat(parts[1]) for parts in pointers)


def schema_on(store: ObjectStore, day: dt.date) -> tuple[dt.date, Schema]:
    """Return the schema at the end of ``day`` with the day of its observation, the last up to ``day``.

    NoSchemaKeptError if there is none yet; SchemaUnreadableError if the object is damaged.
    """
    day_kept = max((kept for kept in days_kept(store) if kept <= day), default=None)
    if day_kept is None:
        raise NoSchemaKeptError(
            f"No schema of bigsite was stored on or before {day.isoformat()}: choose a later day. The daily schema "
            "check stores one."
        )
    try:
        digest = json.loads(store.read(f"{_folder(day_kept)}{_LATEST}"))["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise SchemaUnreadableError(
            f"{store.location(_folder(day_kept) + _LATEST)} is not a schema pointer: run that day's schema check again."
        ) from error
    schema = Schema.from_json(store.read(f"{_folder(day_kept)}{digest}.json"))
    if digest_of(schema) != digest:
        raise SchemaUnreadableError(
            f"{store.location(f'{_folder(day_kept)}{digest}.json')} is damaged: its digest differs."
        )
    return day_kept, schema


def schema_diff(store: ObjectStore, before: dt.date, after: dt.date) -> SchemaDiff:
    """Return the changes from the end of ``before`` to the end of ``after``, in either order of days."""
    first, earlier = schema_on(store, min(before, after))
    last, later = schema_on(store, max(before, after))
    return SchemaDiff(first, last, changes_between(earlier, later))


def changes_between(earlier: Schema, later: Schema) -> tuple[SchemaChange, ...]:
    """Return every change from one schema to another, table by table, with renames recognised."""
    return tuple(_changes(earlier, later))


def _changes(earlier: Schema, later: Schema) -> Iterator[SchemaChange]:
    names = match(earlier, later)
    earlier_names = {now: was for was, now in names.tables.items()}
    for name in sorted({*later.tables, *(earlier.tables.keys() - names.tables.keys())}):
        if name in earlier_names:
            was = earlier_names[name]
            if was != name:
                yield SchemaChange(name, "renamed table", was, name)
            translated = names.in_earlier_names(was, later)
            yield from _table_changes(name, earlier.tables[was], translated, names.columns[was])
        elif name in later.tables:
            yield SchemaChange(name, f"added {later.tables[name].kind}", "", _columns_of(later.tables[name]))
        else:
            yield SchemaChange(name, f"removed {earlier.tables[name].kind}", _columns_of(earlier.tables[name]), "")


def _table_changes(name: str, was: SchemaTable, now: SchemaTable, called: Mapping[str, str]) -> Iterator[SchemaChange]:
    for column in was.columns:
        current = now.column(column.name)
        if current is None:
            yield SchemaChange(f"{name}.{column.name}", "removed column", column.type, "")
            continue
        subject = f"{name}.{called[column.name]}"
        if called[column.name] != column.name:
            yield SchemaChange(subject, "renamed column", column.name, called[column.name])
        yield from _facts(subject, column, current, _COLUMN_FACTS)
    for column in now.columns:
        if was.column(column.name) is None:
            yield SchemaChange(f"{name}.{column.name}", "added column", "", _described(column))
    yield from _facts(name, was, now, _TABLE_FACTS)


def _facts(subject: str, was: object, now: object, facts: Iterable[str]) -> Iterator[SchemaChange]:
    for fact in facts:
        before, after = getattr(was, fact), getattr(now, fact)
        if before == after:
            continue
        if fact in _LISTS and before is not None and after is not None:
            before, after = (
                tuple(part for part in before if part not in after),
                tuple(part for part in after if part not in before),
            )
        yield SchemaChange(subject, fact.replace("_", " "), _text(before), _text(after))


def _described(column: SchemaColumn) -> str:
    return f"{column.type}{' nullable' if column.nullable else ''}"


def _columns_of(table: SchemaTable) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in table.columns)


def _text(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"({_text(part)})" if isinstance(part, tuple) else _text(part) for part in value)
    if isinstance(value, ForeignKey):
        return f"({_text(value.columns)}) to {value.target} ({_text(value.target_columns)})"
    if isinstance(value, Index):
        return f"{value.name} ({_text(value.columns)}){f' {value.limits}' if value.limits else ''}"
    return str(value)


def _folder(day: dt.date) -> str:
    return f"{_ROOT}/{day.isoformat()}/"


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
