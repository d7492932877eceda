"""The history of bigsite's schema: what was seen each day, and what changed between any two days.

A day's schemas are immutable objects, ``schemas/<date>/<digest>.json``; ``schemas/<date>/latest.json`` points at the
one seen last. Unlike drift, the history knows everything that was reflected: defaults, comments, collations, views.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from classfeed_dagster.errors import DataError, ExitCode
from classfeed_dagster.source_contract.renames import match
from classfeed_dagster.source_contract.schema import (
    ForeignKey,
    Index,
    Schema,
    SchemaColumn,
    SchemaTable,
    SchemaUnreadableError,
)
from classfeed_dagster.store import ObjectStore

_ROOT = "schemas"
_LATEST = "latest.json"
# What is told of a column (not its place, nor the engine's spelling of its type) and of a table.
_COLUMN_FACTS = ("type", "nullable", "values", "default", "collation", "comment")
_TABLE_FACTS = ("kind", "primary_key", "unique", "foreign_keys", "indexes", "checks", "definition", "comment")
_LISTS = {"values", "unique", "foreign_keys", "indexes", "checks"}  # told by what went and what came


class NoSchemaKeptError(DataError):
    """The history has no schema of that day or any before."""

    exit_code = ExitCode.NOT_READY


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One change between two days. ``subject`` is a table or ``table.column``, by its later name where it has one."""

    subject: str
    what: str  # "added column", "type", "primary key", ...
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """Change between two stored schemas, each with the day on which it was seen."""

    before: dt.date
    after: dt.date
    changes: tuple[SchemaChange, ...]

    def to_markdown(self) -> str:
        """The changes as a table, for the UI, the terminal and a ticket."""
        days = f"{self.before.isoformat()} to {self.after.isoformat()}"
        return changes_to_markdown(f"bigsite's schema, {days}", self.changes)


def changes_to_markdown(title: str, changes: Sequence[SchemaChange]) -> str:
    """Changes as a table under a title."""
    if not changes:
        return f"{title}: no change.\n"
    lines = [f"{title}: {len(changes)} change{'s' if len(changes) > 1 else ''}.", ""]
    lines += ["| where | what | was | is |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {' | '.join(_cell(text) for text in (change.subject, change.what, change.was, change.now))} |"
        for change in changes
    ]
    return "\n".join(lines) + "\n"


def digest_of(schema: Schema) -> str:
    """SHA-256 of the schema's canonical JSON: equal for equal schemas."""
    return hashlib.sha256(schema.to_json()).hexdigest()


def keep_schema(store: ObjectStore, day: dt.date, schema: Schema) -> str:
    """Keep what was seen on ``day``; the key of the object. Seeing the same again keeps nothing new."""
    digest = digest_of(schema)
    key = f"{_folder(day)}{digest}.json"
    store.create(key, schema.to_json())
    store.put(f"{_folder(day)}{_LATEST}", json.dumps({"digest": digest}).encode() + b"\n")
    return key


def days_kept(store: ObjectStore) -> tuple[dt.date, ...]:
    """The days of which a schema is kept, ascending."""
    pointers = (key.split("/") for key in store.list(f"{_ROOT}/") if key.endswith(f"/{_LATEST}"))
    return tuple(dt.date.fromisoformat(parts[1]) for parts in pointers)


def schema_on(store: ObjectStore, day: dt.date) -> tuple[dt.date, Schema]:
    """The schema as it was at the end of ``day``, and the day on which it was seen: the last up to ``day``.

    NoSchemaKeptError if nothing had been seen yet; SchemaUnreadableError if the object is damaged.
    """
    seen = max((kept for kept in days_kept(store) if kept <= day), default=None)
    if seen is None:
        raise NoSchemaKeptError(
            f"no schema of bigsite was kept on or before {day.isoformat()}. The daily schema check keeps one; "
            "choose a later day."
        )
    try:
        digest = json.loads(store.read(f"{_folder(seen)}{_LATEST}"))["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise SchemaUnreadableError(
            f"{store.location(_folder(seen) + _LATEST)} is no pointer to a schema. Run that day's schema check again."
        ) from error
    schema = Schema.from_json(store.read(f"{_folder(seen)}{digest}.json"))
    if digest_of(schema) != digest:
        raise SchemaUnreadableError(
            f"{store.location(f'{_folder(seen)}{digest}.json')} isn't what was kept: its digest differs."
        )
    return seen, schema


def schema_diff(store: ObjectStore, before: dt.date, after: dt.date) -> SchemaDiff:
    """Return the changes from the end of ``before`` to the end of ``after``, in either order of days."""
    first, earlier = schema_on(store, min(before, after))
    last, later = schema_on(store, max(before, after))
    return SchemaDiff(first, last, changes_between(earlier, later))


def changes_between(earlier: Schema, later: Schema) -> tuple[SchemaChange, ...]:
    """Every change from one schema to another, table by table; renames recognised."""
    return tuple(_changes(earlier, later))


def _changes(earlier: Schema, later: Schema) -> Iterator[SchemaChange]:
    names = match(earlier, later)
    came = {now: was for was, now in names.tables.items()}
    for name in sorted({*later.tables, *(earlier.tables.keys() - names.tables.keys())}):
        if name in came:
            was = came[name]
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
        found = now.column(column.name)
        if found is None:
            yield SchemaChange(f"{name}.{column.name}", "removed column", column.type, "")
            continue
        subject = f"{name}.{called[column.name]}"
        if called[column.name] != column.name:
            yield SchemaChange(subject, "renamed column", column.name, called[column.name])
        yield from _facts(subject, column, found, _COLUMN_FACTS)
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


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
