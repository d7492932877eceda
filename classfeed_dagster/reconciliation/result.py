"""Result of a reconciliation: breaks, counts and verdict."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from classfeed_dagster.reconciliation.compare import MEMORY_LIMIT
from classfeed_dagster.reconciliation.delivered import Delivered
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakKind, BreakSeverity, Side
from classfeed_dagster.wording import counted, markdown_cell

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


NEVER_DELIVERED = "removed, and nothing of it was ever delivered"  # rightly absent, and held back by nothing
_WORST_FIRST = {BreakSeverity.ERROR: 0, BreakSeverity.WARNING: 1, BreakSeverity.EVENT: 2}


@dataclass(frozen=True, slots=True)
class Tally:
    """Row counts of one comparison: rows (of ours, of theirs) by class."""

    name: str
    counts: Mapping[str, tuple[int, int]]
    groups: int
    differing: int
    excluded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Amount:
    """One metric's sum over all portfolios. ``known``: the part of theirs that the delivery leaves out on purpose."""

    metric: str
    currency: str  # empty where the metric has none
    ours: Decimal
    theirs: Decimal
    known: Decimal

    @property
    def difference(self) -> Decimal:
        """Return ours less theirs, without what is known to be left out."""
        return self.ours + self.known - self.theirs


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Result for one side of one business date. ``asked_at``: instant of reading the other side, by its clock."""

    feed: str
    business_date: dt.date
    side: Side
    attempt: str
    asked_at: dt.datetime
    breaks: tuple[Break, ...]
    tallies: tuple[Tally, ...]
    held_back: Mapping[str, str] = field(default_factory=dict)  # portfolio number, reason; NEVER_DELIVERED too
    moved_on: int = 0  # fields that bigsite updated in place after a correct delivery: no breaks
    truncated: bool = False  # more differences exist than breaks are listed
    figures: tuple[Figure, ...] = ()  # charts of the delivery
    amounts: tuple[Amount, ...] = ()  # sums per metric and currency, for the report

    @property
    def _held_back_count(self) -> int:
        return sum(reason != NEVER_DELIVERED for reason in self.held_back.values())

    @property
    def errors(self) -> int:
        """Return the number of breaks that make the delivery, or its evidence, wrong."""
        return sum(entry.severity is BreakSeverity.ERROR for entry in self.breaks)

    @property
    def warnings(self) -> int:
        """Return the number of breaks to investigate that do not make the delivery wrong."""
        return sum(entry.severity is BreakSeverity.WARNING for entry in self.breaks)

    @property
    def finding(self) -> str | None:
        """Return a digest that identifies the set of errors, equal for equal errors. None without errors."""
        errors = sorted(
            repr((entry.kind.value, entry.portfolio_number, entry.record, entry.subject, entry.field))
            for entry in self.breaks
            if entry.severity is BreakSeverity.ERROR
        )
        return hashlib.sha256("\n".join(errors).encode()).hexdigest()[:16] if errors else None

    @property
    def clean(self) -> bool:
        """Return True if there are only events."""
        return self.errors == self.warnings == 0

    @property
    def rows(self) -> int:
        """Return the number of our rows that were compared."""
        return sum(ours for tally in self.tallies for ours, _ in tally.counts.values())

    @property
    def worst(self) -> list[Break]:
        """Return the breaks, errors first, and within them the largest difference first."""

        def rank(entry: Break) -> tuple[object, ...]:
            size = abs(entry.difference) if entry.difference is not None else 0
            return (
                _WORST_FIRST[entry.severity],
                -size,
                entry.portfolio_number or "",
                entry.record,
                entry.subject,
                entry.field or "",
            )

        return sorted(self.breaks, key=rank)  # type: ignore[arg-type, unused-ignore]

    def metrics(self) -> dict[str, int]:
        """Return counts for charts over time. Every name is always present, so that a line has no gaps."""
        kinds = Counter(entry.kind.name.lower() for entry in self.breaks)
        unexplained = sum(entry.likeliest.cause is BreakCause.UNKNOWN for entry in self.breaks)
        return {
            "breaks": len(self.breaks),
            "errors": self.errors,
            "warnings": self.warnings,
            "unexplained": unexplained,
            "rows_judged": self.rows,
            "portfolios_held_back": self._held_back_count,
            "moved_on_in_bigsite": self.moved_on,
            **{f"breaks_{kind.name.lower()}": kinds[kind.name.lower()] for kind in BreakKind},
        }

    def summary(self) -> str:
        """Return the result in one sentence."""
        of = f"{self.feed} of {self.business_date}"
        if not self.rows and not self.breaks:
            return f"{of}: there was nothing to compare, so nothing is proven"
        if self.clean:
            held_back = f"; {counted(self._held_back_count, 'portfolio')} held back" if self._held_back_count else ""
            return f"{of}: {self.rows:,} rows agree with {self.side.value.replace('_', ' ')}{held_back}"
        return (
            f"{of}: {counted(self.errors, 'error')}, {counted(self.warnings, 'warning')} in {counted(self.rows, 'row')}"
        )

    def markdown(self, limit: int = 20) -> str:
        """Return the most severe breaks, at most ``limit``, as a Markdown table for metadata and Slack."""
        if not self.breaks:
            return self.summary()
        lines = [
            self.summary(),
            "",
            "| | portfolio | break | field | ours | theirs | likely cause |",
            "|---|---|---|---|---:|---:|---|",
        ]
        for entry in self.worst[:limit]:
            cells = (
                {BreakSeverity.ERROR: "🔴", BreakSeverity.WARNING: "🟡", BreakSeverity.EVENT: "⚪"}[entry.severity],
                entry.portfolio_number or "—",
                f"{entry.kind.value}: {entry.record} {entry.subject}",
                entry.field or "",
                entry.export_value or "",
                entry.other_value or "",
                entry.likeliest.cause.value,
            )
            lines.append("| " + " | ".join(map(markdown_cell, cells)) + " |")
        if len(self.breaks) > limit:
            lines.append(f"\n… and {len(self.breaks) - limit} more, in the report")
        return "\n".join(lines)
