"""Delivered file against landing and bigsite: the public door, ``reconcile_source``."""

# ruff: noqa: S608  # SQL of this package's own text and checked literals; its lines read better whole

from __future__ import annotations

import datetime as dt
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from classfeed_dagster.reconciliation.break_classifier import PORTFOLIO, BreakClassifier, consent_breaks
from classfeed_dagster.reconciliation.compare import RowClass
from classfeed_dagster.reconciliation.delivered import Delivered, business_dates, read_delivered, read_revisions
from classfeed_dagster.reconciliation.expected_sql import Question
from classfeed_dagster.reconciliation.explain import LateRow
from classfeed_dagster.reconciliation.figures import delivered_figures
from classfeed_dagster.reconciliation.records import ACCOUNTS, KINDS
from classfeed_dagster.reconciliation.result import Reconciliation, Tally
from classfeed_dagster.reconciliation.source_queries import Bigsite, open_source
from classfeed_dagster.reconciliation.three_way import Sides, Workbench
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.warehouse.records import Break, BreakKind, Cause, Explanation, Severity, Side

NEVER_DELIVERED = "removed, and nothing of it was ever delivered"
_LATE_PER_PORTFOLIO = 20


def reconcile_source(
    store: ObjectStore,
    engine: sa.Engine,
    feed: str,
    day: dt.date,
    attempt: str,
    *,
    audience: str,
    previous: dt.date | None,
) -> Reconciliation:
    """Prove the delivery of ``day`` against its landing and against bigsite, asked again.

    ``audience`` is the audience's key in the landing; ``previous`` its business date before ``day``, None on its
    first. NothingDeliveredError without a delivery; UnreadableDeliveryError if a page can't be read to its end;
    SourceReadError if bigsite can't be asked. Memory doesn't grow with the delivery.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="classfeed-reconcile-")))
        delivered = read_delivered(store, feed, day, folder)
        question = Question(delivered.revisions[-1].recipient, day, previous, audience)
        bigsite = stack.enter_context(open_source(engine))
        held_back = _held_back(store, delivered, question, bigsite)
        bench = Workbench(folder, stack, delivered, held_back)
        landing = bench.read_landing(store, Question(question.recipient, day, previous, audience, landed=True))
        everything = [bench.compare(kind, question, bigsite) for kind in KINDS]
        late = _late_rows(bigsite, delivered, question, _numbers(everything))
        consents = bigsite.fetch(question.consents())
        found = BreakClassifier(delivered, landing, late, _last_changed(consents)).judge(everything)
        # A portfolio that must not be there at all is one break, whatever else is said of its records.
        ended = consent_breaks(delivered, [row[:4] for row in consents])
        told = {one.portfolio_number for one in found.breaks if one.record == PORTFOLIO}
        breaks = (
            *(one for one in ended if one.portfolio_number not in told),
            *found.breaks,
            *_quarantine_breaks(delivered),
        )
        return Reconciliation(
            feed,
            day,
            Side.SOURCE,
            attempt,
            bigsite.asked_at,
            tuple(breaks),
            tuple(_tallies(everything)),
            held_back,
            found.moved_on,
            any(sides.bigsite.truncated or sides.landing.truncated for sides in everything),
            delivered_figures(delivered),
        )


def _held_back(store: ObjectStore, delivered: Delivered, question: Question, bigsite: Bigsite) -> dict[str, str]:
    """Portfolios that rightly aren't in the file, with the reason: those the manifest names, and silent removals."""
    reasons = {number: str(held.get("reason") or held.get("kind")) for number, held in delivered.held_back.items()}
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


def _quarantine_breaks(delivered: Delivered) -> Iterable[Break]:
    """One warning a portfolio that was held back: what bigsite has and the recipient doesn't is never silent."""
    for number, held in sorted(delivered.held_back.items()):
        rules = ", ".join(str(rule.get("rule")) for rule in held.get("rules", ()))
        yield Break(
            delivered.feed,
            delivered.business_date,
            Side.SOURCE,
            BreakKind.CONSENT if held.get("kind") == "CONSENT_ENDED" else BreakKind.MISSING_IN_EXPORT,
            Severity.WARNING,
            number,
            PORTFOLIO,
            "held back",
            explanations=(
                Explanation(Cause.QUARANTINE, f"{held.get('reason')}{f' (rules: {rules})' if rules else ''}"),
            ),
        )


def _last_changed(consents: Iterable[Sequence[Any]]) -> dict[str, str]:
    changed: dict[str, dt.datetime] = {}
    for number, *_, updated_at in consents:
        changed[number] = max(updated_at, changed.get(number, updated_at))
    return {number: at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for number, at in changed.items()}


def _numbers(everything: Sequence[Sides]) -> list[str]:
    """Portfolios with a balance or holding that differs from bigsite's: theirs are the late rows worth asking for."""
    found = set()
    for sides in everything:
        if sides.kind.name in ("account_balances", "investment_holdings"):
            at = [column.name for column in sides.kind.rule.keys].index("portfolio_number")
            found |= {one.key[at] for one in sides.bigsite.differences if one.row_class is not RowClass.EXCLUDED}
    return sorted(number for number in found if number)


def _late_rows(
    bigsite: Bigsite, delivered: Delivered, question: Question, numbers: Sequence[str]
) -> Mapping[str, Sequence[LateRow]]:
    """Ledger rows dated to the business date or before, and recorded after the delivered snapshot was read."""
    from psycopg import sql

    found: dict[str, list[LateRow]] = defaultdict(list)
    if not numbers:
        return found
    listed = sql.Literal(list(numbers)).as_string()
    since = question.at(min(revision.snapshot_at for revision in delivered.revisions))
    ledgers = (
        ("trade", "trade_date", "r.portfolio_id", ""),
        ("security_movement", "effective_date", "r.portfolio_id", ""),
        (
            "cash_transaction",
            "transaction_date",
            "a.portfolio_id",
            "JOIN bigsite.cash_account a ON a.cash_account_id = r.cash_account_id",
        ),
    )
    for table, date, owner, join in ledgers:
        rows = bigsite.fetch(
            f"SELECT p.portfolio_number, '{table} ' || r.{table}_id, r.recorded_at, "
            f"'{table} ' || r.reverses_{table}_id FROM bigsite.{table} r {join} "
            f"JOIN bigsite.portfolio p ON p.portfolio_id = {owner} WHERE p.portfolio_number = ANY({listed}::text[]) "
            f"AND r.recorded_at > {since} AND r.{date} <= {question.day} ORDER BY 1, r.recorded_at, 2"
        )
        for number, source_row, recorded_at, reverses in rows:
            snapshot_at = delivered.latest.get(number, delivered.revisions[-1]).snapshot_at
            if recorded_at > snapshot_at and len(found[number]) < _LATE_PER_PORTFOLIO:
                found[number].append(
                    LateRow(source_row, f"{recorded_at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z", reverses)
                )
    return found


def _tallies(everything: Sequence[Sides]) -> Iterable[Tally]:
    for sides in everything:
        for against, comparison in (("bigsite", sides.bigsite), ("landing", sides.landing)):
            yield Tally(
                f"{sides.kind.name} against {against}",
                {row_class.value: rows for row_class, rows in sides.counts(comparison).items()},
                sides.portfolios,
                sides.differing,
                comparison.excluded,
            )
