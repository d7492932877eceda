"""Columns of the star schema and their lineage, from the tables' SQL and the load's declarations.

Names, types and nullability are those of ``ddl/``, meanings those of its comments or the frame's column, and lineage
from ``rows``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from classfeed_dagster.domains.columns import Column
from classfeed_dagster.domains.lineage import LEDGER_ROWS
from classfeed_dagster.warehouse.rows import DECLARED, ROWS, frame_columns
from classfeed_dagster.warehouse.schema import migrations

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) \(\n(.*?)\n\);", re.DOTALL)
_COLUMN = re.compile(
    r"\s*(?P<name>[A-Z0-9_]+)\s+(?P<type>[A-Z_]+(?:\([\d,]+\))?)(?P<required>\s+NOT NULL)?(?: PRIMARY KEY)?,?"
    r"(?:\s*-- (?P<meaning>.*))?\Z"
)
# Dimensions are rebuilt from each date's attributes of their members, stored in these tables.
SEEN = {
    "DIM_PORTFOLIO": "SEEN_PORTFOLIO",
    "DIM_CASH_ACCOUNT": "SEEN_CASH_ACCOUNT",
    "DIM_SECURITY": "SEEN_SECURITY",
}
# FACT_DELIVERY is filled from manifests. These columns are also in the document.
_MANIFEST = {
    "PORTFOLIO_KEY": ("accounts", "portfolio_number"),
    "PORTFOLIO_NUMBER": ("accounts", "portfolio_number"),
    "CONSENT_CHANGE": ("accounts", "consent"),
    "EXTRACT_KIND": ("accounts", "extract"),
}
# Meanings of columns that the document does not have.
_MEANINGS = {
    "FEED": "feed that delivered it",
    "BUSINESS_DATE": "business date of the delivery",
    "RECIPIENT": "recipient of the delivery",
    "PORTFOLIO_NUMBER": "portfolio number at the broker and the recipient; null if it concerns no single portfolio",
    "PORTFOLIO_KEY": "durable key: MD5 of recipient and portfolio number",
    "SECURITY_KEY": "durable key: MD5 of exchange and ISIN, or code without one",
    "CASH_ACCOUNT_KEY": "durable key: MD5 of recipient, portfolio, currency and account number",
    "MESSAGE_ID": "page that contains it",
    "CORRELATION_ID": "attempt that delivered it",
    "VALID_FROM": "first business date of this version",
    "VALID_TO": "business date from which the version is no longer valid",
    "IS_CURRENT": "true if no later version replaced it",
    "REVISION": "revision of the date's delivery, from 1",
    "SEQUENCE_NUMBER": "sequence number of the date in the feed",
    "CHAIN_POSITION": "position of the manifest in the feed's chain",
    "CONTENT_DIGEST": "SHA-256 of the portfolio's records",
    "RECORD_BYTES": "size of the portfolio's records",
    "PAGE_SHA256": "SHA-256 of the page's bytes",
    "SNAPSHOT_ID": "snapshot of bigsite that it was built from",
    "SNAPSHOT_AT": "time of the snapshot, UTC",
    "CONSENT_CHECKED_AT": "time of the last consent query, UTC",
    "IS_LATEST": "true if no later revision replaced it",
    "CALENDAR_DATE": "calendar day",
    "PREVIOUS_BUSINESS_DAY": "previous ASX business day",
    "NEXT_BUSINESS_DAY": "next ASX business day",
    "YEAR_NUMBER": "calendar year",
    "MONTH_NUMBER": "1 is January",
    "SIDE": "compared side: source, data_team or recipient",
    "KIND": "kind of break",
    "SEVERITY": "error: the delivery is wrong; warning: to be reviewed; event: no action needed",
    "FIELD_NAME": "field or metric that differs",
    "EXPORT_VALUE": "value in the delivery; personal values are masked",
    "OTHER_VALUE": "value on the other side; personal values are masked",
    "DIFFERENCE": "ours less theirs, if both are numbers",
    "EXPLANATION": "likeliest cause",
    "EVIDENCE": "evidence in the data",
    "SOURCE_ROW": "row in bigsite",
    "LANDED_FILE": "landed file that contains it",
    "PAGE": "delivered page",
    "LINE": "line in the document",
    "FIRST_SEEN": "time at which it was first found, UTC",
    "LAST_SEEN": "time at which it was last found, UTC",
    "FIRST_ATTEMPT": "attempt that first found it",
    "LAST_ATTEMPT": "attempt that last found it",
    "ATTEMPT": "attempt at the reconciliation",
    "RAN_AT": "time of the attempt, UTC",
    "METRIC": "name of the count",
    "VALUE": "count",
}


@dataclass(frozen=True, slots=True)
class WarehouseColumn:
    """Column of the star schema. ``made_of``: the document's frames and columns; empty if only the manifest has it."""

    name: str
    type: str
    nullable: bool
    meaning: str
    unit: str | None
    personal: bool
    made_of: tuple[tuple[str, str], ...]
    rows: tuple[str, ...] = LEDGER_ROWS  # landed ledgers and openings whose rows fill it


@cache
def warehouse_tables() -> Mapping[str, tuple[WarehouseColumn, ...]]:
    """Return the tables that ``ddl/`` creates, with their columns in order."""
    return {
        table: columns_in(table, body) for migration in migrations() for table, body in _TABLE.findall(migration.text)
    }


def columns_in(table: str, body: str) -> tuple[WarehouseColumn, ...]:
    """Return the columns of ``table`` from the body of its CREATE TABLE. ValueError if a line is not a column."""
    lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
    # Some tables have several columns a line.
    return tuple(_column(table, part) for line in lines for part in _parts(line) if part.strip())


def _parts(line: str) -> list[str]:
    return [line] if "--" in line else re.split(r",\s(?=[A-Z0-9_]+ )", line)


def _column(table: str, line: str) -> WarehouseColumn:
    match = _COLUMN.match(line)
    if match is None:
        raise ValueError(f"Invalid column of {table}: {line.strip()}")
    name = match["name"]
    made_of = _made_of(table, name)
    declared = [DECLARED[frame].column(column) for frame, column in made_of]
    meaning = match["meaning"] or _descriptions(declared) or _MEANINGS.get(name, "")
    if name.endswith("_KEY"):  # described by its composition, not by its parts
        meaning = match["meaning"] or _MEANINGS[name]
    units = {column.unit for column in declared}
    return WarehouseColumn(
        name,
        match["type"],
        match["required"] is None,
        meaning,
        units.pop() if len(units) == 1 else None,
        any(column.personal for column in declared),
        made_of,
        ROWS.get((table, name.lower()), LEDGER_ROWS),
    )


def _made_of(table: str, name: str) -> tuple[tuple[str, str], ...]:
    if table == "FACT_DELIVERY":
        return (_MANIFEST[name],) if name in _MANIFEST else ()
    return frame_columns(SEEN.get(table, table), name.lower())


def _descriptions(declared: list[Column]) -> str:
    return "; ".join(dict.fromkeys(column.description for column in declared))
