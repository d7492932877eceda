"""What a comparison is told: keys, fields, kinds and tolerances. A wrong rule is refused before any row is read."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.errors import ConfigurationError

NO_DIFFERENCE = Decimal(0)


class RuleError(ConfigurationError):
    """A comparison's rule contradicts itself or the data's columns; nothing was compared."""


class FieldType(enum.Enum):
    """How a column's values are compared. The value is DuckDB's type."""

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
        """Decimals of a number; None for what isn't one."""
        return {FieldType.MONEY: 2, FieldType.RATE: 6, FieldType.UNITS: 6, FieldType.TOTAL: 6, FieldType.COUNT: 0}.get(
            self
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A difference that people agreed to live with: ``lower <= left - right <= upper``, bounds included.

    ``days`` is for dates: at most so many calendar days apart. Every tolerance has an owner, a reason and a day
    on which it must be reviewed; the day after, rules that use it are refused.
    """

    owner: str
    reason: str
    expires: dt.date
    lower: Decimal = NO_DIFFERENCE
    upper: Decimal = NO_DIFFERENCE
    days: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """One compared column. ``personal`` values are never shown: a break says only that they differ.

    ``free_text`` is what people type: documents have identifiers of persons in it masked.
    """

    name: str
    kind: FieldType = FieldType.TEXT
    tolerance: Tolerance | None = None
    personal: bool = False
    free_text: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison: rows are paired by ``keys``; ``group`` (one of the keys) is the unit of the cheap first look."""

    name: str
    keys: tuple[Field, ...]
    fields: tuple[Field, ...]
    group: str = "portfolio_number"

    @property
    def columns(self) -> tuple[Field, ...]:
        """Keys, then fields."""
        return self.keys + self.fields

    def check(self, today: dt.date) -> None:
        """RuleError unless the rule makes sense on ``today``: bounds in order, nothing twice, no expired tolerance."""
        names = [column.name for column in self.columns]
        if not self.keys or len(set(names)) != len(names) or "excluded" in names:
            raise RuleError(f"rule {self.name}: needs a key, and each column once (not 'excluded'); it has {names}")
        if self.group not in [key.name for key in self.keys]:
            raise RuleError(f"rule {self.name}: the group {self.group} is not one of its keys")
        for field in self.columns:
            if field.tolerance is not None:
                self._check_tolerance(field, field.tolerance, today)

    def _check_tolerance(self, field: Field, tolerance: Tolerance, today: dt.date) -> None:
        where = f"rule {self.name}, {field.name}"
        if field in self.keys:
            raise RuleError(f"{where}: a key is equal or it is another row; it can't have a tolerance")
        if not all(isinstance(bound, Decimal) for bound in (tolerance.lower, tolerance.upper)):
            raise RuleError(f"{where}: a tolerance is a Decimal, never a float")
        if not tolerance.lower <= NO_DIFFERENCE <= tolerance.upper or tolerance.days < 0:
            raise RuleError(f"{where}: bounds {tolerance.lower} to {tolerance.upper} must contain 0, days be 0 or more")
        if tolerance.expires < today:
            raise RuleError(
                f"{where}: the tolerance expired on {tolerance.expires}; ask {tolerance.owner} to review it"
            )
        if (tolerance.days and field.kind is not FieldType.DATE) or (
            (tolerance.lower or tolerance.upper) and field.kind.scale is None
        ):
            raise RuleError(f"{where}: days are for dates, bounds for numbers; this is {field.kind.name}")
