"""Problems that verification reports, and the verification of one manifest and one page."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.checks import OFFENDERS_LIMIT
from classfeed_dagster.delivery.manifest import AnyManifest, ControlTotals, Manifest, Page, sum_totals
from classfeed_dagster.delivery.pages import examine_file, header_faults, portfolio_faults, totals_faults
from classfeed_dagster.delivery.portfolio_list import PortfolioRecord
from classfeed_dagster.documents.document_format import DocumentFormat, PageInspection
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.stored_records import file_facts, to_json


class ProblemKind(enum.StrEnum):
    """Kinds of problem, each with its sentence for people."""

    CHAIN_GAP = "a place of the chain, or its manifest, is missing"
    CHAIN_CHANGED = "a manifest is not the one that its successor or its place in the chain names"
    NOT_IN_CHAIN = "a manifest has no place in the chain"
    RECORD_DAMAGED = "a record is unreadable or contradicts itself"
    OUT_OF_ORDER = "business dates or revisions are not in sequence"
    PAGE_MISSING = "a page that was delivered is missing"
    PAGE_CHANGED = "a page is not the file that was delivered"
    LEDGER_CHANGED = "a ledger file or list of portfolios is missing, or is not the one that was delivered"
    DOCUMENT_INVALID = "a document does not obey its format"
    CONTENT_DISAGREES = "header, portfolios or control totals are not those on record"
    ORPHAN = "a file among the deliveries is listed by no manifest"
    UNKNOWN_FILE = "not a file that can be verified"
    UNFINISHED = "a delivery was begun and is not finished: it delivered nothing"
    LEFTOVER = "a file of an abandoned attempt was never delivered: the next run of its date removes it"


_HARMLESS = frozenset({ProblemKind.UNFINISHED, ProblemKind.LEFTOVER})


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault and its location. ``harmless``: no delivery is affected."""

    kind: ProblemKind
    location: str
    detail: str

    @property
    def harmless(self) -> bool:
        """Return True for remains of a stopped attempt, which the next run removes."""
        return self.kind in _HARMLESS

    def __str__(self) -> str:
        return f"{self.location}: {self.kind} ({self.detail})"


@dataclass(slots=True)
class Verification:
    """Result of a verification: the objects verified, and the problems."""

    problems: list[Problem] = field(default_factory=list)
    manifests: int = 0
    pages: int = 0
    portfolios: int = 0

    @property
    def sound(self) -> bool:
        """Return True if all problems are harmless."""
        return all(problem.harmless for problem in self.problems)

    def add(self, kind: ProblemKind, location: str, detail: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, location, detail))


def manifest_problems(manifest: AnyManifest, data: bytes, location: str, *, listed: bool = True) -> Iterator[Problem]:
    """Yield the contradictions within a manifest and, with ``listed``, its list of portfolios."""
    if to_json(manifest) != data:
        yield Problem(ProblemKind.RECORD_DAMAGED, location, "its bytes are not in the canonical form")
    if not isinstance(manifest, Manifest):
        return
    expected = sum_totals(manifest.pages)
    if manifest.totals != ControlTotals.of(expected) or manifest.counts != dict(expected.counts):
        yield Problem(ProblemKind.RECORD_DAMAGED, location, "its counts or totals are not the sums over its pages")
    if not all(check.passed for check in manifest.verdicts):
        yield Problem(ProblemKind.RECORD_DAMAGED, location, "it lists a failed check")
    if not listed:
        return
    count, in_order, before, named = 0, True, "", set[str]()  # nothing that grows with the list
    try:
        for portfolio in manifest.portfolios:
            in_order &= before < portfolio.number
            before, count = portfolio.number, count + 1
            named.add(portfolio.page)
    except DamagedRecordError as error:
        yield Problem(ProblemKind.LEDGER_CHANGED, error.location, error.fault)
        return
    if not in_order or count != len(manifest.portfolios):
        yield Problem(ProblemKind.RECORD_DAMAGED, location, "its portfolios are out of order or duplicated")
    ids = [page.message_id for page in manifest.pages]
    if len(ids) != len(set(ids)) or not named <= set(ids):
        yield Problem(
            ProblemKind.RECORD_DAMAGED, location, "its pages are duplicated, or a portfolio is on an unlisted page"
        )


def build_differences(build: Build, manifest: Manifest) -> list[str]:
    """Return the names of the fields in which a manifest differs from its build's record."""
    common = type(build).model_fields.keys() & type(manifest).model_fields.keys()
    apart = {"pages", "totals", "schema_version", "portfolio_list"}  # keys and the form of the records differ
    changed = [name for name in common - apart if getattr(build, name) != getattr(manifest, name)]
    pages = [page.model_copy(update={"key": ""}) for page in manifest.pages]
    if pages != [page.model_copy(update={"key": ""}) for page in build.pages]:
        changed.append("pages")
    staged = build.staged_ledger
    if (staged is None) != (manifest.ledger is None) or (
        staged
        and manifest.ledger
        and {f for f in staged.files if f.kind == "records"} != set(manifest.ledger.of("records"))
    ):
        changed.append("ledger")
    return sorted(changed)


def portfolios_by_page(manifest: Manifest) -> dict[str, list[PortfolioRecord]] | None:
    """Return the manifest's portfolios by message id of their page; None if their list is unreadable."""
    on_page: dict[str, list[PortfolioRecord]] = {page.message_id: [] for page in manifest.pages}
    try:
        for portfolio in manifest.portfolios:
            on_page.setdefault(portfolio.page, []).append(portfolio)
    except DamagedRecordError:
        return None  # ``manifest_problems`` reports it
    return on_page


def page_problems(
    path: Path,
    location: str,
    *,
    page: Page,
    manifest: Manifest,
    portfolios: Iterable[PortfolioRecord] | None,
    document_format: DocumentFormat,
) -> Iterator[Problem]:
    """Yield the differences between a delivered page and its manifest: the file, its validity and its content.

    ``portfolios`` are those on the page; None if they are not known.
    """
    size, digest = file_facts(path)
    facts = examine_file(path, document_format)
    unreadable = not facts.sha256
    if size < page.bytes and (unreadable or facts.errors):
        # Other differences follow from this.
        detail = f"it has {size:,} of {page.bytes:,} bytes and cannot be read to its end: cut off or replaced"
        yield Problem(ProblemKind.PAGE_CHANGED, location, detail)
        return
    if (size, digest) != (page.bytes, page.sha256):
        yield Problem(ProblemKind.PAGE_CHANGED, location, "its size or SHA-256 differs from the manifest's")
    if not facts.errors and (facts.size, facts.sha256) != (page.document_bytes, page.document_sha256):
        yield Problem(ProblemKind.PAGE_CHANGED, location, "the document's size or SHA-256 differs from the manifest's")
    yield from _invalid(facts, location)
    if unreadable:
        return
    details = header_faults(
        facts.header,
        feed=manifest.feed,
        business_date=manifest.business_date,
        sequence_number=manifest.sequence_number,
        revision=manifest.revision,
        message_id=page.message_id,
    )
    if portfolios is not None:
        details += [f"portfolio {number} {detail}" for number, detail in portfolio_faults(facts, portfolios)]
    details += totals_faults(facts, page.expected)
    for detail in details[:OFFENDERS_LIMIT]:
        yield Problem(ProblemKind.CONTENT_DISAGREES, location, detail)


def document_problems(path: Path, document_format: DocumentFormat) -> Iterator[Problem]:
    """Yield the faults of a document on its own, without a manifest: its format and its control totals."""
    facts = examine_file(path, document_format)
    yield from _invalid(facts, str(path))
    if not facts.sha256:
        return  # it could not be read to its end: other faults follow from this
    for detail in totals_faults(facts, facts.totals):
        yield Problem(ProblemKind.CONTENT_DISAGREES, str(path), detail)


def _invalid(facts: PageInspection, location: str) -> Iterator[Problem]:
    for error in facts.errors[:OFFENDERS_LIMIT]:
        yield Problem(ProblemKind.DOCUMENT_INVALID, location, error)
