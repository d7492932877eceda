"""What a finished run's event log says, as far as repair and alerts need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One evaluation of a check. ``asset`` is written as a/b; ``error``: its severity is ERROR."""

    asset: str
    name: str
    passed: bool
    error: bool
    summary: str
    offenders: int


@dataclass(frozen=True, slots=True)
class RunEvents:
    """What a run's event log says, as far as operating needs it."""

    errors: tuple[tuple[str, str], ...] = ()  # class name and message, from the outermost to the innermost
    failed_step: str | None = None
    remaining: tuple[str, ...] = ()  # assets that were planned and not made, or made and not checked
    checks: tuple[CheckOutcome, ...] = ()
    unevaluated: tuple[tuple[str, str], ...] = ()  # planned checks, as (asset, name), without an evaluation
    snapshot_id: str | None = None
