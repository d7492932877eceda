"""Effect of a column's type change on reading: none, wider, narrower, or incompatible.

Types are spelled as by ``live_schema.canonical_type``.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

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
