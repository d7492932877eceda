"""Reconciliation of delivered files with landing and bigsite. The entry point is ``reconcile_source``.

A portfolio held back needs a quarantine record that matches its manifest's entry and has its reason.
"""

# ruff: noqa: S608  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from classfeed_dagster.reconciliation.break_classifier import PORTFOLIO, BreakClassifier
from classfeed_dagster.reconciliation.delivered import (
    Delivered,
    business_dates,
    carried,
    left_out,
    read_delivered,
    read_revisions,
)
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.evidence import gather
from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
from classfeed_dagster.reconciliation.landing import SnapshotReader
from classfeed_dagster.reconciliation.other_deliveries import (
    LaterDeliveries,
    early,
    in_full,
    late_arrivals,
    unsent_references,
)
from classfeed_dagster.reconciliation.records import ACCOUNTS, MOVEMENTS
from classfeed_dagster.reconciliation.result import NEVER_DELIVERED, Reconciliation, Tally, delivered_figures
from classfeed_dagster.reconciliation.source_queries import Bigsite, open_source
from classfeed_dagster.reconciliation.three_way import Sides, Workbench
from classfeed_dagster.retention import Retention
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


def reconcile_source(
    store: ObjectStore,
    engine: sa.Engine,
    feed: str,
    day: dt.date,
    attempt: str,
    *,
    audience: str,
    previous: dt.date | None,
    layout: DocumentLayout = EPI,
    retention: Retention | None = None,
) -> Reconciliation:
    """Compare the delivery of ``day`` with its landing and with bigsite, read again.

    ``audience``: the audience's key in the landing. ``previous``: its business date before ``day``, None on its first.
    ``layout``: the layout of the feed's documents. ``retention``: the rules by which landed files expire.
    NothingDeliveredError without a delivery, UnreadableDeliveryError if a page cannot be read to its end,
    SourceReadError if bigsite cannot be read. Memory does not grow with the delivery.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="classfeed-reconcile-")))
        delivered = read_delivered(store, feed, day, folder, layout)
        switched = left_out(delivered.revisions, delivered.latest)
        expected = ExpectedRecords(
            delivered.revisions[-1].recipient,
            day,
            previous,
            audience,
            late=late_arrivals(store, delivered),
            left_out=switched,
            carried=carried(delivered.revisions, delivered.latest),
            in_full=in_full(store, delivered),
            early=early(store, delivered, previous),
        )
        bigsite = stack.enter_context(open_source(engine))
        expected = replace(expected, unsent=unsent_references(store, delivered, expected, bigsite))
        held_back = _held_back(store, delivered, expected, bigsite)
        bench = Workbench(folder, stack, delivered, held_back)
        landing = bench.read_landing(store, replace(expected, landed=True), retention)
        everything = [bench.compare(kind, expected, bigsite) for kind in layout.kinds]
        later = LaterDeliveries(store, feed, day, layout)
        evidence = gather(bench.db, bigsite, delivered, expected, everything, SnapshotReader(store), later)
        evidence.sent.read(bench.db, store, delivered, {one for sides in everything for one in sides.portfolio_numbers})
        classification = BreakClassifier(delivered, landing, evidence).classify(everything)
        consents, updated = _consents(bigsite, expected)
        # A portfolio that must not be in the document at all is one break. A consent that changed before delivery last
        # checked it is a fault of the delivery even if the change explains the difference.
        named = {
            one.portfolio_number
            for one in classification.breaks
            if one.record == PORTFOLIO
            and (
                one.severity is BreakSeverity.ERROR or not _known_at_delivery(delivered, one.portfolio_number, updated)
            )
        }
        breaks = (
            *(one for one in consent_breaks(delivered, consents) if one.portfolio_number not in named),
            *classification.breaks,
            *_window_breaks(delivered, expected),
            *quarantine_breaks(store, delivered, consents),
        )
        return Reconciliation(
            feed,
            day,
            Side.SOURCE,
            attempt,
            bigsite.asked_at,
            tuple(breaks),
            tuple(_tallies(everything, _excluded(bigsite, expected) if switched else {})),
            held_back,
            classification.moved_on,
            any(sides.bigsite.truncated or sides.landing.truncated for sides in everything),
            delivered_figures(delivered),
            tuple(amount for sides in everything for amount in sides.amounts),
        )


def _held_back(store: ObjectStore, delivered: Delivered, expected: ExpectedRecords, bigsite: Bigsite) -> dict[str, str]:
    # The portfolios that are correctly absent, with the reason: held back, or removed before any delivery.
    reasons = {number: str(entry.get("reason") or entry.get("kind")) for number, entry in delivered.held_back.items()}
    removed = {
        str(row[0])
        for row in bigsite.fetch(
            f"SELECT portfolio_number FROM ({expected.rows(ACCOUNTS)}) r WHERE consent = 'REMOVED'"
        )
    }
    silent = removed - delivered.latest.keys() - reasons.keys()
    earlier = [day for day in business_dates(store, delivered.feed) if day < delivered.business_date]
    for day in reversed(earlier):
        if not silent:
            break
        silent -= {number for revision in read_revisions(store, delivered.feed, day) for number in revision.portfolios}
    return reasons | dict.fromkeys(silent, NEVER_DELIVERED)


def _window_breaks(delivered: Delivered, expected: ExpectedRecords) -> Iterable[Break]:
    # The manifests whose window differs from the business date's.
    for revision in delivered.revisions:
        if (revision.recorded_after, revision.recorded_before) != (expected.window_start, expected.window_end):
            stated, due = (
                f"{start.isoformat()} to {end.isoformat()}"
                for start, end in (
                    (revision.recorded_after, revision.recorded_before),
                    (expected.window_start.astimezone(dt.UTC), expected.window_end.astimezone(dt.UTC)),
                )
            )
            evidence = f"its window is {stated}; the date's window is {due}"
            yield Break(
                delivered.feed,
                delivered.business_date,
                Side.SOURCE,
                BreakKind.ALTERED_FILE,
                BreakSeverity.ERROR,
                None,
                "manifest window",
                revision.manifest_key,
                explanations=(BreakExplanation(BreakCause.FILE_ALTERED, evidence),),
            )


def _consents(
    bigsite: Bigsite, expected: ExpectedRecords
) -> tuple[Mapping[str, Sequence[Consent]], Mapping[str, dt.datetime]]:
    # Granted, expires and revoked of every consent, and its last change, by portfolio number.
    consents: dict[str, list[Consent]] = defaultdict(list)
    updated: dict[str, dt.datetime] = {}
    for number, granted, expires, revoked, changed, *_ in bigsite.fetch(expected.consents()):
        consents[str(number)].append((granted, expires, revoked))
        updated[str(number)] = max(changed, updated.get(str(number), changed))
    return consents, updated


def _known_at_delivery(delivered: Delivered, number: str | None, updated: Mapping[str, dt.datetime]) -> bool:
    revision = delivered.latest.get(number or "", delivered.revisions[-1])
    changed = updated.get(number or "")
    return changed is not None and changed <= revision.consent_checked_at


def _excluded(bigsite: Bigsite, expected: ExpectedRecords) -> dict[str, int]:
    # The number of movements that each switch excludes while it is off.
    everything = replace(expected, left_out=())
    counts = {}
    for switch, _ in expected.left_out:
        only = replace(expected, left_out=tuple(entry for entry in expected.left_out if entry[0] == switch))
        (total,), (kept,) = (
            bigsite.fetch(f"SELECT count(*) FROM ({each.rows(MOVEMENTS)}) r")[0] for each in (everything, only)
        )
        counts[f"switched off: {switch}"] = int(total) - int(kept)
    return counts


def _tallies(everything: Sequence[Sides], excluded: Mapping[str, int]) -> Iterable[Tally]:
    for sides in everything:
        switched = excluded if sides.kind.name == MOVEMENTS.name else {}
        for against, comparison in (("bigsite", sides.bigsite), ("landing", sides.landing)):
            yield Tally(
                f"{sides.kind.name} against {against}",
                {row_class.value: rows for row_class, rows in sides.counts(comparison).items()},
                sides.portfolios,
                sides.differing,
                {**comparison.excluded, **switched},
            )
