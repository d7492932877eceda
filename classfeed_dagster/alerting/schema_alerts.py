"""Tells people of bigsite's schema: while it blocks the feeds, and while it holds values that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

from classfeed_dagster.alerting.alerts import schema_drift
from classfeed_dagster.alerting.incidents import Incident, raise_incident, settle_incident
from classfeed_dagster.repair.facts import Observed
from classfeed_dagster.source_contract.drift import DriftKind, SchemaDifference, Severity
from classfeed_dagster.source_contract.schema_check import SchemaVerdict, blocking_drift
from classfeed_dagster.store import ObjectStore

_DRIFT, _WARNINGS = "schema-drift", "schema-warnings"
_SHOWN = 3


def sync_schema_incidents(store: ObjectStore, verdict: SchemaVerdict, run_id: str) -> None:
    """Raise, or settle, the incidents that ``verdict`` calls for. Names tables, columns and codes; never a row."""
    sync_drift_incident(store, blocking_drift(verdict), run_id)
    warnings = tuple(found for found in verdict.differences if found.severity is Severity.WARNING)
    if warnings:
        raise_incident(store, _warning(warnings, run_id))
    else:
        settle_incident(store, _WARNINGS)


def sync_drift_incident(
    store: ObjectStore, blocking: tuple[SchemaDifference, ...], run_id: str | None, stopped: Sequence[Observed] = ()
) -> None:
    """Raise, or settle, the incident of what forbids an extraction, if anything does; ``stopped``: which dates."""
    if blocking:
        raise_incident(store, schema_drift(_named(blocking), len(blocking), run_id, stopped=stopped))
    else:
        settle_incident(store, _DRIFT)


def _warning(found: tuple[SchemaDifference, ...], run_id: str) -> Incident:
    held = any(one.kind is DriftKind.VALUE_IN_DATA for one in found)
    return Incident(
        key=_WARNINGS,
        what=f"bigsite changed something that the feeds read: {_named(found)}",
        means="Portfolios with a value that the mapping doesn't know are held back; the others go."
        if held
        else "Nothing is held back yet. A value that the mapping doesn't know would hold its portfolio back.",
        counts={"differences": len(found)},
        doing="Extraction goes on. What is held back goes by itself once the mapping and the contract know the value.",
        run_id=run_id,
        runbook="schema-drift",
    )


def _named(found: tuple[SchemaDifference, ...]) -> str:
    listed = "; ".join(f"{one.kind.title} {one.subject}" for one in found[:_SHOWN])
    return f"{listed} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else listed
