"""Numbers of a transaction side by side: bigsite's row, the landed row, the delivered record, the warehouse's row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
from lxml import etree

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.documents import epi_mapping as epi
from classfeed_dagster.documents.locate import excerpt
from classfeed_dagster.domains.columns import MOVEMENT_TRANSACTIONS
from classfeed_dagster.domains.lineage import sources_of
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.tracing.trace import Sighting, SourceRow, Trace
from classfeed_dagster.warehouse.database import Connection, literal, query

HEADER = ("field", "bigsite", "landed", "document", "warehouse")


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number at each of its places, as text; None where the place has none. bigsite's is the present value."""

    field: str
    bigsite: str | None
    landed: str | None
    document: str | None
    warehouse: str | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row for a table."""
        return (self.field, *(value or "" for value in (self.bigsite, self.landed, self.document, self.warehouse)))


def numbers_of(
    engine: sa.Engine, store: ObjectStore, feed: str, trace: Trace, warehouse: Connection | None
) -> tuple[NumberRow, ...]:
    """Return the numbers of the latest delivery of a transaction; empty without a source row or a delivery.

    A document other than EPI states its numbers in a line, whose place the trace names: its column stays empty.
    ``warehouse``: None if it is not read.
    """
    if trace.source is None or not trace.sightings:
        return ()
    source, latest = trace.source, trace.sightings[-1]
    now = _bigsite(engine, source)
    landed = _landed(store, latest, source)
    document = _document(store, feed, latest)
    loaded = {} if warehouse is None else _loaded(warehouse, feed, trace.transaction_id, latest)
    columns = {column.name: column for column in MOVEMENT_TRANSACTIONS.columns}
    rows = []
    for element in epi.MOVEMENT_TRANSACTION.elements:
        if element.type not in epi.NUMBERS:
            continue
        names = [name for table, name in sources_of(columns[element.column]) if table == source.table]
        at_source, at_landing = (_number(place, names) for place in (now, landed))
        row = NumberRow(
            element.name,
            _text(at_source),
            _text(at_landing),
            document.get(element.name),
            _text(loaded.get(element.column.upper())),
        )
        if any(row.cells[1:]):
            rows.append(row)
    return tuple(rows)


def _number(row: Mapping[str, Any], names: Iterable[str]) -> Decimal | None:
    return next((row[name] for name in names if isinstance(row.get(name), Decimal)), None)


def _bigsite(engine: sa.Engine, source: SourceRow) -> Mapping[str, Any]:
    ledger = tables.metadata.tables[f"{tables.SCHEMA}.{source.table}"]
    with engine.connect() as connection:
        found = connection.execute(sa.select(ledger).where(ledger.c[f"{source.table}_id"] == source.key))
        return dict(found.mappings().one())


def _landed(store: ObjectStore, sighting: Sighting, source: SourceRow) -> Mapping[str, Any]:
    snapshot = Snapshot.model_validate_json(store.read(sighting.delivery.manifest.snapshot.descriptor_key))
    for file in snapshot.tables[source.table].files:
        with store.local_file(file.key) as path:
            rows = pq.read_table(path, filters=pc.field(f"{source.table}_id") == source.key).to_pylist()
        if rows:
            return dict(rows[0])
    return {}


def _document(store: ObjectStore, feed: str, sighting: Sighting) -> Mapping[str, str]:
    place = sighting.places[0]
    if place.element != epi.MOVEMENT_TRANSACTION.name:
        return {}
    with live_and_shadow(store, feed).local_file(sighting.delivery.page.key) as path:
        record = etree.fromstring(excerpt(path, place), etree.XMLParser(resolve_entities=False, no_network=True))
    return {
        etree.QName(element).localname: _text(Decimal(text)) or ""
        for element in record.iter(etree.Element)
        if (text := (element.text or "").strip()) and _is_number(text)
    }


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdecimal()


def _loaded(warehouse: Connection, feed: str, transaction_id: str, sighting: Sighting) -> Mapping[str, Any]:
    names = [element.column.upper() for element in epi.MOVEMENT_TRANSACTION.elements if element.type in epi.NUMBERS]
    day: dt.date = sighting.delivery.manifest.business_date
    rows = query(
        warehouse,
        f"SELECT {', '.join(names)} FROM FACT_MOVEMENT WHERE FEED = {literal(feed)} "  # noqa: S608 - checked literals
        f"AND BUSINESS_DATE = {literal(day)} AND TRANSACTION_ID = {literal(transaction_id)}",
    )
    return dict(zip(names, rows[0], strict=True)) if rows else {}


def _text(value: Any) -> str | None:
    # The same number has the same text wherever it is kept, whatever its scale there.
    if not isinstance(value, Decimal):
        return None if value is None else str(value)
    whole = value.normalize()
    return f"{whole if whole.as_tuple().exponent < 0 else whole.quantize(Decimal(1)):f}"  # type: ignore[operator]
