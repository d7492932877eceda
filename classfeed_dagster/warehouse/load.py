"""Loading a business date into the warehouse from what was delivered: through the manifests, never from the frames.

The whole date is loaded anew each time: staged in bulk first, then deleted and replaced in one transaction, so that
a rerun or a new revision leaves no duplicate and no gap, and readers see the date before or after, nothing between.
"""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from classfeed_dagster.delivery.manifest import Manifest, Page
from classfeed_dagster.delivery.state import DeliveredState, delivered_state
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.errors import DamagedRecordError, DataError, ExitCode
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import file_facts
from classfeed_dagster.warehouse.database import Connection, Cursor, Staging, execute, literal, transaction
from classfeed_dagster.warehouse.rows import key_of, rows_of_page
from classfeed_dagster.warehouse.schema import ensure_dates

FACTS = ("FACT_MOVEMENT", "FACT_HOLDING_DAILY", "FACT_CASH_BALANCE_DAILY", "FACT_DELIVERY")
_FOR_EVER = "'9999-12-31'::DATE"


@dataclass(frozen=True, slots=True)
class _Dimension:
    table: str
    seen: str
    key: str
    columns: tuple[str, ...]  # as in both tables
    described_by: str | None = None  # rows without it say nothing where others have it


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
    """The feed has no delivery for the business date, so there is nothing to load."""

    exit_code = ExitCode.NOT_READY


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load put in place for the business date, by table."""

    feed: str
    business_date: dt.date
    revisions: int
    pages: int
    rows: Mapping[str, int] = field(default_factory=dict)
    dates: int = 0  # days in DIM_DATE


def load_delivery(
    connection: Connection, store: ObjectStore, feed: str, day: dt.date, document_format: DocumentFormat
) -> Loaded:
    """Replace the business date in the warehouse by what was delivered for it: of each portfolio the latest revision.

    NothingToLoadError without a delivery; DamagedRecordError if a file, or what is read from it, isn't what its
    manifest says; LoadDiffersError if rows or sums change on the way into the tables. Nothing is changed then. The
    schema must have been applied. Memory: one page at a time.
    """
    state = delivered_state(store, feed, day)
    if state.latest is None:
        raise NothingToLoadError(f"{feed} has no delivery for {day.isoformat()}: deliver it first")
    dates = ensure_dates(connection, day)
    with Staging(connection) as staging:
        staged = {table: staging.table(table) for table in (*FACTS, *(one.seen for one in _DIMENSIONS))}
        pages = 0
        for tables in _pages(store, state, document_format):
            pages += 1
            for table, frame in tables.items():
                staging.put(staged[table], frame)
        staging.put(staged["FACT_DELIVERY"], _deliveries(state))
        rows = {table: staging.copy(name) for table, name in staged.items()}
        where = f"WHERE FEED = {literal(feed)} AND BUSINESS_DATE = {literal(day)}"
        for one in _DIMENSIONS:
            execute(connection, _affected(one, staged[one.seen], where))
        try:
            with transaction(connection) as cursor:
                for table in FACTS:
                    cursor.execute(f"DELETE FROM {table} {where}")
                    cursor.execute(f"INSERT INTO {table} SELECT * FROM {staged[table]}")
                    staging.prove(cursor, staged[table], table, where)
                for one in _DIMENSIONS:
                    _rebuild(cursor, one, staged[one.seen], where)
        finally:
            execute(connection, *(f"DROP TABLE IF EXISTS {_affected_name(one)}" for one in _DIMENSIONS))
    return Loaded(feed, day, len(state.deliveries), pages, {table: rows[table] for table in FACTS}, dates)


def _pages(
    store: ObjectStore, state: DeliveredState, document_format: DocumentFormat
) -> Iterator[Mapping[str, pl.DataFrame]]:
    latest = {number: found.revision for number, found in state.portfolios.items()}
    for manifest in state.deliveries:
        standing = [entry.number for entry in manifest.portfolios if latest[entry.number] == manifest.revision]
        for page in manifest.pages:
            frames = _read(store, page, document_format)
            kept = {name: frame.filter(pl.col("portfolio_number").is_in(standing)) for name, frame in frames.items()}
            yield rows_of_page(
                kept,
                feed=state.feed,
                recipient=manifest.recipient,
                business_date=pl.lit(state.business_date),
                message_id=page.message_id,
                correlation_id=manifest.correlation_id,
            ).tables


def _read(store: ObjectStore, page: Page, document_format: DocumentFormat) -> dict[str, pl.DataFrame]:
    with store.local_file(page.key) as path:
        if file_facts(path) != (page.bytes, page.sha256):
            raise DamagedRecordError(store.location(page.key), "the delivered page isn't what its manifest says")
        frames = document_format.read(path)
    totals = document_format.totals(frames)
    if totals is not None and totals != page.expected:
        raise DamagedRecordError(
            store.location(page.key), "the records read from the page don't add up to its manifest's control totals"
        )
    return frames


def _deliveries(state: DeliveredState) -> pl.DataFrame:
    """FACT_DELIVERY: every portfolio of every revision."""
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


# --- Dimensions: versions rebuilt from what each date said, for the members that this date touches. --------------


def _affected_name(one: _Dimension) -> str:
    return f"AFFECTED_{one.seen}"


def _affected(one: _Dimension, staged: str, where: str) -> str:
    # Those of before too: a member that the date no longer has must lose what the date said.
    return (
        f"CREATE OR REPLACE TEMPORARY TABLE {_affected_name(one)} AS SELECT {one.key} FROM {staged} "
        f"UNION SELECT {one.key} FROM {one.seen} {where}"
    )


def _rebuild(cursor: Cursor, one: _Dimension, staged: str, where: str) -> None:
    key, columns = one.key, ", ".join(one.columns)
    affected = f"{key} IN (SELECT {key} FROM {_affected_name(one)})"
    described = (
        f"MAX(CASE WHEN {one.described_by} IS NULL THEN 0 ELSE 1 END) OVER (PARTITION BY {key}) = "
        f"CASE WHEN {one.described_by} IS NULL THEN 0 ELSE 1 END"
        if one.described_by
        else "TRUE"
    )
    cursor.execute(f"DELETE FROM {one.seen} {where}")
    # A security stands on many pages: of equals one, of different ones always the same.
    cursor.execute(
        f"INSERT INTO {one.seen} SELECT * FROM {staged} QUALIFY ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY "
        f"{f'{one.described_by} NULLS LAST, ' if one.described_by else ''}VERSION) = 1"
    )
    cursor.execute(f"DELETE FROM {one.table} WHERE {affected}")
    cursor.execute(
        f"""INSERT INTO {one.table} ({key}, {columns}, VALID_FROM, VALID_TO, IS_CURRENT)
        WITH TOLD AS (
            SELECT {key}, {columns}, VERSION, BUSINESS_DATE, {described} AS TELLS FROM {one.seen} WHERE {affected}
        ), DAILY AS (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY {key}, BUSINESS_DATE ORDER BY VERSION) AS NTH FROM TOLD WHERE TELLS
        ), COMPARED AS (
            SELECT *, LAG(VERSION) OVER (PARTITION BY {key} ORDER BY BUSINESS_DATE) AS BEFORE_IT FROM DAILY WHERE NTH = 1
        ), STARTS AS (
            SELECT *, LEAD(BUSINESS_DATE) OVER (PARTITION BY {key} ORDER BY BUSINESS_DATE) AS NEXT_START
            FROM COMPARED WHERE BEFORE_IT IS NULL OR BEFORE_IT <> VERSION
        )
        SELECT {key}, {columns}, BUSINESS_DATE, COALESCE(NEXT_START, {_FOR_EVER}), NEXT_START IS NULL FROM STARTS"""
    )
