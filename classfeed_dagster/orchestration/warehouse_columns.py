"""Columns of the star schema, the breaks and the data team's table, with their lineage.

Names, types and sources are those of the working code: the tables' SQL, the load's declarations, the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import dagster as dg

from classfeed_dagster.documents.document_format import DocumentColumn, DocumentFormat
from classfeed_dagster.documents.lineage import field_sources
from classfeed_dagster.orchestration.column_metadata import PERSONAL_DATA, AssetColumn
from classfeed_dagster.reconciliation.data_team import COLUMNS as THEIR_COLUMNS
from classfeed_dagster.reconciliation.data_team import TABLE as THEIR_TABLE
from classfeed_dagster.reconciliation.metrics import METRICS, VIEWS
from classfeed_dagster.warehouse.columns import WarehouseColumn, columns_in, warehouse_tables
from classfeed_dagster.warehouse.load import FACTS

WAREHOUSE_TABLES = tuple(sorted((*FACTS, "DIM_DATE", "DIM_PORTFOLIO", "DIM_CASH_ACCOUNT", "DIM_SECURITY")))
BREAKS = "RECONCILIATION_BREAK"
THEIRS = dg.AssetKey(["data_team", THEIR_TABLE.lower()])
_NUMBER = "PORTFOLIO_NUMBER"


def table_columns(table: str, document: DocumentFormat, delivery: dg.AssetKey) -> list[AssetColumn]:
    """Return the columns of a table of the star schema, with the delivered document's fields as sources."""
    filled = _fields(document)
    return [
        _shown(column, delivery, [field for source in column.made_of for field in filled.get(source, ())])
        for column in warehouse_tables()[table]
    ]


def their_columns() -> list[AssetColumn]:
    """Return the agreed columns of the data team's table, without sources."""
    return [_shown(column, THEIRS, ()) for column in columns_in(THEIR_TABLE, THEIR_COLUMNS)]


def source_breaks(document: DocumentFormat, delivery: dg.AssetKey) -> list[AssetColumn]:
    """Return the columns of the breaks with bigsite. The row, not the column, states the field of a value."""
    number = [field for field in document.columns if field.filled_by == (("accounts", "portfolio_number"),)]
    return [_shown(column, delivery, number if column.name == _NUMBER else ()) for column in warehouse_tables()[BREAKS]]


def data_team_breaks(document: DocumentFormat, delivery: dg.AssetKey) -> list[AssetColumn]:
    """Return the columns of the breaks with the data team: sums of the document's fields, and their metrics."""
    filled = _fields(document)
    summed = {(VIEWS[metric.view], metric.column) for metric in METRICS if metric.column is not None}
    ours = [field for source in sorted(summed) for field in filled.get(source, ())]
    theirs = {_NUMBER: _NUMBER, "FIELD_NAME": "METRIC", "OTHER_VALUE": "VALUE", "DIFFERENCE": "VALUE"}
    shown = {column.name: column for column in source_breaks(document, delivery)}
    for name in ("EXPORT_VALUE", "DIFFERENCE"):
        shown[name] = _with_sources(shown[name], delivery, ours)
    for name, column in theirs.items():
        shown[name] = replace(shown[name], sources=(*shown[name].sources, (THEIRS, column)))
    return list(shown.values())


def _fields(document: DocumentFormat) -> dict[tuple[str, str], list[DocumentColumn]]:
    filled: dict[tuple[str, str], list[DocumentColumn]] = {}
    for field in document.columns:
        for source in field.filled_by:
            filled.setdefault(source, []).append(field)
    # A nested record has the portfolio number of the record around it.
    outer = filled.get(("accounts", _NUMBER.lower()), [])
    for frame in {frame for frame, _ in filled}:
        filled.setdefault((frame, _NUMBER.lower()), outer)
    return filled


def _shown(column: WarehouseColumn, asset: dg.AssetKey, fields: Sequence[DocumentColumn]) -> AssetColumn:
    personal = PERSONAL_DATA if column.personal else None
    shown = AssetColumn(column.name, column.type, column.meaning, column.nullable, column.unit, personal)
    return _with_sources(shown, asset, [replace(field, rows=column.rows) for field in fields]) if fields else shown


def _with_sources(shown: AssetColumn, asset: dg.AssetKey, fields: Iterable[DocumentColumn]) -> AssetColumn:
    listed = list(fields)
    origin = tuple(sorted({source for field in listed for source in field_sources(field)}))
    return replace(shown, sources=tuple((asset, field.name) for field in listed), origin=origin)
