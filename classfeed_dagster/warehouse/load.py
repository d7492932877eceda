"""Load of a business date into the warehouse, from the delivered documents and their manifests, not from the frames.

Each load replaces the whole date: staged in bulk first, then deleted and inserted in one transaction. So a re-run or a
new revision leaves neither duplicates nor gaps, and readers never see a partial date.

A FULL extract repeats a portfolio's history under a later date. Movements are therefore stored by delivered date, and
FACT_MOVEMENT is a view of them from the portfolio's latest FULL date (``ddl/0005_movements_once.sql``). A TransactionId
alone would not do: an opening has another one on each date.

The content of a loaded date is kept as rows and a digest a table, to find rows that changed since.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.delivery.manifest import Manifest, Page
from classfeed_dagster.delivery.state import DeliveredState, delivered_state
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.errors import DamagedRecordError, DataError, ExitCode, TemporaryError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import file_facts
from classfeed_dagster.warehouse.columns import warehouse_tables
from classfeed_dagster.warehouse.database import Connection, Cursor, Staging, execute, literal, query, transaction
from classfeed_dagster.warehouse.rows import key_of, rows_of_page
from classfeed_dagster.warehouse.schema import ensure_dates, stored_table

FACTS = ("FACT_MOVEMENT", "FACT_HOLDING_DAILY", "FACT_CASH_BALANCE_DAILY", "FACT_DELIVERY")
_NO_END = "'9999-12-31'::DATE"


@dataclass(frozen=True, slots=True)
class _Dimension:
    table: str
    seen: str
    key: str
    columns: tuple[str, ...]  # as in both tables
    described_by: str | None = None  # rows without it are ignored if others have it


_DIMENSIONS = (
    _Dimension(
        "DIM_PORTFOLIO",
        "SEEN_PORTFOLIO",
        "PORTFOLIO_KEY",
        ("RECIPIENT", "PORTFOLIO_NUMBER", "RECIPIENT_REFERENCE", "PORTFOLIO_NAME", "ENTITY_TYPE", "ABN", "HIN", "STATUS",
         "OPENED_ON", "CLOSED_ON", "IS_SHARED"),
    ),
    _Dimension(
        "DIM_CASH_ACCOUNT",
        "SEEN_CASH_ACCOUNT",
        "CASH_ACCOUNT_KEY",
        ("RECIPIENT", "PORTFOLIO_KEY", "PORTFOLIO_NUMBER", "CASH_ACCOUNT_NUMBER", "CURRENCY", "BSB", "ACCOUNT_NAME",
         "STATUS", "OPENED_ON", "CLOSED_ON"),
    ),
    _Dimension(
        "DIM_SECURITY",
        "SEEN_SECURITY",
        "SECURITY_KEY",
        ("EXCHANGE", "SECURITY_CODE", "ISIN", "SECURITY_NAME", "SECURITY_TYPE", "CURRENCY"),
        "SECURITY_NAME",
    ),
)  # fmt: skip


class NothingToLoadError(DataError):
    """The feed has no delivery for the business date."""

    exit_code = ExitCode.NOT_READY


class LoadOutdatedError(TemporaryError):
    """The date was delivered again while its load read the earlier delivery."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Rows of a business date by table, after its load. ``build_id``: the latest delivery that they hold."""

    feed: str
    business_date: dt.date
    build_id: str
    revisions: int
    pages: int
    rows: Mapping[str, int] = field(default_factory=dict)
    dates: int = 0  # days in DIM_DATE


def load_delivery(
    connection: Connection, store: ObjectStore, feed: str, day: dt.date, document_format: DocumentFormat
) -> LoadResult:
    """Replace the business date in the warehouse with its delivered data: each portfolio's latest revision.

    NothingToLoadError without a delivery; DamagedRecordError if a file or its records differ from the manifest;
    LoadDiffersError if the tables differ from the uploaded rows; LoadOutdatedError after a delivery in the meantime.
    After an error the date is unchanged. Requires the applied schema. Memory: one page at a time.
    """
    state = delivered_state(store, feed, day)
    if state.latest is None:
        raise NothingToLoadError(f"{feed} has no delivery for {day.isoformat()}: deliver it first")
    dates = ensure_dates(connection, day)
    with Staging(connection) as staging:
        loaded = (*FACTS, *(dimension.seen for dimension in _DIMENSIONS))
        staged = {table: staging.table(stored_table(table)) for table in loaded}
        pages = 0
        for tables in _pages(store, state, document_format):
            pages += 1
            for table, frame in tables.items():
                staging.put(staged[table], frame)
        staging.put(staged["FACT_DELIVERY"], _deliveries(state))
        rows = {table: staging.copy(name) for table, name in staged.items()}
        condition = f"WHERE FEED = {literal(feed)} AND BUSINESS_DATE = {literal(day)}"
        for dimension in _DIMENSIONS:
            execute(connection, _affected(dimension, staged[dimension.seen], condition))
        try:
            with transaction(connection) as cursor:
                _require_latest(store, state.latest)  # a load of a later delivery may have been committed
                for table in FACTS:
                    stored = stored_table(table)
                    cursor.execute(f"DELETE FROM {stored} {condition}")
                    cursor.execute(f"INSERT INTO {stored} SELECT * FROM {staged[table]}")
                    staging.prove(cursor, staged[table], stored, condition)
                for dimension in _DIMENSIONS:
                    _rebuild(cursor, dimension, staged[dimension.seen], condition)
        finally:
            execute(connection, *(f"DROP TABLE IF EXISTS {_affected_name(dimension)}" for dimension in _DIMENSIONS))
    counts = {table: rows[table] for table in FACTS}
    return LoadResult(feed, day, state.latest.build_id, len(state.deliveries), pages, counts, dates)


def _require_latest(store: ObjectStore, loaded: Manifest) -> None:
    latest = delivered_state(store, loaded.feed, loaded.business_date).latest
    if latest != loaded:
        raise LoadOutdatedError(
            f"{loaded.feed} of {loaded.business_date.isoformat()} was delivered again during its load: load it again"
        )


def _pages(
    store: ObjectStore, state: DeliveredState, document_format: DocumentFormat
) -> Iterator[Mapping[str, pl.DataFrame]]:
    latest = {number: delivery.revision for number, delivery in state.portfolios.items()}
    for manifest in state.deliveries:
        current = [entry.number for entry in manifest.portfolios if latest[entry.number] == manifest.revision]
        for page in manifest.pages:
            frames = _read(store, page, document_format)
            selected = {name: frame.filter(pl.col("portfolio_number").is_in(current)) for name, frame in frames.items()}
            yield rows_of_page(
                selected,
                feed=state.feed,
                recipient=manifest.recipient,
                business_date=pl.lit(state.business_date),
                message_id=page.message_id,
                correlation_id=manifest.correlation_id,
            )


def _read(store: ObjectStore, page: Page, document_format: DocumentFormat) -> dict[str, pl.DataFrame]:
    with store.local_file(page.key) as path:
        if file_facts(path) != (page.bytes, page.sha256):
            raise DamagedRecordError(store.location(page.key), "the delivered page differs from its manifest")
        frames = document_format.read(path)
    totals = document_format.totals(frames)
    if totals is not None and totals != page.expected:
        raise DamagedRecordError(
            store.location(page.key), "the page's records do not add up to its manifest's control totals"
        )
    return frames


def _deliveries(state: DeliveredState) -> pl.DataFrame:
    """Return the rows of FACT_DELIVERY: each portfolio of each revision."""
    rows = [row for manifest in state.deliveries for row in _delivery_rows(state, manifest)]
    return pl.DataFrame(rows, infer_schema_length=None)


def _delivery_rows(state: DeliveredState, manifest: Manifest) -> Iterable[dict[str, Any]]:
    pages = {page.message_id: page for page in manifest.pages}
    for entry in manifest.portfolios:
        yield {
            "feed": state.feed,
            "business_date": state.business_date,
            "revision": manifest.revision,
            "message_id": entry.page,
            "portfolio_key": key_of(manifest.recipient, entry.number),
            "portfolio_number": entry.number,
            "sequence_number": manifest.sequence_number,
            "chain_position": manifest.chain_position,
            "consent_change": entry.change,
            "extract_kind": entry.extract,
            "content_digest": entry.digest,
            "record_bytes": entry.bytes,
            "page_sha256": pages[entry.page].sha256,
            "snapshot_id": manifest.snapshot.id,
            "snapshot_at": manifest.snapshot.snapshot_at.astimezone(dt.UTC).replace(tzinfo=None),
            "consent_checked_at": manifest.consent_checked_at.astimezone(dt.UTC).replace(tzinfo=None),
            "correlation_id": manifest.correlation_id,
            "is_latest": state.portfolios[entry.number].revision == manifest.revision,
        }


# Dimensions: versions are rebuilt from each date's attributes, for the members that this date affects.


def _affected_name(dimension: _Dimension) -> str:
    return f"AFFECTED_{dimension.seen}"


def _affected(dimension: _Dimension, staged: str, condition: str) -> str:
    # Includes the previous members: a member that the date no longer has loses the date's attributes.
    return (
        f"CREATE OR REPLACE TEMPORARY TABLE {_affected_name(dimension)} AS SELECT {dimension.key} FROM {staged} "
        f"UNION SELECT {dimension.key} FROM {dimension.seen} {condition}"
    )


def _rebuild(cursor: Cursor, dimension: _Dimension, staged: str, condition: str) -> None:
    key, columns = dimension.key, ", ".join(dimension.columns)
    affected = f"{key} IN (SELECT {key} FROM {_affected_name(dimension)})"
    described = (
        f"MAX(CASE WHEN {dimension.described_by} IS NULL THEN 0 ELSE 1 END) OVER (PARTITION BY {key}) = "
        f"CASE WHEN {dimension.described_by} IS NULL THEN 0 ELSE 1 END"
        if dimension.described_by
        else "TRUE"
    )
    cursor.execute(f"DELETE FROM {dimension.seen} {condition}")
    # A security is on many pages: one row is kept, the same one in every load.
    cursor.execute(
        f"INSERT INTO {dimension.seen} SELECT * FROM {staged} QUALIFY ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY "
        f"{f'{dimension.described_by} NULLS LAST, ' if dimension.described_by else ''}VERSION) = 1"
    )
    cursor.execute(f"DELETE FROM {dimension.table} WHERE {affected}")
    cursor.execute(
        f"""INSERT INTO {dimension.table} ({key}, {columns}, VALID_FROM, VALID_TO, IS_CURRENT)
        WITH ATTRIBUTES AS (
            SELECT {key}, {columns}, VERSION, BUSINESS_DATE, {described} AS IS_DESCRIBED FROM {dimension.seen} WHERE {affected}
        ), DAILY AS (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY {key}, BUSINESS_DATE ORDER BY VERSION) AS NTH FROM ATTRIBUTES WHERE IS_DESCRIBED
        ), COMPARED AS (
            SELECT *, LAG(VERSION) OVER (PARTITION BY {key} ORDER BY BUSINESS_DATE) AS BEFORE_IT FROM DAILY WHERE NTH = 1
        ), STARTS AS (
            SELECT *, LEAD(BUSINESS_DATE) OVER (PARTITION BY {key} ORDER BY BUSINESS_DATE) AS NEXT_START
            FROM COMPARED WHERE BEFORE_IT IS NULL OR BEFORE_IT <> VERSION
        )
        SELECT {key}, {columns}, BUSINESS_DATE, COALESCE(NEXT_START, {_NO_END}), NEXT_START IS NULL FROM STARTS"""
    )


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
        GROUP BY SUBSTR(D, 1, 2) ORDER BY G""",
    )
    digest = hashlib.sha256("\n".join(f"{group} {rows} {of}" for group, rows, of in groups).encode()).hexdigest()
    return TableContent(rows=sum(int(rows) for _, rows, _ in groups), digest=digest)
