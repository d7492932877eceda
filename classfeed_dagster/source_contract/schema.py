"""Schema model, common to the contract, the live database and the stored history.

Types are spelled alike for every engine (``NUMERIC(18,2)``, ``VARCHAR(12)``, ``TIMESTAMPTZ``), so that they compare
as text; the engine's own spelling is kept with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from classfeed_dagster.errors import DataError


class SchemaUnreadableError(DataError):
    """A schema cannot be read: it is not in the database, or a stored snapshot is damaged."""


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """A column. ``values`` is its vocabulary from a check constraint or an enum type; None if open."""

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
    """Columns that reference a row of ``target``."""

    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Index:
    """An index that is not a key. ``limits``: why it may not serve a lookup (method, predicate or invalid)."""

    columns: tuple[str, ...]
    name: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """A table or view. ``checks`` are the check constraints other than vocabularies, normalised.

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
        """Return the column with this name, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Schema:
    """All tables of one schema, by name. ``dialect`` is the engine's name, or ``contract``."""

    dialect: str
    tables: Mapping[str, SchemaTable] = field(default_factory=dict)

    def bare(self) -> Schema:
        """Return the schema without native types, defaults, collations and comments, which no contract states."""
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
        """Return canonical JSON: sorted keys, one fact a line, so that equal schemas give equal bytes."""
        plain = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        return (json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> Schema:
        """Read the JSON of ``to_json``. SchemaUnreadableError if it is something else."""
        try:
            return _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise SchemaUnreadableError(
                f"The stored schema is damaged in {error.error_count()} places, first at {error.errors()[0]['loc']}"
            ) from error


_ADAPTER = TypeAdapter(Schema)
