"""Changes between two schemas: the effect of a type change on reading, and recognition of renames.

Types are spelled as by ``live_schema.canonical_type``. A rename is an added column or table that resembles a removed
one, by name, position, type, vocabulary and nullability. It is reported, never applied.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from classfeed_dagster.source_contract.schema import ForeignKey, Schema, SchemaColumn, SchemaTable

_UNBOUNDED = 10**9
_SPELLING = re.compile(r"(?P<name>[A-Za-z_ ]+)(?:\((?P<first>\d+)(?:,(?P<second>\d+))?\))?\Z")
_INTEGERS = {"SMALLINT": 2, "INTEGER": 4, "BIGINT": 8}
_FLOATS = {"REAL": 4, "FLOAT": 8, "DOUBLE": 8}
_TEXTS = {"CHAR", "VARCHAR", "TEXT"}
_INSTANT_DIGITS = 6  # of a second, where the type states none


class TypeChange(enum.Enum):
    """Relation of a type to the earlier one."""

    SAME = "same"
    WIDENED = "widened"  # every earlier value fits; others are possible
    NARROWED = "narrowed"  # earlier values may be cut, rounded or refused
    RETYPED = "retyped"  # another type of value, or another notation


@dataclass(frozen=True, slots=True)
class _Shape:
    # ``sizes`` grow with the type's capacity; types of one family are compared by them.
    family: str
    sizes: tuple[int, ...] = ()


def family(spelling: str) -> str:
    """Return the family of values: ``text``, ``integer``, ``decimal``, ``float``, ``instant``, or the type's name."""
    shape = _shape(spelling).family
    return "text" if shape == "padded text" else shape


def type_change(before: str, after: str) -> TypeChange:
    """Compare a column's type ``before`` with its type ``after``."""
    old, new = _shape(before), _shape(after)
    if old == new:
        return TypeChange.SAME
    if old.family == "padded text" and new.family == "text":
        old = _Shape("text", old.sizes)  # only the padding is lost
    if old.family != new.family or not old.sizes:
        return TypeChange.RETYPED
    if any(after < before for before, after in zip(old.sizes, new.sizes, strict=True)):
        return TypeChange.NARROWED
    return TypeChange.WIDENED


def _shape(spelling: str) -> _Shape:
    parsed = _SPELLING.match(spelling)
    if parsed is None:
        return _Shape(spelling)
    name, first, second = parsed["name"], parsed["first"], parsed["second"]
    if name in _INTEGERS:
        return _Shape("integer", (_INTEGERS[name],))
    if name in _FLOATS:
        return _Shape("float", (_FLOATS[name],))
    if name == "CHAR":
        return _Shape("padded text", (int(first or 1),))
    if name in _TEXTS:
        return _Shape("text", (int(first or _UNBOUNDED),))
    if name == "NUMERIC":
        digits, scale = (int(first), int(second or 0)) if first else (2 * _UNBOUNDED, _UNBOUNDED)
        return _Shape("decimal", (digits - scale, scale))
    if name == "TIMESTAMPTZ":
        return _Shape("instant", (int(first or _INSTANT_DIGITS),))
    return _Shape(name)


_COLUMN_LIKENESS = 0.55
_TABLE_LIKENESS = 0.6
_INSIDE = 0.8  # similarity of `gst` and `gst_amount`


@dataclass(frozen=True, slots=True)
class Names:
    """Names that tables and columns of an earlier schema have in a later one, where a match exists."""

    tables: Mapping[str, str]
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by the earlier table's name

    def in_earlier_names(self, table: str, later: Schema) -> SchemaTable:
        """Return the later schema's table with the earlier names."""
        earlier_tables = {now: was for was, now in self.tables.items()}
        current = later.tables[self.tables[table]]

        def renamed(names: Iterable[str], owner: str) -> tuple[str, ...]:
            was = {now: was for was, now in self.columns.get(owner, {}).items()}
            return tuple(was.get(name, name) for name in names)

        def pointing(key: ForeignKey) -> ForeignKey:
            target = earlier_tables.get(key.target, key.target)
            return ForeignKey(renamed(key.columns, table), target, renamed(key.target_columns, target))

        return replace(
            current,
            name=table,
            columns=tuple(
                replace(column, name=name)
                for column, name in zip(current.columns, renamed((c.name for c in current.columns), table), strict=True)
            ),
            primary_key=renamed(current.primary_key, table),
            unique=tuple(sorted(renamed(unique, table) for unique in current.unique)),
            foreign_keys=tuple(sorted(pointing(key) for key in current.foreign_keys)),
            indexes=tuple(replace(index, columns=renamed(index.columns, table)) for index in current.indexes),
            checks=tuple(sorted("".join(renamed(re.split(r"\b", check), table)) for check in current.checks)),
        )


def match(earlier: Schema, later: Schema) -> Names:
    """Match names: the unchanged ones, and pairs of removed and added names that are probable renames."""
    tables = {name: name for name in earlier.tables if name in later.tables}
    removed = [table for name, table in earlier.tables.items() if name not in tables]
    added = [table for name, table in later.tables.items() if name not in tables]
    likeness = {(was.name, now.name): _table_likeness(was, now) for was in removed for now in added}
    tables |= _best_pairs(likeness, _TABLE_LIKENESS)
    columns = {was: _matched_columns(earlier.tables[was], later.tables[now]) for was, now in sorted(tables.items())}
    return Names(tables, columns)


def _matched_columns(earlier: SchemaTable, later: SchemaTable) -> dict[str, str]:
    kept = {column.name for column in earlier.columns} & {column.name for column in later.columns}
    places = _places(earlier, kept), _places(later, kept)
    likeness = {
        (was.name, now.name): _column_likeness(was, now, places[0][was.name], places[1][now.name])
        for was in earlier.columns
        for now in later.columns
        if was.name not in kept and now.name not in kept
    }
    return {name: name for name in kept} | _best_pairs(likeness, _COLUMN_LIKENESS)


def _best_pairs(likeness: Mapping[tuple[str, str], float], least: float) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for was, now in sorted(likeness, key=lambda pair: (-likeness[pair], pair)):
        if likeness[was, now] >= least and was not in pairs and now not in pairs.values():
            pairs[was] = now
    return pairs


def _places(table: SchemaTable, kept: set[str]) -> dict[str, tuple[str, str]]:
    # Nearest unchanged column on each side of every column.
    names = [column.name for column in table.columns]
    return {
        name: (
            next((before for before in reversed(names[:at]) if before in kept), ""),
            next((after for after in names[at + 1 :] if after in kept), ""),
        )
        for at, name in enumerate(names)
    }


def _column_likeness(was: SchemaColumn, now: SchemaColumn, before: tuple[str, str], after: tuple[str, str]) -> float:
    if family(was.type) != family(now.type):
        return 0.0
    same_values = 0.3 if was.values is not None and was.values == now.values else 0.0
    place = sum(0.15 for one, other in zip(before, after, strict=True) if one == other)
    alike = 0.1 * (was.type == now.type) + 0.1 * (was.nullable == now.nullable)
    return 0.5 * _name_likeness(was.name, now.name) + place + alike + same_values


def _table_likeness(was: SchemaTable, now: SchemaTable) -> float:
    one, other = ({(column.name, column.type) for column in table.columns} for table in (was, now))
    return 0.7 * len(one & other) / len(one | other) + 0.3 * _name_likeness(was.name, now.name)


def _name_likeness(one: str, other: str) -> float:
    words = [set(re.split(r"_+", name.lower())) for name in (one, other)]
    inside = _INSIDE * len(words[0] & words[1]) / min(map(len, words))
    return max(SequenceMatcher(None, one.lower(), other.lower()).ratio(), inside)
