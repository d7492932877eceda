"""Lineage of each bigsite column to the domains' columns and the documents' fields that it fills.

Derived from the declarations: the frames' ``source``, the EPI mapping, the CSV layouts.
"""

from __future__ import annotations

from classfeed_dagster.documents.document_format import DocumentColumn, DocumentFormat
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.columns import Column, Frame
from classfeed_dagster.domains.lineage import LEDGER_ROWS, bigsite_columns
from classfeed_dagster.source_contract.drift import Export, Exports

_FRAMES = {frame.name: frame for frame in vars(columns).values() if isinstance(frame, Frame)}


def filling(field: DocumentColumn) -> tuple[tuple[Frame, Column], ...]:
    """Return the domains' frames and columns that fill a field of a document."""
    return tuple((_FRAMES[frame], _FRAMES[frame].column(column)) for frame, column in field.filled_by)


def is_personal(field: DocumentColumn) -> bool:
    """Return True if a field's value may never appear in a log, an alert, metadata or an error."""
    return any(column.personal for _, column in filling(field))


def field_sources(field: DocumentColumn) -> tuple[str, ...]:
    """Return bigsite's columns (``table.column``) that a document's field comes from, through all steps."""
    rows = LEDGER_ROWS if field.rows is None else field.rows
    return tuple(sorted({source for _, column in filling(field) for source in bigsite_columns(column, rows)}))


def exports_of(formats: tuple[DocumentFormat, ...]) -> Exports:
    """Return the exports of every bigsite column (``table.column``) that a domain uses, in a stable order.

    Elements of the EPI document have their path, fields of another format its name and extension before it.
    """
    exports: dict[str, set[Export]] = {}
    reached: set[tuple[str, str]] = set()
    others = {one.name: one for one in formats if one.name != EPI.name}
    fields = [("", field) for field in EPI.columns]
    fields += [(f"{name}{one.extension}/", field) for name, one in others.items() for field in one.columns]
    for file, field in fields:
        rows = LEDGER_ROWS if field.rows is None else field.rows
        for frame, column in filling(field):
            reached.add((frame.name, column.name))
            for source in bigsite_columns(column, rows):
                exports.setdefault(source, set()).add(Export(f"{frame.name}.{column.name}", f"{file}{field.name}"))
    for frame in _FRAMES.values():
        for column in frame.columns:
            for source in bigsite_columns(column) if (frame.name, column.name) not in reached else ():
                exports.setdefault(source, set()).add(Export(f"{frame.name}.{column.name}"))
    return {source: tuple(sorted(names)) for source, names in sorted(exports.items())}
