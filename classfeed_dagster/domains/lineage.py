"""Column lineage of the domains: landed columns, and through them bigsite's. Derived from declarations alone."""

from __future__ import annotations

from collections.abc import Collection

from classfeed_dagster.bigsite.lineage import landed_sources
from classfeed_dagster.domains.build import FRAMES
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, Column, Frame

DERIVED = "derived"
LEDGER_ROWS = ("trade", "security_movement", "income", "cash_transaction", "opening_units", "opening_cash")

Source = tuple[str, str]  # landed table, or the frame of consented portfolios; its column


def sources_of(column: Column, rows: Collection[str] = LEDGER_ROWS) -> tuple[Source, ...]:
    """Return a column's sources one step back: (landed table or ``consented_portfolios``, column).

    ``rows`` are the ledgers and openings that the document carries.
    """
    left_out = set(LEDGER_ROWS) - set(rows)
    sources: list[Source] = []
    for source in column.source:
        table, _, name = source.partition(".")
        used_by = column.only.get(source, rows)
        if source != DERIVED and table not in left_out and set(used_by) & set(rows):
            sources.append((table, name))
    return tuple(sorted(sources))


def bigsite_columns(column: Column, rows: Collection[str] = LEDGER_ROWS) -> tuple[str, ...]:
    """Return the bigsite columns (``table.column``) from which a domain column's values are computed."""
    columns: set[str] = set()
    for table, name in sources_of(column, rows):
        if table == CONSENTED_PORTFOLIOS.name:
            columns.update(bigsite_columns(CONSENTED_PORTFOLIOS.column(name)))
        else:
            columns.update(landed_sources(table)[name])
    return tuple(sorted(columns))


def shown_frames(domain: str) -> tuple[Frame, ...]:
    """Return the frames that a domain shows to people: all but the findings, the main frame first."""
    return FRAMES[domain][:-1]


def shown_name(domain: str, frame: Frame, column: str) -> str:
    """Return a column's name in the domain's table schema, prefixed with the frame's name for further frames."""
    return column if frame is FRAMES[domain][0] else f"{frame.name}.{column}"


def domain_of(frame: str) -> str:
    """Return the domain that produces the frame called ``frame``."""
    return next(domain for domain in FRAMES if any(shown.name == frame for shown in shown_frames(domain)))
