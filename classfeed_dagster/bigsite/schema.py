"""What a schema is, in one form for every origin: the contract, the live database, a day of the past.

``live_schema`` reads it from a database through SQLAlchemy's Inspector, with a few questions to PostgreSQL's
catalogue that the Inspector doesn't ask. Types are spelled alike for every engine (``NUMERIC(18,2)``,
``VARCHAR(12)``, ``TIMESTAMPTZ``), so that comparing is comparing text; the engine's own spelling is kept beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import types
from sqlalchemy.engine.reflection import Inspector, ObjectKind

from classfeed_dagster.bigsite.tables import SCHEMA


class SchemaUnreadableError(Exception):
    """A schema can't be read: it isn't in the database, or a stored snapshot is damaged."""


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """A column. ``values`` is its vocabulary: what a check constraint or an enum type allows; None if open."""

    name: str
    type: str
    nullable: bool
    position: int
    values: tuple[str, ...] | None = None
    native: str = ""
    default: str | None = None
    collation: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class ForeignKey:
    """Columns that point at a row of ``target``."""

    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Index:
    """An index that isn't a key. ``limits`` says why it may not serve a lookup: its method, predicate, or invalid."""

    columns: tuple[str, ...]
    name: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """A table or view. ``checks`` are the check constraints that aren't a vocabulary, in a normal spelling.

    ``definition`` is the SHA-256 of a view's query.
    """

    name: str
    columns: tuple[SchemaColumn, ...]
    primary_key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    checks: tuple[str, ...] = ()
    kind: str = "table"
    definition: str | None = None
    comment: str | None = None

    def column(self, name: str) -> SchemaColumn | None:
        """The column called ``name``, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Schema:
    """All tables of one schema, by name. ``dialect`` is the engine's name, or ``contract``."""

    dialect: str
    tables: Mapping[str, SchemaTable] = field(default_factory=dict)

    def bare(self) -> Schema:
        """Without what a contract doesn't state: native types, defaults, collations, comments, index limits."""
        return Schema(
            "",
            {
                name: replace(
                    table,
                    comment=None,
                    columns=tuple(
                        replace(column, native="", default=None, collation=None, comment=None)
                        for column in table.columns
                    ),
                )
                for name, table in sorted(self.tables.items())
            },
        )

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, one fact a line, so that equal schemas are equal bytes."""
        plain = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        return (json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> Schema:
        """The schema that ``to_json`` wrote; SchemaUnreadableError if it is something else."""
        try:
            return _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise SchemaUnreadableError(
                f"the stored schema is damaged in {error.error_count()} places, first at {error.errors()[0]['loc']}"
            ) from error


_ADAPTER = TypeAdapter(Schema)


def live_schema(engine: sa.Engine, schema: str = SCHEMA) -> Schema:
    """The schema as the database has it now, read in one read-only transaction.

    SchemaUnreadableError if the database has no such schema. Partitions of a table aren't tables of their own.
    """
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        inspector = sa.inspect(connection)
        if not inspector.has_schema(schema):
            raise SchemaUnreadableError(
                f"the database has no schema {schema}: check that CLASSFEED_BIGSITE_URL is that of bigsite and "
                "that its user may see the schema"
            )
        catalogue = _postgresql_facts(connection, schema) if connection.dialect.name == "postgresql" else _Facts()
        return _reflected(inspector, schema, catalogue)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What only PostgreSQL's catalogue tells: partitions, collations that differ from the default, invalid indexes."""

    partitions: frozenset[str] = frozenset()
    collations: Mapping[tuple[str, str], str] = field(default_factory=dict)
    invalid_indexes: frozenset[str] = frozenset()


def _postgresql_facts(connection: sa.Connection, schema: str) -> _Facts:
    def ask(columns: str, conditions: str) -> list[Any]:
        relations = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = :schema"
        # Only constants of this function are put together.
        question = sa.text(f"SELECT {columns} {relations} {conditions}")
        return list(connection.execute(question, {"schema": schema}))

    partitions = ask("c.relname", "WHERE c.relispartition")
    collations = ask(
        "c.relname, a.attname, o.collname",
        "JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid "
        "JOIN pg_collation o ON o.oid = a.attcollation "
        "WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> t.typcollation",
    )
    invalid = ask("c.relname", "JOIN pg_index i ON i.indexrelid = c.oid WHERE NOT i.indisvalid")
    return _Facts(
        frozenset(row[0] for row in partitions),
        {(row[0], row[1]): row[2] for row in collations},
        frozenset(row[0] for row in invalid),
    )


def _reflected(inspector: Inspector, schema: str, facts: _Facts) -> Schema:
    everything = ObjectKind.ANY
    columns = inspector.get_multi_columns(schema, kind=everything)
    primary_keys: Mapping[Any, Any] = inspector.get_multi_pk_constraint(schema)
    unique = inspector.get_multi_unique_constraints(schema)
    foreign_keys = inspector.get_multi_foreign_keys(schema)
    indexes = inspector.get_multi_indexes(schema, kind=everything)
    checks = inspector.get_multi_check_constraints(schema)
    comments = inspector.get_multi_table_comment(schema, kind=everything)
    views = {*inspector.get_view_names(schema)}
    if inspector.dialect.name == "postgresql":
        views |= {*inspector.get_materialized_view_names(schema)}

    tables = {}
    for key in sorted(columns, key=lambda key: key[1]):
        name = key[1]
        if name in facts.partitions:
            continue
        names = [column["name"] for column in columns[key]]
        stated = [(str(check["sqltext"]), _unenforced(check)) for check in checks.get(key, ())]
        vocabularies, others = sort_checks([text for text, unenforced in stated if not unenforced], names)
        unproven = sort_checks([text for text, unenforced in stated if unenforced], ())[1]
        others = tuple(sorted((*others, *(f"{text} (not enforced for every row)" for text in unproven))))
        foreign = tuple(
            sorted(
                ForeignKey(
                    tuple(found["constrained_columns"]), found["referred_table"], tuple(found["referred_columns"])
                )
                for found in foreign_keys.get(key, ())
            )
        )
        uniques = {tuple(found["column_names"]) for found in unique.get(key, ())}
        plain = []
        for index in indexes.get(key, ()):
            found = _index(index, facts)
            if index.get("unique") and not found.limits:
                uniques.add(found.columns)
            elif inspector.dialect.name == "postgresql" or found.columns not in {f.columns for f in foreign}:
                plain.append(found)  # MySQL makes an index for every foreign key: no index anybody declared
        tables[name] = SchemaTable(
            name=name,
            columns=tuple(
                _column(column, position, vocabularies, facts.collations.get((name, column["name"])), inspector.dialect)
                for position, column in enumerate(columns[key], start=1)
            ),
            primary_key=tuple(keys["constrained_columns"]) if (keys := primary_keys.get(key)) else (),
            unique=tuple(sorted(uniques)),
            foreign_keys=foreign,
            indexes=tuple(sorted(plain)),
            checks=others,
            kind="view" if name in views else "table",
            definition=_digest(inspector.get_view_definition(name, schema)) if name in views else None,
            comment=(comments.get(key) or {"text": None})["text"],
        )
    return Schema(inspector.dialect.name, tables)


def _unenforced(check: Any) -> bool:
    # A constraint added NOT VALID says nothing of the rows that were there before it.
    return bool(check.get("dialect_options", {}).get("not_valid"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _index(index: Any, facts: _Facts) -> Index:
    options = index.get("dialect_options", {})
    columns = index.get("expressions") or index["column_names"]
    limits = [
        f"using {options['postgresql_using']}" if options.get("postgresql_using", "btree") != "btree" else "",
        f"where {options['postgresql_where']}" if options.get("postgresql_where") else "",
        "invalid" if index["name"] in facts.invalid_indexes else "",
    ]
    return Index(tuple(columns), index["name"], ", ".join(limit for limit in limits if limit))


def _column(
    column: Any,
    position: int,
    vocabularies: Mapping[str, tuple[str, ...]],
    collation: str | None,
    dialect: sa.Dialect,
) -> SchemaColumn:
    kind: types.TypeEngine[Any] = column["type"]
    values = vocabularies.get(column["name"])
    if isinstance(kind, types.Enum):
        values = tuple(sorted(kind.enums))
    elif checked := getattr(kind, "check", None):  # a domain's own condition
        values = sort_checks([str(checked)], ["VALUE"])[0].get("VALUE", values)
    generated = column.get("computed")
    return SchemaColumn(
        name=column["name"],
        type=canonical_type(kind),
        nullable=column["nullable"],
        position=position,
        values=values,
        native="" if isinstance(kind, types.NullType) else kind.compile(dialect),
        default=f"GENERATED ALWAYS AS {generated['sqltext']}" if generated else column.get("default"),
        collation=collation or getattr(kind, "collation", None),
        comment=column.get("comment"),
    )


def canonical_type(kind: types.TypeEngine[Any]) -> str:
    """One spelling for a type whatever the engine, with length, precision and scale: ``NUMERIC(18,2)``.

    An engine without zoned instants (MySQL, SQLite) keeps them in DATETIME, which counts as TIMESTAMPTZ there.
    """
    underlying = getattr(kind, "data_type", None)  # PostgreSQL's domains
    if isinstance(underlying, types.TypeEngine):
        return canonical_type(underlying)
    name = _SPELLING.get(kind.__visit_name__, kind.__visit_name__.upper())
    if name == "TIMESTAMP":
        zoned = getattr(kind, "timezone", False) or type(kind).__module__.startswith(_UNZONED_ENGINES)
        precision = getattr(kind, "precision", None)
        return ("TIMESTAMPTZ" if zoned else "TIMESTAMP") + (f"({precision})" if precision is not None else "")
    length = getattr(kind, "length", None)
    if name in ("VARCHAR", "CHAR") and length is not None:
        return f"{name}({length})"
    if name == "NUMERIC" and getattr(kind, "precision", None) is not None:
        return f"NUMERIC({getattr(kind, 'precision', 0)},{getattr(kind, 'scale', 0) or 0})"
    return name


_UNZONED_ENGINES = ("sqlalchemy.dialects.mysql", "sqlalchemy.dialects.sqlite")
_SPELLING = {
    "DECIMAL": "NUMERIC",
    "numeric": "NUMERIC",
    "NVARCHAR": "VARCHAR",
    "NCHAR": "CHAR",
    "DATETIME": "TIMESTAMP",
    "INT": "INTEGER",
    "double_precision": "DOUBLE",
    "DOUBLE_PRECISION": "DOUBLE",
    "big_integer": "BIGINT",
}

_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_CAST = re.compile(r"::[a-z_ ]+(?:\(\d+(?:,\s*\d+)?\))?(?:\[\])?")
_LIST_WORDS = {"any", "array", "in", "or", "is", "null"}


def sort_checks(checks: Iterable[str], columns: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Check constraints apart: the vocabularies (``side IN ('BUY', 'SELL')``), by column, and the others, tidied.

    Engines rewrite ``IN`` in their own ways (``= ANY (ARRAY[...])``, ``= 'x' OR = 'y'``); what counts as a vocabulary
    is one column compared for equality with text literals and nothing else. Values are sorted. Two vocabularies of
    one column allow what both allow.
    """
    known = set(columns)
    vocabularies: dict[str, tuple[str, ...]] = {}
    others = []
    for check in checks:
        values = {value.replace("''", "'") for value in _LITERAL.findall(check)}
        outside = _CAST.sub("", _LITERAL.sub(" ", check))
        words = set(re.findall(r"\w+", outside))
        named = sorted(words & known)
        listed = {word.lower() for word in words - known if not word.startswith("_")} <= _LIST_WORDS  # _utf8mb4'BUY'
        if len(named) == 1 and values and listed and not re.search(r"[<>!~]", outside):
            allowed = set(vocabularies.get(named[0], values)) & values
            vocabularies[named[0]] = tuple(sorted(allowed))
        else:
            others.append(" ".join(re.sub(r"[()`\"]", " ", _CAST.sub("", check)).split()))
    return vocabularies, tuple(sorted(others))
