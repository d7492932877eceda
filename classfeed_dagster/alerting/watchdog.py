"""The incident that the watchdog outside Dagster raises."""

from __future__ import annotations

from collections.abc import Sequence

from classfeed_dagster.alerting.incidents import WATCHDOG, Incident
from classfeed_dagster.service_levels.service_levels import Judgment


def watchdog_incident(found: Sequence[Judgment], silent: Sequence[str]) -> Incident | None:
    """What the watchdog has to say, since nothing within Dagster may be able to; None if all is well."""
    if not found and not silent:
        return None
    feeds = tuple(sorted({one.feed for one in found}))
    dates = tuple(sorted({one.due.business_date for one in found}))
    missed = f"{len(found)} due delivery(ies) missing" if found else ""
    what = "; ".join(part for part in (missed, *silent) if part)
    return Incident(
        key=WATCHDOG,
        what=f"The watchdog outside Dagster found: {what}",
        means="Customers' funds at the recipient stay at the last business date that was delivered."
        if found
        else "Nothing is missing yet, but nothing would repair it, or tell of it, if it were.",
        feeds=feeds,
        dates=dates,
        counts={"deliveries": len(found), "sensors": len(silent)},
        doing="Repair does what it can if the daemon runs; if the sensors are silent, start the daemon.",
        runbook="watchdog",
        page=bool(found) or bool(silent),
    )
