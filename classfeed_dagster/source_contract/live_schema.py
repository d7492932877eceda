"""Live schema of a database, read with SQLAlchemy's Inspector.

Facts that the Inspector does not return are read from PostgreSQL's and MariaDB's catalogues.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import types
from sqlalchemy.engine.reflection import Inspector, ObjectKind

from classfeed_dagster.bigsite.tables import SCHEMA
from classfeed_dagster.source_contract.schema import (
    ForeignKey,
    Index,
    Schema,
    SchemaColumn,
    SchemaTable,
    SchemaUnreadableError,
)


def live_schema(engine: sa.Engine) -> Schema:
    """Read the database's current schema in one read-only transaction.

    SchemaUnreadableError if the database has no such schema. Partitions are not tables of their own.
    """
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        inspector = sa.inspect(connection)
        if not inspector.has_schema(SCHEMA):
            raise SchemaUnreadableError(
                f"The database has no schema {SCHEMA}: check that CLASSFEED_BIGSITE_URL is bigsite's and that its user "
                "may see the schema"
            )
        if connection.dialect.name == "postgresql":
            facts = _postgresql_facts(connection)
        elif getattr(connection.dialect, "is_mariadb", False):
            facts = _mariadb_facts(connection)
        else:
            facts = _Facts()
        return _reflected(inspector, facts)


@dataclass(frozen=True, slots=True)
class _Facts:
    """Catalogue facts that the Inspector does not return: partitions, non-default collations, invalid indexes.

    ``unproven_keys`` holds by table the names of foreign keys that do not cover every row (NOT VALID, NOT ENFORCED).

    ``column_checks`` holds by table the checks of single columns, which the Inspector omits on MariaDB.
    ``domain_types`` holds by table and column the type below a PostgreSQL domain and the domains that it is over, as
    PostgreSQL spells it: ``numeric(18,2)``. The Inspector omits its size and the zone of an instant with a precision.
    """

    partitions: frozenset[str] = frozenset()
    collations: Mapping[tuple[str, str], str] = field(default_factory=dict)
    invalid_indexes: frozenset[str] = frozenset()
    unproven_keys: frozenset[tuple[str, str]] = frozenset()
    column_checks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    domain_types: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def completed(self, table: str, column: SchemaColumn) -> SchemaColumn:
        """Return the column with the catalogue's facts."""
        spelled = self.domain_types.get((table, column.name), "")
        kind = "TIMESTAMPTZ" if spelled.endswith(" with time zone") and column.type == "TIMESTAMP" else column.type
        size = re.search(r"\(.*\)", spelled) if kind in _SIZED else None
        collation = self.collations.get((table, column.name), column.collation)
        return replace(column, type=kind + (size[0] if size else ""), collation=collation)


def _postgresql_facts(connection: sa.Connection) -> _Facts:
    def ask(columns: str, conditions: str) -> list[Any]:
        relations = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = :schema"
        # Only constants of this function are concatenated.
        query = sa.text(f"SELECT {columns} {relations} {conditions}")
        return list(connection.execute(query, {"schema": SCHEMA}))

    partitions = ask("c.relname", "WHERE c.relispartition")
    collations = ask(
        "c.relname, a.attname, o.collname",
        "JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid "
        "JOIN pg_collation o ON o.oid = a.attcollation "
        "WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> t.typcollation",
    )
    # Only the innermost domain has the size of the type below it; the others have -1.
    domains = connection.execute(
        sa.text(
            "WITH RECURSIVE below AS (SELECT c.relname, a.attname, t.typbasetype AS type, t.typtypmod AS size "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = :schema "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped "
            "JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd' "
            "UNION ALL SELECT b.relname, b.attname, t.typbasetype, t.typtypmod "
            "FROM below b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd') "
            "SELECT b.relname, b.attname, format_type(b.type, b.size) "
            "FROM below b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'"
        ),
        {"schema": SCHEMA},
    )
    invalid = ask("c.relname", "JOIN pg_index i ON i.indexrelid = c.oid WHERE NOT i.indisvalid")
    unproven = ask(
        "c.relname, o.conname",
        "JOIN pg_constraint o ON o.conrelid = c.oid WHERE o.contype = 'f' AND NOT o.convalidated",
    )
    return _Facts(
        frozenset(row[0] for row in partitions),
        {(row[0], row[1]): row[2] for row in collations},
        frozenset(row[0] for row in invalid),
        frozenset((row[0], row[1]) for row in unproven),
        domain_types={(row[0], row[1]): row[2] for row in domains},
    )


def _mariadb_facts(connection: sa.Connection) -> _Facts:
    query = sa.text(
        "SELECT table_name, check_clause FROM information_schema.check_constraints "
        "WHERE constraint_schema = :schema AND level = 'Column'"
    )
    checks: dict[str, tuple[str, ...]] = {}
    for table, check in connection.execute(query, {"schema": SCHEMA}):
        checks[table] = (*checks.get(table, ()), check)
    return _Facts(column_checks=checks)


def _reflected(inspector: Inspector, facts: _Facts) -> Schema:
    everything = ObjectKind.ANY
    columns = inspector.get_multi_columns(SCHEMA, kind=everything)
    primary_keys: Mapping[Any, Any] = inspector.get_multi_pk_constraint(SCHEMA)
    unique = inspector.get_multi_unique_constraints(SCHEMA)
    foreign_keys = inspector.get_multi_foreign_keys(SCHEMA)
    indexes = inspector.get_multi_indexes(SCHEMA, kind=everything)
    checks = inspector.get_multi_check_constraints(SCHEMA)
    comments = inspector.get_multi_table_comment(SCHEMA, kind=everything)
    views = {*inspector.get_view_names(SCHEMA)}
    if inspector.dialect.name == "postgresql":
        views |= {*inspector.get_materialized_view_names(SCHEMA)}

    tables = {}
    for key in sorted(columns, key=lambda key: key[1]):
        name = key[1]
        if name in facts.partitions:
            continue
        names = [column["name"] for column in columns[key]]
        conditions = [(str(check["sqltext"]), _unenforced(check)) for check in checks.get(key, ())]
        conditions += [(check, False) for check in facts.column_checks.get(name, ())]
        vocabularies, others = sort_checks([text for text, unenforced in conditions if not unenforced], names)
        unproven = sort_checks([text for text, unenforced in conditions if unenforced], ())[1]
        others = tuple(sorted((*others, *(f"{text} (not enforced for every row)" for text in unproven))))
        foreign = tuple(
            sorted(
                ForeignKey(
                    tuple(each["constrained_columns"]),
                    each["referred_table"],
                    tuple(each["referred_columns"]),
                )
                for each in foreign_keys.get(key, ())
                if (name, each["name"]) not in facts.unproven_keys
            )
        )
        uniques = {tuple(constraint["column_names"]) for constraint in unique.get(key, ())}
        plain = []
        for index in indexes.get(key, ()):
            reflected = _index(index, facts)
            if index.get("unique") and not reflected.limits:
                uniques.add(reflected.columns)
            else:
                plain.append(reflected)
        tables[name] = SchemaTable(
            name=name,
            columns=tuple(
                facts.completed(name, _column(column, position, vocabularies, inspector.dialect))
                for position, column in enumerate(columns[key], start=1)
            ),
            primary_key=tuple(keys["constrained_columns"]) if (keys := primary_keys.get(key)) else (),
            unique=tuple(sorted(uniques)),
            foreign_keys=foreign,
            indexes=tuple(sorted(plain)),
            checks=others,
            kind="view" if name in views else "table",
            definition=_digest(inspector.get_view_definition(name, SCHEMA)) if name in views else None,
            comment=(comments.get(key) or {"text": None})["text"],
        )
    return Schema(inspector.dialect.name, tables)


def _unenforced(check: Any) -> bool:
    # A constraint added NOT VALID does not cover the rows from before it.
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
    dialect: sa.Dialect,
) -> SchemaColumn:
    kind: types.TypeEngine[Any] = column["type"]
    values = vocabularies.get(column["name"])
    if isinstance(kind, types.Enum):
        values = tuple(sorted(kind.enums))
    elif (condition := getattr(kind, "check", None)) is not None:  # a domain's own
        values = sort_checks([str(condition)], ["VALUE"])[0].get("VALUE", values)
    generated = column.get("computed")
    return SchemaColumn(
        name=column["name"],
        type=canonical_type(kind),
        nullable=column["nullable"],
        position=position,
        values=values,
        native="" if isinstance(kind, types.NullType) else kind.compile(dialect),
        default=f"GENERATED ALWAYS AS {generated['sqltext']}" if generated else column.get("default"),
        collation=getattr(kind, "collation", None),
        comment=column.get("comment"),
    )


def canonical_type(kind: types.TypeEngine[Any]) -> str:
    """Spell a type alike for every engine, with length, precision and scale: ``NUMERIC(18,2)``.

    An engine without zoned instants (MySQL) stores them in DATETIME, which counts as TIMESTAMPTZ there.
    """
    underlying = getattr(kind, "data_type", None)  # PostgreSQL's domains
    if isinstance(underlying, types.TypeEngine):
        return canonical_type(underlying)
    name = _SPELLING.get(kind.__visit_name__, kind.__visit_name__.upper())
    if name == "TIMESTAMP":
        zoned = getattr(kind, "timezone", False) or type(kind).__module__.startswith("sqlalchemy.dialects.mysql")
        precision = getattr(kind, "precision", None)
        return ("TIMESTAMPTZ" if zoned else "TIMESTAMP") + (f"({precision})" if precision is not None else "")
    length = getattr(kind, "length", None)
    if name in _TEXTS and length is not None:
        return f"{name}({length})"
    if name == "NUMERIC" and getattr(kind, "precision", None) is not None:
        return f"NUMERIC({getattr(kind, 'precision', 0)},{getattr(kind, 'scale', 0) or 0})"
    return name


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

_TEXTS = {"VARCHAR", "CHAR"}
_SIZED = {*_TEXTS, "NUMERIC", "TIMESTAMP", "TIMESTAMPTZ"}
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_CAST = re.compile(r"::[a-z_ ]+(?:\(\d+(?:,\s*\d+)?\))?(?:\[\])?")
_ARRAY = re.compile(r"'\{([^'{}\"\\]*)\}'(?=::[a-z_ ]+(?:\(\d+\))?\[\])")  # '{BUY,SELL}'::text[]
_LIST_WORDS = {"any", "array", "in", "or", "is", "null"}


def sort_checks(checks: Iterable[str], columns: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Split check constraints into vocabularies by column (``side IN ('BUY', 'SELL')``) and the others, normalised.

    Engines rewrite ``IN`` in their own ways (``= ANY (ARRAY[...])``, ``= 'x' OR = 'y'``). A vocabulary is one column
    compared for equality with text literals only. Values are sorted. Two vocabularies of a column allow their common
    values.
    """
    known = set(columns)
    vocabularies: dict[str, tuple[str, ...]] = {}
    others = []
    for written in checks:
        check = _ARRAY.sub(lambda array: ", ".join(f"'{value}'" for value in array[1].split(",")), written)
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
