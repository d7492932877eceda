"""Incident of the nightly audit: what was delivered, loaded or agreed is not what it was."""

from __future__ import annotations

from collections.abc import Sequence

from classfeed_dagster.alerting.incidents import Incident, raise_incident, settle_incident
from classfeed_dagster.feed_run.nightly_audit import AuditFinding
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.wording import counted

_SHOWN = 3


def sync_audit_incident(store: ObjectStore, feed: str, findings: Sequence[AuditFinding], run_id: str) -> None:
    """Raise the incident of a feed's audit, or settle it if nothing was found."""
    key = f"audit.{feed}"
    if not findings:
        settle_incident(store, key)
        return
    numbers = sorted({one.portfolio_number for one in findings if one.portfolio_number})
    listed = "; ".join(f"{one.business_date.isoformat()}: {one.what}" for one in findings[:_SHOWN])
    raise_incident(
        store,
        Incident(
            key=key,
            what=f"The nightly audit of {feed} found {counted(len(findings), 'difference')}: {listed}",
            means="What the recipient was sent did not change; what was recorded, loaded or agreed about it did.",
            feeds=(feed,),
            dates=tuple(sorted({one.business_date for one in findings})),
            counts={"differences": len(findings)},
            offenders=tuple(numbers),
            doing="The audit runs again the next night.",
            run_id=run_id,
            runbook="audit",
        ),
    )


def raise_audit_failure(store: ObjectStore, feed: str, error: Exception, run_id: str) -> None:
    """Raise the incident of an audit that could not be completed."""
    raise_incident(
        store,
        Incident(
            key=f"audit.{feed}",
            what=f"The nightly audit of {feed} could not be completed ({type(error).__name__})",
            means="Nothing of the delivery is in doubt by this alone; it was not checked again.",
            feeds=(feed,),
            doing="The audit runs again the next night.",
            run_id=run_id,
            runbook="audit",
        ),
    )
