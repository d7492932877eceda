"""Figures of a delivery for its report: movements by type, market value by security type, from the pages."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.reconciliation.compare import MEMORY_LIMIT
from classfeed_dagster.reconciliation.delivered import Delivered

_MOVEMENTS = "SELECT transaction_type, count(*) FROM read_parquet('{file}') GROUP BY 1 ORDER BY 2 DESC, 1"
_VALUES = """SELECT currency, security_type, sum(market_value::DECIMAL(38,2)) FROM read_parquet('{file}')
    WHERE market_value IS NOT NULL GROUP BY ALL ORDER BY 1, 3 DESC, 2"""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart: named numbers in drawing order; ``over_time`` if the names are dates."""

    title: str
    rows: tuple[tuple[str, int | Decimal], ...]
    over_time: bool = False


def delivered_figures(delivered: Delivered) -> tuple[Figure, ...]:
    """Return the movements delivered by type, and per currency the value of the holdings by security type."""
    import duckdb  # imported lazily: every process of Dagster imports this file, and few draw

    with duckdb.connect() as db:
        db.execute(f"SET memory_limit='{MEMORY_LIMIT}'")
        moved = db.execute(_MOVEMENTS.format(file=delivered.files["movement_transactions"])).fetchall()
        holdings = delivered.files.get("investment_holdings")
        valued = db.execute(_VALUES.format(file=holdings)).fetchall() if holdings else []
    figures = [Figure("movements delivered, by type", tuple((str(kind), int(count)) for kind, count in moved))]
    for currency in dict.fromkeys(row[0] for row in valued):
        rows = tuple((str(kind), Decimal(value)) for of, kind, value in valued if of == currency)
        figures.append(Figure(f"market value delivered, {currency}, by security type", rows))
    return tuple(figure for figure in figures if figure.rows)
