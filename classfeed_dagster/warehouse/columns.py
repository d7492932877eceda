"""What the star schema's columns are and what each is made of: from the tables' own SQL and what the load declares.

Names, types and whether a value is required come from ``ddl/``; meanings from its comments or from the frame's column;
lineage from ``rows``. There is no second list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from classfeed_dagster.domains import columns
from classfeed_dagster.domains.columns import Column, Frame
from classfeed_dagster.domains.lineage import LEDGER_ROWS
from classfeed_dagster.warehouse.rows import ROWS, frame_columns
from classfeed_dagster.warehouse.schema import migrations

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) \(\n(.*?)\n\);", re.DOTALL)
_COLUMN = re.compile(
    r"\s*(?P<name>[A-Z0-9_]+)\s+(?P<type>[A-Z_]+(?:\([\d,]+\))?)(?P<required>\s+NOT NULL)?(?: PRIMARY KEY)?,?"
    r"(?:\s*-- (?P<meaning>.*))?\Z"
)
_FRAMES = {frame.name: frame for frame in vars(columns).values() if isinstance(frame, Frame)}
# A dimension is rebuilt from what each date said of its members.
SEEN = {
    "DIM_PORTFOLIO": "SEEN_PORTFOLIO",
    "DIM_CASH_ACCOUNT": "SEEN_CASH_ACCOUNT",
    "DIM_SECURITY": "SEEN_SECURITY",
}
# FACT_DELIVERY is the manifests'; these of its columns are the document's too.
_MANIFEST = {
    "PORTFOLIO_KEY": ("accounts", "portfolio_number"),
    "PORTFOLIO_NUMBER": ("accounts", "portfolio_number"),
    "CONSENT_CHANGE": ("accounts", "consent"),
    "EXTRACT_KIND": ("accounts", "extract"),
}
# What no element of the document tells, in the words of whoever reads the table.
_MEANINGS = {
    "FEED": "the feed that delivered it",
    "BUSINESS_DATE": "the business date that it was delivered for",
    "RECIPIENT": "who it was delivered to",
    "PORTFOLIO_NUMBER": "what the customer and the recipient call the account; null: of no portfolio alone",
    "PORTFOLIO_KEY": "durable key: MD5 of recipient and portfolio number",
    "SECURITY_KEY": "durable key: MD5 of exchange and ISIN, or code without one",
    "CASH_ACCOUNT_KEY": "durable key: MD5 of recipient, portfolio, currency and account number",
    "MESSAGE_ID": "the page that carried it",
    "CORRELATION_ID": "the attempt that delivered it",
    "VALID_FROM": "the first business date of this version",
    "VALID_TO": "the business date from which it no longer holds",
    "IS_CURRENT": "no later version replaced it",
    "REVISION": "of the date's delivery, from 1",
    "SEQUENCE_NUMBER": "of the date, among the feed's",
    "CHAIN_POSITION": "of the manifest, in the feed's chain",
    "CONTENT_DIGEST": "SHA-256 of the portfolio's records",
    "RECORD_BYTES": "size of the portfolio's records",
    "PAGE_SHA256": "of the page's bytes",
    "SNAPSHOT_ID": "the reading of bigsite that it was made from",
    "SNAPSHOT_AT": "when bigsite was read, UTC",
    "CONSENT_CHECKED_AT": "when consent was asked for the last time, UTC",
    "IS_LATEST": "no later revision replaced it",
    "CALENDAR_DATE": "a day",
    "PREVIOUS_BUSINESS_DAY": "of the ASX",
    "NEXT_BUSINESS_DAY": "of the ASX",
    "YEAR_NUMBER": "of the calendar",
    "MONTH_NUMBER": "1 is January",
    "SIDE": "what it was compared with: source, or data_team",
    "KIND": "what is wrong",
    "SEVERITY": "error: the delivery is wrong; warning: to be looked at; event: nothing to mend",
    "FIELD_NAME": "the field or metric that differs",
    "EXPORT_VALUE": "what the delivery says; personal values are masked",
    "OTHER_VALUE": "what the other side says; personal values are masked",
    "DIFFERENCE": "ours less theirs, where both are numbers",
    "EXPLANATION": "the likeliest cause",
    "EVIDENCE": "what in the data speaks for it",
    "SOURCE_ROW": "the row in bigsite",
    "LANDED_FILE": "the landed file that holds it",
    "PAGE": "the delivered page",
    "LINE": "the line in the document",
    "FIRST_SEEN": "when it was found first, UTC",
    "LAST_SEEN": "when it was found last, UTC",
    "FIRST_ATTEMPT": "the attempt that found it first",
    "LAST_ATTEMPT": "the attempt that found it last",
    "ATTEMPT": "the reconciliation's attempt",
    "RAN_AT": "when it ran, UTC",
    "METRIC": "what was counted",
    "VALUE": "the count",
}


@dataclass(frozen=True, slots=True)
class WarehouseColumn:
    """A column of the star schema. ``made_of``: the document's frames and columns; none if only the manifest tells."""

    name: str
    type: str
    nullable: bool
    meaning: str
    unit: str | None
    personal: bool
    made_of: tuple[tuple[str, str], ...]
    rows: tuple[str, ...] = LEDGER_ROWS  # the landed ledgers and openings whose rows fill it


@cache
def warehouse_tables() -> Mapping[str, tuple[WarehouseColumn, ...]]:
    """Every table that ``ddl/`` creates, with its columns in order."""
    found: dict[str, tuple[WarehouseColumn, ...]] = {}
    for migration in migrations():
        for table, body in _TABLE.findall(migration.text):
            found[table] = columns_in(table, body)
    return found


def columns_in(table: str, body: str) -> tuple[WarehouseColumn, ...]:
    """The columns of ``table``, from what its CREATE TABLE has in brackets; ValueError if it isn't."""
    lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
    # Some tables are written several columns a line.
    return tuple(_column(table, part) for line in lines for part in _parts(line) if part.strip())


def _parts(line: str) -> list[str]:
    return [line] if "--" in line else re.split(r",\s(?=[A-Z0-9_]+ )", line)


def _column(table: str, line: str) -> WarehouseColumn:
    match = _COLUMN.match(line)
    if match is None:
        raise ValueError(f"not a column of {table}: {line.strip()}")
    name = match["name"]
    made_of = _made_of(table, name)
    declared = [_FRAMES[frame].column(column) for frame, column in made_of]
    meaning = match["meaning"] or _said(declared) or _MEANINGS.get(name, "")
    if name.endswith("_KEY"):  # a key says what it is made of, not what its parts mean
        meaning = match["meaning"] or _MEANINGS[name]
    units = {one.unit for one in declared}
    return WarehouseColumn(
        name,
        match["type"],
        match["required"] is None,
        meaning,
        units.pop() if len(units) == 1 else None,
        any(one.personal for one in declared),
        made_of,
        ROWS.get((table, name.lower()), LEDGER_ROWS),
    )


def _made_of(table: str, name: str) -> tuple[tuple[str, str], ...]:
    if table == "FACT_DELIVERY":
        return (_MANIFEST[name],) if name in _MANIFEST else ()
    return frame_columns(SEEN.get(table, table), name.lower())


def _said(declared: list[Column]) -> str:
    return "; ".join(dict.fromkeys(one.description for one in declared))
