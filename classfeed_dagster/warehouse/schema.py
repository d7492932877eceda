"""The warehouse's tables: numbered SQL files, applied once each, in order, never changed afterwards."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import polars as pl

from classfeed_dagster import trading_days
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.warehouse.database import Connection, Staging, execute, literal, query, transaction

_MARGIN = dt.timedelta(days=31)  # from the calendar's ends, so that every day has neighbours
_FILE = re.compile(r"(\d{4})_\w+\.sql\Z")
_VERSIONS = """CREATE TABLE IF NOT EXISTS SCHEMA_VERSION (
    VERSION NUMBER(4,0) NOT NULL, NAME VARCHAR(200) NOT NULL, SHA256 VARCHAR(64) NOT NULL, APPLIED_AT TIMESTAMP_NTZ NOT NULL
)"""


class SchemaError(ConfigurationError):
    """The warehouse's tables are not the ones that this version of the code knows."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> list[str]:
        """Its statements, without comments and the semicolons between them."""
        bare = re.sub(r"--[^\n]*", "", self.text)
        return [statement.strip() for statement in bare.split(";") if statement.strip()]


def migrations() -> tuple[Migration, ...]:
    """Every file of ``ddl/``, in order."""
    folder = resources.files("classfeed_dagster.warehouse") / "ddl"
    found = [
        Migration(int(match[1]), file.name, file.read_text())
        for file in folder.iterdir()
        if (match := _FILE.match(file.name))
    ]
    return tuple(sorted(found, key=lambda one: one.version))


def apply_schema(connection: Connection, known: Iterable[Migration] | None = None) -> list[str]:
    """Apply what has not been applied yet; the names of those files. Safe at any time, and twice.

    SchemaError if an applied file was changed since, or if the warehouse is ahead of this code.
    """
    execute(connection, _VERSIONS)
    applied = {int(row[0]): str(row[1]) for row in query(connection, "SELECT VERSION, SHA256 FROM SCHEMA_VERSION")}
    ours = {one.version: one for one in (migrations() if known is None else known)}
    for version, sha256 in applied.items():
        if version not in ours:
            raise SchemaError(
                f"the warehouse has schema version {version}, which this code doesn't know: deploy newer code"
            )
        if ours[version].sha256 != sha256:
            raise SchemaError(f"{ours[version].name} was changed after it was applied: undo that, and write a new file")
    fresh = [one for version, one in sorted(ours.items()) if version not in applied]
    for one in fresh:
        execute(connection, *one.statements())
        execute(
            connection,
            f"INSERT INTO SCHEMA_VERSION VALUES ({one.version}, {literal(one.name)}, {literal(one.sha256)}, SYSDATE())",
        )
    return [one.name for one in fresh]


def ensure_dates(connection: Connection, day: dt.date) -> int:
    """Fill DIM_DATE from the first supported date to the end of the year after ``day``; the number of days it has.

    A date of the star schema may lie years back (a transaction's) or ahead (a settlement's), and every one must join.
    """
    first = trading_days.FIRST_SUPPORTED + _MARGIN
    last = min(dt.date(day.year + 1, 12, 31), trading_days.LAST_SUPPORTED - _MARGIN)
    (row,) = query(connection, "SELECT COUNT(*), MAX(CALENDAR_DATE) FROM DIM_DATE")
    known, latest = int(row[0]), row[1]
    if known and latest >= last:
        return known
    load_dates(connection, latest + dt.timedelta(days=1) if known else first, last)
    return (last - first).days + 1


def load_dates(connection: Connection, first: dt.date, last: dt.date) -> int:
    """Fill DIM_DATE from ``first`` to ``last``, replacing the rows it has; the number of days."""
    days = [first + dt.timedelta(days=at) for at in range((last - first).days + 1)]
    frame = pl.DataFrame(
        {
            "CALENDAR_DATE": days,
            "IS_BUSINESS_DAY": [trading_days.is_business_day(day) for day in days],
            "PREVIOUS_BUSINESS_DAY": [trading_days.previous_business_day(day) for day in days],
            "NEXT_BUSINESS_DAY": [trading_days.next_business_day(day) for day in days],
            "CUTOFF_AT": [trading_days.cutoff(day).replace(tzinfo=None) for day in days],
            "YEAR_NUMBER": [day.year for day in days],
            "MONTH_NUMBER": [day.month for day in days],
            "WEEKDAY_NUMBER": [day.isoweekday() for day in days],
            "FINANCIAL_YEAR": [day.year + (day.month > 6) for day in days],
        }
    )
    with Staging(connection) as staging:
        staged = staging.table("DIM_DATE")
        staging.put(staged, frame)
        staging.copy(staged)
        with transaction(connection) as cursor:
            between = f"BETWEEN {literal(first)} AND {literal(last)}"
            cursor.execute(f"DELETE FROM DIM_DATE WHERE CALENDAR_DATE {between}")
            cursor.execute(f"INSERT INTO DIM_DATE SELECT * FROM {staged}")
    return len(days)
