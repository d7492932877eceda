"""Comparison rules: keys, fields, types and tolerances. An invalid rule is refused before any row is read."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.errors import ConfigurationError

NO_DIFFERENCE = Decimal(0)


class RuleError(ConfigurationError):
    """A comparison rule contradicts itself or the data's columns. Nothing was compared."""


class FieldType(enum.Enum):
    """Type by which a column's values are compared. The value is DuckDB's type."""

    TEXT = "VARCHAR"
    MONEY = "DECIMAL(18,2)"
    RATE = "DECIMAL(18,6)"
    UNITS = "DECIMAL(20,6)"
    TOTAL = "DECIMAL(38,6)"
    COUNT = "BIGINT"
    DATE = "DATE"
    INSTANT = "TIMESTAMP WITH TIME ZONE"

    @property
    def scale(self) -> int | None:
        """Return the number of decimals; None for anything but a number."""
        return {FieldType.MONEY: 2, FieldType.RATE: 6, FieldType.UNITS: 6, FieldType.TOTAL: 6, FieldType.COUNT: 0}.get(
            self
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An accepted difference: ``lower <= left - right <= upper``, bounds included.

    ``days``, for dates: the greatest number of calendar days apart. Every tolerance has an owner, a reason and a review
    date; after that date, rules that use it are refused.
    """

    owner: str
    reason: str
    expires: dt.date
    lower: Decimal = NO_DIFFERENCE
    upper: Decimal = NO_DIFFERENCE
    days: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """One compared column. ``personal`` values are never shown: a break only states that they differ.

    Documents mask identifiers of persons in ``free_text``.
    """

    name: str
    kind: FieldType = FieldType.TEXT
    tolerance: Tolerance | None = None
    personal: bool = False
    free_text: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison: rows are paired by ``keys``; digests are compared by ``group``, one of the keys."""

    name: str
    keys: tuple[Field, ...]
    fields: tuple[Field, ...]
    group: str = "portfolio_number"

    @property
    def columns(self) -> tuple[Field, ...]:
        """Return the keys, then the fields."""
        return self.keys + self.fields

    def check(self, today: dt.date) -> None:
        """Raise RuleError if the rule is invalid on ``today``: bounds, repeated columns or an expired tolerance."""
        names = [column.name for column in self.columns]
        if not self.keys or len(set(names)) != len(names) or "excluded" in names:
            raise RuleError(f"rule {self.name}: it needs a key and each column once (not 'excluded'), but has {names}")
        if self.group not in [key.name for key in self.keys]:
            raise RuleError(f"rule {self.name}: the group {self.group} is not one of its keys")
        for field in self.columns:
            if field.tolerance is not None:
                self._check_tolerance(field, field.tolerance, today)

    def _check_tolerance(self, field: Field, tolerance: Tolerance, today: dt.date) -> None:
        subject = f"rule {self.name}, {field.name}"
        if field in self.keys:
            raise RuleError(f"{subject}: a key cannot have a tolerance; remove it")
        if not all(isinstance(bound, Decimal) for bound in (tolerance.lower, tolerance.upper)):
            raise RuleError(f"{subject}: a tolerance must be a Decimal, not a float")
        if not tolerance.lower <= NO_DIFFERENCE <= tolerance.upper or tolerance.days < 0:
            raise RuleError(
                f"{subject}: bounds {tolerance.lower} to {tolerance.upper} must contain 0, days be 0 or more"
            )
        if tolerance.expires < today:
            raise RuleError(
                f"{subject}: the tolerance expired on {tolerance.expires}; ask {tolerance.owner} to review it"
            )
        if (tolerance.days and field.kind is not FieldType.DATE) or (
            (tolerance.lower or tolerance.upper) and field.kind.scale is None
        ):
            raise RuleError(f"{subject}: days are for dates, bounds for numbers; this is {field.kind.name}")
