"""Feature switches of a delivered feed, from its manifests, and the rows and portfolios that they exclude."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classfeed_dagster.reconciliation.delivered import Revision

INCOME, DRP, PORTFOLIOS = "include-income", "include-drp", "portfolios"
LeftOut = tuple[tuple[str, tuple[str, ...] | None], ...]


def excluded_by_switch(transaction_id: str, movement_type: str | None, flags: Mapping[str, Any]) -> bool:
    """Return True if a switch that was off excludes the movement."""
    if transaction_id.startswith("I"):
        return not flags.get(INCOME, True)
    return movement_type == "DRP" and not flags.get(DRP, True)


def left_out(revisions: Sequence[Revision], latest: Mapping[str, Revision]) -> LeftOut:
    """Return the switches that were off, each with its portfolios; None if it was off for all."""
    switched_off: list[tuple[str, tuple[str, ...] | None]] = []
    for switch in (INCOME, DRP):
        off = [revision for revision in revisions if not revision.flags.get(switch, True)]
        if len(off) == len(revisions):
            switched_off.append((switch, None))
        elif off:
            numbers = sorted(number for number, revision in latest.items() if not revision.flags.get(switch, True))
            if numbers:
                switched_off.append((switch, tuple(numbers)))
    return tuple(switched_off)


def carried(revisions: Iterable[Revision]) -> str:
    """Return the selection of portfolios in the last revision's switch."""
    return [str(revision.flags.get(PORTFOLIOS, "*")) for revision in revisions][-1]
