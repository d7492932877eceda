"""What a reconciliation comes to: its breaks, its counts for people and for plots, and the verdict."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from classfeed_dagster.reconciliation.figures import Figure
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakKind, BreakSeverity, Side

_WORST_FIRST = {BreakSeverity.ERROR: 0, BreakSeverity.WARNING: 1, BreakSeverity.EVENT: 2}


@dataclass(frozen=True, slots=True)
class Tally:
    """One comparison's accounting: what was compared, and rows (of ours, of theirs) by class."""

    name: str
    counts: Mapping[str, tuple[int, int]]
    groups: int
    differing: int
    excluded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The outcome for one side of one business date. ``asked_at`` is when the other side was read, by its clock."""

    feed: str
    business_date: dt.date
    side: Side
    attempt: str
    asked_at: dt.datetime
    breaks: tuple[Break, ...]
    tallies: tuple[Tally, ...]
    held_back: Mapping[str, str] = field(default_factory=dict)  # portfolio number, reason
    moved_on: int = 0  # fields that bigsite updated in place since, after a faithful delivery: no breaks
    truncated: bool = False  # more differences exist than were made into breaks
    figures: tuple[Figure, ...] = ()  # what was delivered, for the eye

    @property
    def errors(self) -> int:
        """Breaks that say the delivery, or its evidence, is wrong."""
        return sum(one.severity is BreakSeverity.ERROR for one in self.breaks)

    @property
    def warnings(self) -> int:
        """Breaks for people to look at, which don't put the delivery in doubt."""
        return sum(one.severity is BreakSeverity.WARNING for one in self.breaks)

    @property
    def finding(self) -> str | None:
        """Return the identity of the errors: the same ones, found again, have the same. None without errors."""
        errors = sorted(
            repr((one.kind.value, one.portfolio_number, one.record, one.subject, one.field))
            for one in self.breaks
            if one.severity is BreakSeverity.ERROR
        )
        return hashlib.sha256("\n".join(errors).encode()).hexdigest()[:16] if errors else None

    @property
    def clean(self) -> bool:
        """True if nothing but events was found."""
        return self.errors == self.warnings == 0

    @property
    def rows(self) -> int:
        """Rows of ours that were judged."""
        return sum(ours for tally in self.tallies for ours, _ in tally.counts.values())

    @property
    def worst(self) -> list[Break]:
        """Errors first, within them the largest difference first."""

        def rank(one: Break) -> tuple[object, ...]:
            size = abs(one.difference) if one.difference is not None else 0
            return (
                _WORST_FIRST[one.severity],
                -size,
                one.portfolio_number or "",
                one.record,
                one.subject,
                one.field or "",
            )

        return sorted(self.breaks, key=rank)  # type: ignore[arg-type, unused-ignore]

    def metrics(self) -> dict[str, int]:
        """Counts that plot over time; every name is always there, so that a line never has gaps."""
        kinds = Counter(one.kind.name.lower() for one in self.breaks)
        unexplained = sum(one.likeliest.cause is BreakCause.UNKNOWN for one in self.breaks)
        return {
            "breaks": len(self.breaks),
            "errors": self.errors,
            "warnings": self.warnings,
            "unexplained": unexplained,
            "rows_judged": self.rows,
            "portfolios_held_back": len(self.held_back),
            "moved_on_in_bigsite": self.moved_on,
            **{f"breaks_{kind.name.lower()}": kinds[kind.name.lower()] for kind in BreakKind},
        }

    def summary(self) -> str:
        """One sentence for people."""
        of = f"{self.feed} of {self.business_date}"
        if not self.rows and not self.breaks:
            return f"{of}: nothing was there to compare, which proves nothing"
        if self.clean:
            held_back = f"; {len(self.held_back)} portfolio(s) held back" if self.held_back else ""
            return f"{of}: {self.rows:,} rows agree with {self.side.value.replace('_', ' ')}{held_back}"
        return f"{of}: {self.errors} error(s), {self.warnings} warning(s) in {self.rows:,} rows"

    def markdown(self, limit: int = 20) -> str:
        """The worst breaks as a Markdown table, at most ``limit``; fit for metadata and for Slack."""
        if not self.breaks:
            return self.summary()
        lines = [
            self.summary(),
            "",
            "| | portfolio | what | field | ours | theirs | likely because |",
            "|---|---|---|---|---:|---:|---|",
        ]
        for one in self.worst[:limit]:
            cells = (
                {BreakSeverity.ERROR: "🔴", BreakSeverity.WARNING: "🟡", BreakSeverity.EVENT: "⚪"}[one.severity],
                one.portfolio_number or "—",
                f"{one.kind.value}: {one.record} {one.subject}",
                one.field or "",
                one.export_value or "",
                one.other_value or "",
                one.likeliest.cause.value,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        if len(self.breaks) > limit:
            lines.append(f"\n… and {len(self.breaks) - limit} more, in the report")
        return "\n".join(lines)
