"""Delivered files against landing and bigsite. The entry point is ``reconcile_source``."""

# ruff: noqa: S608  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from classfeed_dagster.reconciliation.break_classifier import PORTFOLIO, BreakClassifier
from classfeed_dagster.reconciliation.delivered import Delivered, business_dates, read_delivered, read_revisions
from classfeed_dagster.reconciliation.document_layouts import EPI, DocumentLayout
from classfeed_dagster.reconciliation.evidence import gather
from classfeed_dagster.reconciliation.expected_sql import Question
from classfeed_dagster.reconciliation.figures import delivered_figures
from classfeed_dagster.reconciliation.landing import SnapshotReader
from classfeed_dagster.reconciliation.late_arrivals import late_arrivals
from classfeed_dagster.reconciliation.later_deliveries import LaterDeliveries
from classfeed_dagster.reconciliation.quarantine_records import Consent, consent_breaks, quarantine_breaks
from classfeed_dagster.reconciliation.records import ACCOUNTS, MOVEMENTS
from classfeed_dagster.reconciliation.result import Reconciliation, Tally
from classfeed_dagster.reconciliation.source_queries import Bigsite, open_source
from classfeed_dagster.reconciliation.switches import carried, left_out
from classfeed_dagster.reconciliation.three_way import Sides, Workbench
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.records import Break, BreakCause, BreakExplanation, BreakKind, BreakSeverity, Side

NEVER_DELIVERED = "removed, and nothing of it was ever delivered"


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
) -> Reconciliation:
    """Prove the delivery of ``day`` against its landing and against bigsite, asked again.

    ``audience`` is the audience's key in the landing; ``previous`` its business date before ``day``, None on its
    first. ``layout`` is the form of the feed's documents. NothingDeliveredError without a delivery;
    UnreadableDeliveryError if a page can't be read to its end; SourceReadError if bigsite can't be asked. Memory
    doesn't grow with the delivery.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="classfeed-reconcile-")))
        delivered = read_delivered(store, feed, day, folder, layout)
        switched = left_out(delivered.revisions, delivered.latest)
        question = Question(
            delivered.revisions[-1].recipient,
            day,
            previous,
            audience,
            late=late_arrivals(store, delivered),
            left_out=switched,
            carried=carried(delivered.revisions),
        )
        bigsite = stack.enter_context(open_source(engine))
        held_back = _held_back(store, delivered, question, bigsite)
        bench = Workbench(folder, stack, delivered, held_back)
        landing = bench.read_landing(store, replace(question, landed=True))
        everything = [bench.compare(kind, question, bigsite) for kind in layout.kinds]
        later = LaterDeliveries(store, feed, day, layout)
        evidence = gather(bench.db, bigsite, delivered, question, everything, SnapshotReader(store), later)
        classification = BreakClassifier(delivered, landing, evidence).classify(everything)
        consents, updated = _consents(bigsite, question)
        # A portfolio that must not be there at all is one break. A consent that changed before delivery last asked
        # for it is a fault of the delivery even if the change explains the difference.
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
            *_window_breaks(delivered, question),
            *quarantine_breaks(store, delivered, consents),
        )
        return Reconciliation(
            feed,
            day,
            Side.SOURCE,
            attempt,
            bigsite.asked_at,
            tuple(breaks),
            tuple(_tallies(everything, _excluded(bigsite, question) if switched else {})),
            held_back,
            classification.moved_on,
            any(sides.bigsite.truncated or sides.landing.truncated for sides in everything),
            delivered_figures(delivered),
        )


def _held_back(store: ObjectStore, delivered: Delivered, question: Question, bigsite: Bigsite) -> dict[str, str]:
    """Return the portfolios that are rightly absent, with the reason: those held back, and silent removals."""
    reasons = {number: str(entry.get("reason") or entry.get("kind")) for number, entry in delivered.held_back.items()}
    removed = {
        str(row[0])
        for row in bigsite.fetch(
            f"SELECT portfolio_number FROM ({question.rows(ACCOUNTS)}) r WHERE consent = 'REMOVED'"
        )
    }
    silent = removed - delivered.latest.keys() - reasons.keys()
    earlier = [day for day in business_dates(store, delivered.feed) if day < delivered.business_date]
    for day in reversed(earlier):
        if not silent:
            break
        silent -= {number for revision in read_revisions(store, delivered.feed, day) for number in revision.portfolios}
    return reasons | dict.fromkeys(silent, NEVER_DELIVERED)


def _window_breaks(delivered: Delivered, question: Question) -> Iterable[Break]:
    """Yield the manifests whose window is not the business date's."""
    for revision in delivered.revisions:
        if (revision.recorded_after, revision.recorded_before) != (question.window_start, question.window_end):
            stated, due = (
                f"{start.isoformat()} to {end.isoformat()}"
                for start, end in (
                    (revision.recorded_after, revision.recorded_before),
                    (question.window_start.astimezone(dt.UTC), question.window_end.astimezone(dt.UTC)),
                )
            )
            evidence = f"it states the window {stated}, the date's is {due}"
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
    bigsite: Bigsite, question: Question
) -> tuple[Mapping[str, Sequence[Consent]], Mapping[str, dt.datetime]]:
    """Return granted, expires and revoked of every authority, and its last change, by portfolio number."""
    consents: dict[str, list[Consent]] = defaultdict(list)
    updated: dict[str, dt.datetime] = {}
    for number, granted, expires, revoked, changed, *_ in bigsite.fetch(question.consents()):
        consents[str(number)].append((granted, expires, revoked))
        updated[str(number)] = max(changed, updated.get(str(number), changed))
    return consents, updated


def _known_at_delivery(delivered: Delivered, number: str | None, updated: Mapping[str, dt.datetime]) -> bool:
    revision = delivered.latest.get(number or "", delivered.revisions[-1])
    changed = updated.get(number or "")
    return changed is not None and changed <= revision.consent_checked_at


def _excluded(bigsite: Bigsite, question: Question) -> dict[str, int]:
    """Return how many movements each switch that was off leaves out."""
    everything = replace(question, left_out=())
    counts = {}
    for switch, _ in question.left_out:
        only = replace(question, left_out=tuple(entry for entry in question.left_out if entry[0] == switch))
        (total,), (kept,) = (
            bigsite.fetch(f"SELECT count(*) FROM ({asked.rows(MOVEMENTS)}) r")[0] for asked in (everything, only)
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
