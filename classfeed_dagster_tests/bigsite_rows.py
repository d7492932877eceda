"""One row of a bigsite table in a test, and how its dates, instants and numbers may be written."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import sqlalchemy as sa

from classfeed_dagster import trading_days

Day = dt.date | str
Instant = dt.datetime | str
Number = Decimal | int | str

LONG_AGO = "2020-01-01T00:00Z"
NOTHING = Decimal("0.00")


def day(value: Day) -> dt.date:
    return dt.date.fromisoformat(value) if isinstance(value, str) else value


def instant(value: Instant) -> dt.datetime:
    """An aware instant, UTC; ISO text needs its offset or Z."""
    at = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    assert at.tzinfo is not None, f"{value} lacks a time zone"
    return at.astimezone(dt.UTC)


def midday(on: Day, milliseconds: int = 0) -> dt.datetime:
    """Noon in Sydney on a day: when a row is recorded unless a test says otherwise."""
    noon = dt.datetime.combine(day(on), dt.time(12), tzinfo=trading_days.SYDNEY)
    return noon.astimezone(dt.UTC) + dt.timedelta(milliseconds=milliseconds)


def cents(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), ROUND_HALF_UP)


@dataclass(eq=False)
class Row:
    """One row of one table; ``row["column"]`` reads and sets. ``id`` is its key, where that is one number."""

    table: sa.Table
    values: dict[str, Any]

    def __getitem__(self, column: str) -> Any:
        return self.values[column]

    def __setitem__(self, column: str, value: Any) -> None:
        self.values[column] = typed(self.table.c[column], value)

    @property
    def id(self) -> int:
        (key,) = self.table.primary_key
        return int(self.values[key.name])


def typed(column: sa.Column[Any], value: Any) -> Any:
    """A value in the column's own type and scale; ISO text becomes a day or an instant."""
    if value is None:
        return None
    if isinstance(column.type, sa.DateTime):
        return instant(value)
    if isinstance(column.type, sa.Date):
        return day(value)
    if isinstance(column.type, sa.Numeric):
        return Decimal(value).quantize(Decimal(1).scaleb(-int(column.type.scale or 0)))
    return value
