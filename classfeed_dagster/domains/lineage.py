"""Where each column of a domain comes from among the landed columns: from the frames' declared sources alone."""

from __future__ import annotations

from classfeed_dagster.bigsite.lineage import landed_sources
from classfeed_dagster.domains.columns import Column, Frame
from classfeed_dagster.domains.run import CONSENTED, FRAMES, TABLES

DERIVED = "derived"
Landed = tuple[str, str]  # table, column


def landed_columns(domain: str, column: Column) -> tuple[Landed, ...]:
    """The landed (table, column)s that a column of ``domain`` is made of, in a stable order.

    A declared source that is landed as it is names that column. One that only reaches the domain inside a figure that
    bigsite worked out names that figure, if everything the figure is made of is declared as a source.
    """
    found: set[Landed] = set()
    tables = TABLES[domain] if domain == CONSENTED else (*TABLES[domain], *TABLES[CONSENTED])
    landed = {table: landed_sources(table) for table in tables}
    for source in column.source:
        table, _, name = source.partition(".")
        if name in landed.get(table, {}) and landed[table][name] == (source,):
            found.add((table, name))
    made_of = set(column.source)
    for table, names in landed.items():
        for name, sources in names.items():
            if len(sources) > 1 and set(sources) <= made_of:
                found.add((table, name))
            elif len(sources) == 1 and sources[0] in made_of and not sources[0].startswith(f"{table}."):
                found.add((table, name))
    return tuple(sorted(found))


def derived_columns(frame: Frame, column: Column) -> tuple[str, ...]:
    """Columns of the consented portfolios that a ``derived`` column repeats or is decided by."""
    if DERIVED not in column.source:
        return ()
    return {"consent": ("change",), "extract": ("change",)}.get(column.name, ()) if frame.name != CONSENTED else ()


def frames_of(domain: str) -> tuple[Frame, ...]:
    """The frames that a domain shows people: all but the findings."""
    return FRAMES[domain][:-1]
