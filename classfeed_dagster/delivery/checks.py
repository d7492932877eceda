"""Checks over a build's written files. Their content is read back from the bytes, not from frames."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from classfeed_dagster.delivery.gate import Verdict, record_verdict
from classfeed_dagster.delivery.manifest import Page
from classfeed_dagster.delivery.pages import (
    examine_file,
    header_faults,
    numbers_with_data,
    portfolio_faults,
    totals_faults,
)
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.delivery.prevalidation import prevalidation_key, read_prevalidation
from classfeed_dagster.documents.document_format import DocumentFormat, KnownRecords, PageInspection, Totals
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import file_facts
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.delivery.build import Build
    from classfeed_dagster.delivery.plan import DeliveryPlan

OFFENDERS_LIMIT = 20  # offenders that a check or a problem list names; the rest is counted


@dataclass(frozen=True, slots=True)
class ExaminedPage:
    """A staged page and the inspection of its file."""

    page: Page
    facts: PageInspection
    same_file: bool  # size and SHA-256, as stored and before compression, are those of the build's record


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    check: str
    passed: bool
    summary: str  # one sentence, in figures; no personal data
    offenders: tuple[tuple[str, str], ...]  # (page or portfolio, its fault), at most OFFENDERS_LIMIT
    total_offenders: int

    @classmethod
    def of_offenders(cls, check: str, summary: str, offenders: Sequence[tuple[str, str]]) -> CheckResult:
        """Return the result of ``check``, passed if there are no offenders. ``what`` states the scope, in figures."""
        fault = f": {counted(len(offenders), 'fault')}, the first: {' '.join(offenders[0])}" if offenders else ""
        return cls(check, not offenders, summary + fault, tuple(offenders[:OFFENDERS_LIMIT]), len(offenders))


def examine_build(
    store: ObjectStore,
    build: Build,
    document_format: DocumentFormat,
    *,
    code_version: str | None = None,
) -> tuple[ExaminedPage, ...]:
    """Read every staged page of ``build`` back. A missing or unreadable page has an error in its facts.

    Prevalidated records of ``code_version`` are used for exactly the same bytes; None ignores them.
    """

    def examine(page: Page) -> ExaminedPage:
        prevalidated: KnownRecords = {}
        if code_version is not None:
            prevalidated = read_prevalidation(store, prevalidation_key(page.key, page.message_id), code_version)
        try:
            with store.local_file(page.key) as path:
                stored = file_facts(path)
                facts = examine_file(path, document_format, prevalidated)
        except ObjectNotFoundError:
            missing = PageInspection(("the file does not exist",), {}, {}, frozenset(), Totals(), None, "", 0)
            return ExaminedPage(page, missing, same_file=False)
        document = (facts.size, facts.sha256)
        same = (stored, document) == ((page.bytes, page.sha256), (page.document_bytes, page.document_sha256))
        return ExaminedPage(page, facts, same)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return tuple(pool.map(examine, build.pages))


def document_valid(build: Build, examined: Sequence[ExaminedPage]) -> CheckResult:
    """Check that every page is the file that was built, is valid, and holds exactly the portfolios planned for it."""
    on_page: dict[str, list[PortfolioRecord]] = {}
    for portfolio in build.portfolios:
        on_page.setdefault(portfolio.page, []).append(portfolio)
    offenders: list[tuple[str, str]] = []
    for entry in examined:
        name = entry.page.message_id
        faults = [] if entry.same_file else ["is not the file that was built"]
        faults += entry.facts.errors
        faults += header_faults(
            entry.facts.header,
            feed=build.feed,
            business_date=build.business_date,
            sequence_number=build.sequence_number,
            revision=build.revision,
            message_id=name,
        )
        offenders += [(name, fault) for fault in faults]
        offenders += portfolio_faults(entry.facts, on_page.get(name, ()))
    return CheckResult.of_offenders("document_valid", f"{counted(len(examined), 'page')} read back", offenders)


def everyone_consented(build: Build, examined: Sequence[ExaminedPage], consented: Collection[str]) -> CheckResult:
    """Check that every portfolio with data in the files is in ``consented``, which bigsite confirmed just now.

    A REMOVED record needs no consent: it is a number and a reference alone. An unreadable page fails, since its
    portfolios are unknown.
    """
    with_data = frozenset[str]().union(*(numbers_with_data(entry.facts) for entry in examined))
    offenders = [
        (entry.page.message_id, "is unreadable or changed: its portfolios are unknown")
        for entry in examined
        if entry.facts.errors or not entry.same_file
    ]
    offenders += [(number, "does not consent now") for number in sorted(with_data - frozenset(consented))]
    summary = f"{counted(len(with_data), 'portfolio')} in the bytes of {build.build_id}"
    return CheckResult.of_offenders("everyone_consented", summary, offenders)


def control_totals_agree(build: Build, examined: Sequence[ExaminedPage]) -> CheckResult:
    """Check each page's control totals: recomputed from the bytes = stated in the document = sums of the frames."""
    offenders = [
        (entry.page.message_id, fault)
        for entry in examined
        for fault in totals_faults(entry.facts, entry.page.expected)
    ]
    summary = (
        f"control totals of {counted(len(examined), 'page')}, {counted(sum(build.totals.counts.values()), 'record')}"
    )
    return CheckResult.of_offenders("control_totals_agree", summary, offenders)


def held_back_share(plan: DeliveryPlan, limit: Decimal) -> CheckResult:
    """Check that the share of the consented portfolios that break a rule is at most ``limit``."""
    offenders = [(entry.number, entry.reason) for entry in plan.held_back if entry.kind == "RULE"]
    summary = f"rules are broken by {plan.breaking} of {counted(plan.consented, 'portfolio')}, the limit is {limit}"
    passed = plan.breaking_share <= limit
    return CheckResult("held_back_share", passed, summary, tuple(offenders[:OFFENDERS_LIMIT]), len(offenders))


def record_evaluation(store: ObjectStore, build: Build, evaluation: CheckResult, evaluated_by: str) -> Verdict:
    """Record the verdict of ``evaluation`` for the gate."""
    return record_verdict(store, build, evaluation.check, evaluation.passed, evaluation.summary, evaluated_by)
