"""Where each column of a domain comes from: the landed columns, and through them bigsite's. From declarations alone."""

from __future__ import annotations

from collections.abc import Collection

from classfeed_dagster.bigsite.lineage import landed_sources
from classfeed_dagster.bigsite.queries import SCHEMAS
from classfeed_dagster.domains.build import FRAMES
from classfeed_dagster.domains.columns import CONSENTED_PORTFOLIOS, Column, Frame

DERIVED = "derived"
LEDGER_ROWS = ("trade", "security_movement", "income", "cash_transaction", "opening_units", "opening_cash")

Source = tuple[str, str]  # landed table, or the frame of consented portfolios; its column


def sources_of(column: Column, rows: Collection[str] = LEDGER_ROWS) -> tuple[Source, ...]:
    """What a column's values are made of, one step back: (landed table or ``consented_portfolios``, column).

    ``rows`` are the ledgers and openings that count: a document may carry only some of them.
    """
    left_out = set(LEDGER_ROWS) - set(rows)
    found: list[Source] = []
    for source in column.source:
        table, _, name = source.partition(".")
        used_by = column.only.get(source, rows)
        if source != DERIVED and table not in left_out and set(used_by) & set(rows):
            found.append((table, name))
    return tuple(sorted(found))


def bigsite_columns(column: Column, rows: Collection[str] = LEDGER_ROWS) -> tuple[str, ...]:
    """bigsite's columns (``table.column``) that a domain column's values are made of, all the way back."""
    found: set[str] = set()
    for table, name in sources_of(column, rows):
        if table == CONSENTED_PORTFOLIOS.name:
            found.update(bigsite_columns(CONSENTED_PORTFOLIOS.column(name)))
        else:
            found.update(landed_sources(table)[name])
    return tuple(sorted(found))


def shown_frames(domain: str) -> tuple[Frame, ...]:
    """The frames that a domain shows people: all but the findings. The first is the domain's main one."""
    return FRAMES[domain][:-1]


def shown_name(domain: str, frame: Frame, column: str) -> str:
    """A column's name in the domain's one table schema: those of further frames carry the frame's name."""
    return column if frame is FRAMES[domain][0] else f"{frame.name}.{column}"


def domain_of(frame: str) -> str:
    """The domain that makes the frame called ``frame``."""
    return next(domain for domain in FRAMES if any(one.name == frame for one in shown_frames(domain)))


def unknown_sources() -> list[str]:
    """Declared sources that nothing lands and no consented portfolio has: must be empty."""
    known = {f"{table}.{name}" for table, schema in SCHEMAS.items() for name in schema.names}
    known |= {f"{CONSENTED_PORTFOLIOS.name}.{column.name}" for column in CONSENTED_PORTFOLIOS.columns}
    named = {
        source for domain in FRAMES for frame in shown_frames(domain) for c in frame.columns for source in c.source
    }
    return sorted(named - known - {DERIVED})
