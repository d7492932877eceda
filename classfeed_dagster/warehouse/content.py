"""Content of a loaded business date in the warehouse: rows and a digest a table, to find rows that changed since."""

from __future__ import annotations

import datetime as dt
import hashlib

from pydantic import BaseModel

from classfeed_dagster.warehouse.columns import warehouse_tables
from classfeed_dagster.warehouse.database import Connection, literal, query
from classfeed_dagster.warehouse.schema import stored_table

# Every table whose rows belong to one business date. Dimensions are rebuilt from the SEEN tables by each load.
DATED_TABLES = (
    "FACT_MOVEMENT",
    "FACT_HOLDING_DAILY",
    "FACT_CASH_BALANCE_DAILY",
    "FACT_DELIVERY",
    "SEEN_PORTFOLIO",
    "SEEN_CASH_ACCOUNT",
    "SEEN_SECURITY",
)


class TableContent(BaseModel, frozen=True):
    """Rows of a table for one feed and date, and a digest over all their values."""

    rows: int
    digest: str


def content_of(connection: Connection, feed: str, day: dt.date) -> dict[str, TableContent]:
    """Return the content of every table for a feed's business date, computed in the warehouse."""
    return {table: _content(connection, table, feed, day) for table in DATED_TABLES}


def changed_tables(then: dict[str, TableContent], now: dict[str, TableContent]) -> list[str]:
    """Return the tables whose content differs, each with its rows then and now."""
    return [
        f"{table} ({then[table].rows} rows when it was loaded, {now[table].rows} now)"
        for table in sorted(then.keys() & now.keys())
        if then[table] != now[table]
    ]


def _content(connection: Connection, table: str, feed: str, day: dt.date) -> TableContent:
    # A digest a row, then one a group of rows in order, so that no text grows with the table.
    values = " || CHR(31) || ".join(
        f"COALESCE(CAST({column.name} AS VARCHAR), CHR(29))" for column in warehouse_tables()[table]
    )
    groups = query(
        connection,
        f"""SELECT SUBSTR(D, 1, 2) AS G, COUNT(*), MD5(LISTAGG(D, '') WITHIN GROUP (ORDER BY D))
        FROM (SELECT MD5({values}) AS D FROM {stored_table(table)}
        WHERE FEED = {literal(feed)} AND BUSINESS_DATE = {literal(day)}) R
        GROUP BY SUBSTR(D, 1, 2) ORDER BY G""",  # noqa: S608 - names of this package's tables
    )
    digest = hashlib.sha256("\n".join(f"{group} {rows} {of}" for group, rows, of in groups).encode()).hexdigest()
    return TableContent(rows=sum(int(rows) for _, rows, _ in groups), digest=digest)
