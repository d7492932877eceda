"""One line of the table: a fault, how often it was tried, what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """``broken`` says what did not hold; empty is good."""

    attack: str
    fault: str
    tried: int
    outcome: str
    broken: Sequence[str] = ()


@dataclass
class Budget:
    """Seconds that an attack may take. It tries at least ``least`` times whatever that costs."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def part(self, share: float) -> Budget:
        """A share of what is left."""
        return Budget(max(self.left, 0) * share)


def spread(count: int, tries: int) -> list[int]:
    """``tries`` numbers of 1 to ``count``, evenly spread, the first and last among them; all of them if few enough."""
    if tries >= count:
        return list(range(1, count + 1))
    return sorted({1 + round(at * (count - 1) / (tries - 1)) for at in range(tries)}) if tries > 1 else [count]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| attack | fault | tried | outcome | |", "|---|---|---:|---|---|"]
    for row in rows:
        verdict = "BROKEN" if row.broken else "held"
        lines.append(f"| {row.attack} | {row.fault} | {row.tried} | {row.outcome} | {verdict} |")
    return "\n".join(lines)
