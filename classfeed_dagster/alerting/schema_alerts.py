"""Incidents of bigsite's schema: blocking drift, and values outside the mapping."""

from __future__ import annotations

from collections.abc import Sequence

from classfeed_dagster.alerting.alerts import schema_drift
from classfeed_dagster.alerting.incidents import Incident, raise_incident, settle_incident
from classfeed_dagster.repair.observations import ObservedDate
from classfeed_dagster.source_contract.drift import DriftKind, SchemaDifference, Severity
from classfeed_dagster.source_contract.schema_check import SchemaVerdict
from classfeed_dagster.store import ObjectStore

_DRIFT, _WARNINGS = "schema-drift", "schema-warnings"
_SHOWN = 3


def sync_schema_incidents(store: ObjectStore, verdict: SchemaVerdict, run_id: str) -> None:
    """Raise or settle the incidents of ``verdict``. They name tables, columns and codes, never a row."""
    sync_drift_incident(store, verdict.blocking, run_id)
    warnings = tuple(drift for drift in verdict.differences if drift.severity is Severity.WARNING)
    if warnings:
        raise_incident(store, _warning(warnings, run_id))
    else:
        settle_incident(store, _WARNINGS)


def sync_drift_incident(
    store: ObjectStore, blocking: tuple[SchemaDifference, ...], run_id: str | None, stopped: Sequence[ObservedDate] = ()
) -> None:
    """Raise the incident of ``blocking`` drift, or settle it if there is none. ``stopped``: the dates it stopped."""
    if blocking:
        raise_incident(store, schema_drift(_named(blocking), len(blocking), run_id, stopped=stopped))
    else:
        settle_incident(store, _DRIFT)


def _warning(warnings: tuple[SchemaDifference, ...], run_id: str) -> Incident:
    holds_back = any(warning.kind is DriftKind.VALUE_IN_DATA for warning in warnings)
    return Incident(
        key=_WARNINGS,
        what=f"bigsite changed columns or values that the feeds read: {_named(warnings)}",
        means="Portfolios with a value unknown to the mapping are held back. All others are delivered."
        if holds_back
        else "No portfolio is held back yet. A value unknown to the mapping would hold its portfolio back.",
        counts={"differences": len(warnings)},
        doing="Extraction continues. Portfolios held back are delivered automatically once the mapping and the "
        "contract include the value.",
        run_id=run_id,
        runbook="schema-drift",
    )


def _named(differences: tuple[SchemaDifference, ...]) -> str:
    names = "; ".join(f"{difference.kind.title} {difference.subject}" for difference in differences[:_SHOWN])
    return f"{names} and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else names
