"""The checks over a build's written files: what they hold is read back from their bytes, never taken from frames."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.gate import Verdict, record_verdict
from classfeed_dagster.delivery.manifest import Page, Portfolio
from classfeed_dagster.delivery.page_facts import header_faults, numbers_with_data, portfolio_faults, totals_faults
from classfeed_dagster.delivery.pages import examine_file
from classfeed_dagster.delivery.plan import DeliveryPlan
from classfeed_dagster.delivery.prevalidation import ahead_key, read_ahead
from classfeed_dagster.documents.document_format import (
    DocumentFormat,
    KnownRecords,
    PageInspection,
    Totals,
)
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore
from classfeed_dagster.stored_records import file_facts

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ExaminedPage:
    """A staged page, and what reading its file found."""

    page: Page
    facts: PageInspection
    same_file: bool  # size and SHA-256, as stored and before compression, are those of the build's record


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check's answer: for the gate, and for the people who look at it."""

    check: str
    passed: bool
    summary: str  # one sentence, in figures; no personal data
    offenders: tuple[tuple[str, str], ...]  # (page or portfolio, what is wrong with it), at most twenty
    total_offenders: int


def examine_build(
    store: ObjectStore,
    build: Build,
    document_format: DocumentFormat,
    *,
    code_version: str | None = None,
    threads: int = 2,
) -> tuple[ExaminedPage, ...]:
    """Read every staged page of ``build`` back. A page that is missing or can't be read says so in its facts.

    What ``code_version`` examined ahead is taken from its record, for exactly these bytes; None: nothing is.
    """

    def examine(page: Page) -> ExaminedPage:
        known: KnownRecords = {}
        if code_version is not None:
            known = read_ahead(store, ahead_key(page.key, page.message_id), code_version)
        try:
            with store.local_file(page.key) as path:
                stored = file_facts(path)
                facts = examine_file(path, document_format, known)
        except ObjectNotFoundError:
            missing = PageInspection(("the file does not exist",), {}, {}, frozenset(), Totals(), None, "", 0)
            return ExaminedPage(page, missing, same_file=False)
        document = (facts.size, facts.sha256)
        same = (stored, document) == ((page.bytes, page.sha256), (page.document_bytes, page.document_sha256))
        return ExaminedPage(page, facts, same)

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return tuple(pool.map(examine, build.pages))


def document_valid(build: Build, examined: Sequence[ExaminedPage]) -> CheckResult:
    """Every page is the file that was built, obeys its format, and holds exactly the portfolios planned for it."""
    on_page: dict[str, list[Portfolio]] = {}
    for portfolio in build.portfolios:
        on_page.setdefault(portfolio.page, []).append(portfolio)
    offenders: list[tuple[str, str]] = []
    for one in examined:
        name = one.page.message_id
        faults = [] if one.same_file else ["the file isn't the one that was built"]
        faults += one.facts.errors
        faults += header_faults(
            one.facts.header,
            feed=build.feed,
            business_date=build.business_date,
            sequence_number=build.sequence_number,
            revision=build.revision,
            message_id=name,
        )
        offenders += [(name, fault) for fault in faults]
        offenders += portfolio_faults(one.facts, on_page.get(name, ()))
    return _evaluation("document_valid", offenders, f"{len(examined)} page(s) read back")


def everyone_consented(build: Build, examined: Sequence[ExaminedPage], consented: Collection[str]) -> CheckResult:
    """Everyone of whom the files' bytes hold data is in ``consented``, those whom bigsite confirmed just now.

    A REMOVED record, which is a number and a reference alone, needs no consent. A page that can't be read fails:
    who is in it is unknown.
    """
    held = frozenset(consented)
    with_data = frozenset[str]().union(*(numbers_with_data(one.facts) for one in examined))
    offenders = [
        (one.page.message_id, "can't be trusted to say who is in it")
        for one in examined
        if one.facts.errors or not one.same_file
    ]
    offenders += [(number, "does not consent now") for number in sorted(with_data - held)]
    what = f"{len(with_data)} portfolio(s) in the bytes of {build.build_id}"
    return _evaluation("everyone_consented", offenders, what)


def control_totals_agree(build: Build, examined: Sequence[ExaminedPage]) -> CheckResult:
    """Per page: recomputed from the bytes = stated in the document = what the frames added up to."""
    offenders = [
        (one.page.message_id, fault) for one in examined for fault in totals_faults(one.facts, one.page.expected)
    ]
    what = f"control totals of {len(examined)} page(s), {sum(build.totals.counts.values())} records"
    return _evaluation("control_totals_agree", offenders, what)


def held_back_share(plan: DeliveryPlan, limit: Decimal) -> CheckResult:
    """The share of the consented portfolios that break a rule is not above ``limit``."""
    offenders = [(held.number, held.reason) for held in plan.held_back if held.kind == "RULE"]
    what = f"{plan.breaking} of {plan.consented} portfolio(s) break a rule, the limit is {limit}"
    passed = plan.breaking_share <= limit
    return CheckResult("held_back_share", passed, what, tuple(offenders[:_SHOWN]), len(offenders))


def record_evaluation(store: ObjectStore, build: Build, evaluation: CheckResult, evaluated_by: str) -> Verdict:
    """Put ``evaluation`` on record for the gate."""
    return record_verdict(store, build, evaluation.check, evaluation.passed, evaluation.summary, evaluated_by)


def _evaluation(check: str, offenders: list[tuple[str, str]], what: str) -> CheckResult:
    summary = what if not offenders else f"{what}: {len(offenders)} fault(s), the first: {' '.join(offenders[0])}"
    return CheckResult(check, not offenders, summary, tuple(offenders[:_SHOWN]), len(offenders))
