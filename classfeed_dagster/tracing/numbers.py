"""Numbers of a record side by side: bigsite's rows, the landed rows, the delivered record, the warehouse's row."""

from __future__ import annotations

import csv
import functools
import io
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import sqlalchemy as sa
from lxml import etree

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.landing import verified_file
from classfeed_dagster.bigsite.queries import SCHEMAS
from classfeed_dagster.bigsite.snapshot import read_snapshot
from classfeed_dagster.delivery.delivery_history import delivered_page, live_and_shadow
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.documents.locate import excerpt
from classfeed_dagster.domains.columns import ACCOUNT_BALANCES, INVESTMENT_HOLDINGS, MOVEMENT_TRANSACTIONS, Frame
from classfeed_dagster.domains.lineage import sources_of
from classfeed_dagster.store import ObjectStore, address
from classfeed_dagster.tracing.source_rows import SourceRow
from classfeed_dagster.tracing.trace import CashTrace, HoldingTrace, Sighting, Trace
from classfeed_dagster.warehouse.database import Connection, literal, query
from classfeed_dagster.warehouse.rows import key_of
from classfeed_dagster.warehouse.schema import stored_table

HEADER = ("field", "bigsite", "landed", "document", "warehouse")


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number at each of its places, as text; None where the place has none. bigsite's is the present value.

    A number that is computed from several columns has no value at bigsite and in the landing.
    """

    field: str
    bigsite: str | None
    landed: str | None
    document: str | None
    warehouse: str | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row for a table."""
        return (self.field, *(value or "" for value in (self.bigsite, self.landed, self.document, self.warehouse)))


@dataclass(frozen=True, slots=True)
class _TracedRecord:
    """A traced record: its frame, its rows in bigsite by table, their keys in the landing, and the warehouse's row."""

    frame: Frame
    bigsite: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, Mapping[str, int]]
    fact: str
    condition: str


def numbers_of(
    engine: sa.Engine,
    store: ObjectStore,
    feed: str,
    trace: Trace | HoldingTrace | CashTrace,
    document_format: DocumentFormat,
    warehouse: Connection | None,
) -> tuple[NumberRow, ...]:
    """Return the numbers of the latest delivery of a record; empty without a source row or a delivery.

    ``warehouse``: None if it is not read.
    """
    if not trace.sightings or (isinstance(trace, Trace) and trace.source is None):
        return ()
    latest = trace.sightings[-1]
    record = _record(engine, trace, latest.delivery.manifest.recipient)
    landed = _landed(store, latest, record.keys) if latest.landed_expired_on is None else {}
    document = _document(store, feed, latest, document_format)
    fields = dict(_fields(document_format, record.frame))
    loaded = {} if warehouse is None else _loaded(warehouse, feed, record, latest, [*fields.values()])
    rows = (
        NumberRow(
            name,
            _text(_number(record, column, record.bigsite)),
            _text(_number(record, column, landed)),
            document.get(name),
            _text(loaded.get(column)),
        )
        for name, column in fields.items()
    )
    return tuple(row for row in rows if any(row.cells[1:]))


def links_of(trace: Trace | HoldingTrace | CashTrace, feed: str, ui: str | None) -> Mapping[str, str]:
    """Return the URL behind each place of ``HEADER`` that has one: landed file, document, the warehouse's asset.

    ``ui``: base URL of the Dagster UI; None without one. bigsite has no URL.
    """
    if not trace.sightings:
        return {}
    latest = trace.sightings[-1]
    links = {"landed": address(latest.landed_location), "document": address(latest.page_location)}
    if ui is None:
        return links
    return {**links, "warehouse": f"{ui.rstrip('/')}/assets/warehouse/{feed}/{_fact(trace).lower()}"}


def _fact(trace: Trace | HoldingTrace | CashTrace) -> str:
    if isinstance(trace, CashTrace):
        return "FACT_CASH_BALANCE_DAILY"
    return "FACT_HOLDING_DAILY" if isinstance(trace, HoldingTrace) else "FACT_MOVEMENT"


def _fields(document_format: DocumentFormat, frame: Frame) -> Iterator[tuple[str, str]]:
    # The document's numeric fields, each with the frame's column that fills it.
    for field in document_format.columns:
        columns = [name for of, name in field.filled_by if of == frame.name]
        numeric = [name for name in columns if isinstance(frame.schema[name], pl.Decimal)]
        if len(numeric) == 1:
            yield field.name.rpartition("/")[2], numeric[0]


def _number(record: _TracedRecord, column: str, rows: Mapping[str, Mapping[str, Any]]) -> Decimal | None:
    # The value of the column's one numeric source; None if the column is computed from several.
    sources = [
        (table, name)
        for table, name in sources_of(record.frame.column(column))
        if table in record.keys and pa.types.is_decimal(SCHEMAS[table].field(name).type)
    ]
    if len(sources) != 1:
        return None
    ((table, name),) = sources
    value: Decimal | None = rows.get(table, {}).get(name)
    return value


def _record(engine: sa.Engine, trace: Trace | HoldingTrace | CashTrace, recipient: str) -> _TracedRecord:
    if isinstance(trace, CashTrace):
        return _balance(engine, trace, recipient)
    return _holding(engine, trace) if isinstance(trace, HoldingTrace) else _movement(engine, trace)


def _balance(engine: sa.Engine, trace: CashTrace, recipient: str) -> _TracedRecord:
    eod, account = tables.cash_balance_eod, tables.cash_account.c
    owned = {"cash_account_id": trace.cash_account_id}
    stated = (eod.c.cash_account_id == trace.cash_account_id, eod.c.as_at_date == trace.business_date)
    row = _row(engine, sa.select(eod).where(*stated))
    named = _row(engine, sa.select(account.account_number).where(account.cash_account_id == trace.cash_account_id))
    key = key_of(recipient, trace.portfolio_number, trace.currency, named["account_number"])
    return _TracedRecord(
        ACCOUNT_BALANCES,
        {eod.name: row},
        {eod.name: owned},
        _fact(trace),
        f"CASH_ACCOUNT_KEY = {literal(key)}",
    )


def _movement(engine: sa.Engine, trace: Trace) -> _TracedRecord:
    source: SourceRow = trace.source  # type: ignore[assignment]  # the caller has one
    ledger, key = tables.metadata.tables[f"{tables.SCHEMA}.{source.table}"], f"{source.table}_id"
    row = _row(engine, sa.select(ledger).where(ledger.c[key] == source.key))
    return _TracedRecord(
        MOVEMENT_TRANSACTIONS,
        {source.table: row},
        {source.table: {key: source.key}},
        _fact(trace),
        f"TRANSACTION_ID = {literal(trace.transaction_id)}",
    )


def _holding(engine: sa.Engine, trace: HoldingTrace) -> _TracedRecord:
    portfolio, eod = tables.portfolio.c, tables.holding_eod.c
    owner = _row(engine, sa.select(portfolio.portfolio_id).where(portfolio.portfolio_number == trace.portfolio_number))
    owned = {"portfolio_id": int(owner["portfolio_id"]), "security_id": trace.security_id}
    stated = [eod[name] == value for name, value in (*owned.items(), ("as_at_date", trace.business_date))]
    row = _row(engine, sa.select(tables.holding_eod).where(*stated))
    price = {} if trace.price is None else {"close_price": trace.price[1]}
    names = (
        ("PORTFOLIO_NUMBER", trace.portfolio_number),
        ("EXCHANGE", trace.exchange),
        ("SECURITY_CODE", trace.security_code),
    )
    return _TracedRecord(
        INVESTMENT_HOLDINGS,
        {"holding_eod": row, "security_price": price},
        {"holding_eod": owned, "security_price": {"security_id": trace.security_id}},
        _fact(trace),
        " AND ".join(f"{name} = {literal(value)}" for name, value in names),
    )


def _row(engine: sa.Engine, statement: sa.Select[Any]) -> Mapping[str, Any]:
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    return {} if row is None else dict(row)


def _landed(
    store: ObjectStore, sighting: Sighting, keys: Mapping[str, Mapping[str, int]]
) -> dict[str, Mapping[str, Any]]:
    taken = sighting.delivery.manifest.snapshot
    snapshot = read_snapshot(store, taken.descriptor_key, taken.descriptor_sha256)
    landed: dict[str, Mapping[str, Any]] = {}
    for table, key in keys.items():
        row_filter = functools.reduce(operator.and_, [pl.col(name) == value for name, value in key.items()])
        for file in snapshot.tables[table].files:
            with verified_file(store, file) as path:
                rows = pl.scan_parquet(path, glob=False).filter(row_filter).head(1).collect().to_dicts()
            if rows:
                landed[table] = rows[0]
                break
    return landed


def _document(store: ObjectStore, feed: str, sighting: Sighting, document_format: DocumentFormat) -> Mapping[str, str]:
    with delivered_page(live_and_shadow(store, feed), sighting.delivery.page) as path:
        record = excerpt(path, sighting.places[0])
    layout = document_format.csv_layout
    if layout is None:
        root = etree.fromstring(record, etree.XMLParser(resolve_entities=False, no_network=True))
        values = [
            (etree.QName(element).localname, (element.text or "").strip()) for element in root.iter(etree.Element)
        ]
    else:
        names = (
            ["", *(field.name for field in layout.details)]
            if layout.framed
            else [field.heading or field.name for field in layout.details]
        )
        values = list(zip(names, next(csv.reader(io.StringIO(record.decode()))), strict=True))
    return {name: _text(Decimal(text)) or "" for name, text in values if _is_number(text)}


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdecimal()


def _loaded(
    warehouse: Connection, feed: str, record: _TracedRecord, sighting: Sighting, columns: list[str]
) -> Mapping[str, Any]:
    rows = query(
        warehouse,
        f"SELECT {', '.join(name.upper() for name in columns)} FROM {stored_table(record.fact)} "  # noqa: S608 - checked literals
        f"WHERE FEED = {literal(feed)} AND BUSINESS_DATE = {literal(sighting.delivery.manifest.business_date)} "
        f"AND {record.condition}",
    )
    return dict(zip(columns, rows[0], strict=True)) if rows else {}


def _text(value: Any) -> str | None:
    # Equal numbers have equal texts, at any place and scale.
    if not isinstance(value, Decimal):
        return None if value is None else str(value)
    whole = value.normalize()
    return f"{whole if whole.as_tuple().exponent < 0 else whole.quantize(Decimal(1)):f}"  # type: ignore[operator]
