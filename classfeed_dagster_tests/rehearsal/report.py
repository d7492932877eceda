"""Report of the rehearsed deployment."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Report:
    """Table of what was started, from which template, and what held."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    failed: bool = False

    def hold(self, what: str, source: str, check: Callable[[], str]) -> bool:
        """Run one check and record its outcome; a check raises AssertionError with the reason if it does not hold."""
        began = time.monotonic()
        try:
            outcome = check() or "held"
        except Exception as error:  # the table states every failure; the last lines show the first one's log
            self.failed = True
            outcome = f"FAILED: {type(error).__name__}: {error}"
        outcome = f"{outcome} ({time.monotonic() - began:.0f} s)"
        self.rows.append((what, source, outcome))
        sys.stdout.write(f"{what:<44} {source:<28} {outcome}\n")
        sys.stdout.flush()
        return not outcome.startswith("FAILED")

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rows = [f"| {label} | {source} | {outcome.splitlines()[0]} |" for label, source, outcome in self.rows]
        return "\n".join(["| what | from | outcome |", "|---|---|---|", *rows, ""])
