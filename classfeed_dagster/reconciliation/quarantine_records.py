"""Check of portfolios held back: a manifest's entry needs a matching quarantine record with its reason."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from classfeed_dagster.reconciliation.delivered import Delivered
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakExplanation, BreakKind, BreakSeverity, Side

Consent = tuple[dt.datetime | None, dt.datetime | None, dt.datetime | None]


def quarantine_breaks(
    store: ObjectStore, delivered: Delivered, consents: Mapping[str, Sequence[Consent]]
) -> Iterable[Break]:
    """Yield one break per portfolio held back: an event if its record proves it, otherwise an error."""
    for number, entry in sorted(delivered.held_back.items()):
        fault = _fault(store, delivered, number, entry, consents.get(number, ()))
        rules = ", ".join(str(rule.get("rule")) for rule in entry.get("rules", ()))
        reason = f"{entry.get('reason')}{f' (rules: {rules})' if rules else ''}"
        explanation = (
            BreakExplanation(BreakCause.QUARANTINE, reason)
            if fault is None
            else BreakExplanation(BreakCause.UNKNOWN, fault)
        )
        yield Break(
            delivered.feed,
            delivered.business_date,
            Side.SOURCE,
            BreakKind.CONSENT if entry.get("kind") == "CONSENT_ENDED" else BreakKind.MISSING_IN_EXPORT,
            BreakSeverity.EVENT if fault is None else BreakSeverity.ERROR,
            number,
            "portfolio",
            "held back",
            explanations=(explanation,),
        )


def _fault(
    store: ObjectStore, delivered: Delivered, number: str, entry: Mapping[str, Any], consents: Sequence[Consent]
) -> str | None:
    # The reason why the manifest's entry is not proven; None if it is.
    key = f"quarantine/{delivered.feed}/{delivered.business_date.isoformat()}/{number}.json"
    try:
        record = json.loads(store.read(key))
        stated = record["held_back"]
        place = (record["feed"], record["business_date"], stated["number"], record.get("released_in"))
        if place != (delivered.feed, delivered.business_date.isoformat(), number, None):
            return f"{key} is the record of another portfolio or date, or states that it was delivered"
        if not stated["reason"] or (stated["kind"] == "RULE" and not stated["rules"]):
            return f"{key} has no reason or rule"
    except ObjectNotFoundError:
        return "the manifest holds it back, but it has no quarantine record"
    except (ValueError, KeyError, TypeError):
        return f"{key} is not a quarantine record"
    at = delivered.revisions[-1].consent_checked_at
    if entry.get("kind") == "CONSENT_ENDED" and any(active(consent, at) for consent in consents):
        return f"the manifest states an ended consent, but bigsite has an active one at {at:%Y-%m-%d %H:%M:%S}Z"
    return None


def active(consent: Consent, at: dt.datetime) -> bool:
    """Return True if the consent (granted, expires, revoked) was in force at ``at``."""
    granted, expires, revoked = consent
    ended = any(end is not None and end < at for end in (expires, revoked))
    return granted is not None and granted < at and not ended


def consent_breaks(delivered: Delivered, consents: Mapping[str, Sequence[Consent]]) -> Iterable[Break]:
    """Yield portfolios whose data was delivered without a consent that was active when delivery last checked it.

    A consent that ended later was valid at delivery.
    """
    for number, revision in sorted(delivered.latest.items()):
        at = revision.consent_checked_at
        if revision.portfolios[number].get("change") == "REMOVED":
            continue
        if any(active(consent, at) for consent in consents.get(number, ())):
            continue
        evidence = f"bigsite has no consent active at {at:%Y-%m-%d %H:%M:%S}Z, the time of its delivery"
        yield Break(
            delivered.feed,
            delivered.business_date,
            Side.SOURCE,
            BreakKind.CONSENT,
            BreakSeverity.ERROR,
            number,
            "portfolio",
            "consent at delivery",
            explanations=(BreakExplanation(BreakCause.CONSENT_ENDED, evidence),),
        )
