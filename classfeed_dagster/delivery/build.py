"""Construction of a staged delivery: rendering, paging and staging of the portfolios whose content is new.

All records are streamed through a folder on disk, so memory does not grow with the number of portfolios. The same
inputs give the same bytes and the same build id.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import polars as pl
from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt

from classfeed_dagster.delivery.manifest import ControlTotals, HeldBack, Page, SnapshotRef
from classfeed_dagster.delivery.pages import UNREADABLE, Written, write_page, written
from classfeed_dagster.delivery.plan import DeliveryPlan, PlannedPortfolio
from classfeed_dagster.delivery.portfolio_list import (
    FILE_NAME,
    ListsPortfolios,
    PortfolioListWriter,
    PortfolioRecord,
    stage_portfolios,
)
from classfeed_dagster.delivery.prevalidation import prevalidate, prevalidation_key, record_prevalidation
from classfeed_dagster.delivery.refreshes import sent_in_full
from classfeed_dagster.delivery.state import DeliveredState
from classfeed_dagster.documents.document_format import (
    DocumentFormat,
    KnownRecords,
    PageHeader,
    Paging,
    RenderedPortfolio,
    Totals,
    message_id,
    paging_of,
)
from classfeed_dagster.errors import BuildError, DamagedRecordError
from classfeed_dagster.ledger.files import LedgerFile, StagedLedger
from classfeed_dagster.ledger.writing import LEDGER_INPUT, PartWriter, has_ledger_rows, part_of
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import (
    Sha256,
    build_key,
    create_record,
    json_parts,
    read_record,
    staged_prefix,
)
from classfeed_dagster.wording import counted

_FRAME_BYTES = 8 * 1024  # a page's bytes around the records: header and control totals
_READ = 1 << 20
_SPOOL_BUFFER = 1 << 20


class Build(ListsPortfolios):
    """A staged delivery, ready for the gate: its pages, its portfolios and the state that it was built on."""

    build_id: str = Field(pattern=r"^[0-9a-f]{32}$", description="hash of everything that determines the delivery")
    feed: str
    recipient: str
    business_date: dt.date
    previous_date: dt.date | None = Field(description="the audience's business date before; null on its first")
    sequence_number: PositiveInt
    revision: NonNegativeInt
    replaces: str | None
    recorded_after: AwareDatetime
    recorded_before: AwareDatetime
    snapshot: SnapshotRef
    code_version: str
    flags: dict[str, str | int | bool]
    pages: tuple[Page, ...] = Field(description="staged pages; empty if there is nothing to deliver")
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...] = Field(description="removed portfolios that were never delivered")
    unchanged: NonNegativeInt = Field(description="portfolios whose content was delivered before")
    delivered_before: Sha256 = Field(description="fingerprint of the date's deliveries when the build was made")

    staged_ledger: StagedLedger | None = Field(default=None, description="rows of the delivered ledger, as staged")
    ledger_view: str = Field(default="", description="digest of the view of the ledger under which this was built")

    @property
    def totals(self) -> Totals:
        """Return the control totals over all pages."""
        return sum((page.expected for page in self.pages), Totals())

    @property
    def subject(self) -> dict[str, str]:
        """Return the documents that a verdict must name: SHA-256 before compression, by message id."""
        return {page.message_id: page.document_sha256 for page in self.pages}

    @property
    def files(self) -> dict[str, str]:
        """Return the files that hold them: SHA-256 as stored, by message id."""
        return {page.message_id: page.sha256 for page in self.pages}


def read_build(store: ObjectStore, feed: str, day: dt.date, build_id: str) -> Build:
    """Return a staged build. Raise ObjectNotFoundError if there is none, DamagedRecordError if it is unreadable."""
    key = build_key(feed, day, build_id)
    return read_record(store, Build, key).listed_in(store)


@dataclass(frozen=True)
class DeliveryContext:
    """The context of a delivery: feed, audience, format, snapshot and earlier deliveries of the date."""

    feed: str
    audience: RecipientSchedule
    document_format: DocumentFormat
    delivered: DeliveredState  # before this delivery
    snapshot: SnapshotRef
    code_version: str
    correlation_id: str
    max_page_bytes: int
    compress: bool = True
    flags: Mapping[str, str | int | bool] = field(default_factory=dict)
    ledger_view: str = ""
    last_of_shards: tuple[str, ...] = ()  # last portfolio numbers of the snapshot's shards: parts of the ledger

    @property
    def day(self) -> dt.date:
        """Return the business date."""
        return self.delivered.business_date

    def paging(self) -> Paging:
        """Return an empty division of portfolios into pages."""
        return paging_of(self.document_format, self.max_page_bytes - _FRAME_BYTES)

    def page_id(self, number: int) -> str:
        """Return the message id of a page, from 1."""
        return message_id(self.feed, self.day, self.delivered.next_revision, number)

    def pages(self, ranges: list[range]) -> list[range]:
        """Return the pages to write, as ranges of portfolios. Only a date's first delivery may have an empty page."""
        return ranges if ranges[-1].stop or self.delivered.latest is None else []

    def header(self, number: int, count: int) -> PageHeader:
        """Return the header of page ``number`` of ``count``."""
        return PageHeader(
            feed=self.feed,
            recipient=self.audience.recipient,
            business_date=self.day,
            sequence_number=self.audience.sequence_number(self.day),
            revision=self.delivered.next_revision,
            replaces=self.delivered.replaces,
            page_number=number,
            page_count=count,
            window=self.audience.window(self.day),
            snapshot_at=self.snapshot.snapshot_at,
        )

    def file_name(self, header: PageHeader) -> str:
        """Return the name of a page's file."""
        suffix = self.document_format.extension + (".gz" if self.compress else "")
        return f"{self.document_format.file_stem(header)}{suffix}"

    def build(
        self,
        *,
        pages: Iterable[Page],
        portfolios: PortfolioListWriter,
        held_back: tuple[HeldBack, ...],
        unannounced: tuple[str, ...],
        unchanged: int,
    ) -> Build:
        """Return the record of the staged delivery. Its id is a hash of its content. The list's file has no key yet."""
        window = self.audience.window(self.day)
        build = Build(
            schema_version=2,
            build_id="0" * 32,
            feed=self.feed,
            recipient=self.audience.recipient,
            business_date=self.day,
            previous_date=self.audience.previous(self.day),
            sequence_number=self.audience.sequence_number(self.day),
            revision=self.delivered.next_revision,
            replaces=self.delivered.replaces,
            recorded_after=window.start,
            recorded_before=window.end,
            snapshot=self.snapshot,
            code_version=self.code_version,
            flags=dict(self.flags),
            pages=tuple(pages),
            portfolio_list=portfolios.written(),
            held_back=held_back,
            unannounced=unannounced,
            unchanged=unchanged,
            delivered_before=self.delivered.fingerprint,
            ledger_view=self.ledger_view,
        )
        # The id excludes compressed files: another processor may compress the same document or list differently.
        left_out: dict[str, Any] = {
            **dict.fromkeys(("build_id", "staged_ledger", "portfolio_list", "portfolios"), True),
            "pages": {"__all__": {"key", "bytes", "sha256"}},
        }
        determining = hashlib.sha256(portfolios.rows_sha256.encode())
        for part in json_parts(build, exclude=left_out):
            determining.update(part)
        return build.model_copy(update={"build_id": determining.hexdigest()[:32]})


def build_delivery(
    store: ObjectStore,
    context: DeliveryContext,
    plan: DeliveryPlan,
    slices: Iterable[Mapping[str, pl.DataFrame]],
) -> Build:
    """Render and stage the delivery of ``plan``, and store its record.

    ``slices`` are the domain frames by name, in order of portfolio number, each portfolio whole in one slice.
    A build without anything to deliver has no pages, but the first delivery of a date always has page 1.
    Raise BuildError if the rendered portfolios are not those of the plan.
    """
    document_format = context.document_format
    with (
        tempfile.TemporaryDirectory(prefix="classfeed-build-") as folder,
        ThreadPoolExecutor(max_workers=1) as inspector,
    ):
        spool = _Spool(Path(folder), context.paging(), context.page_id)
        parts = LedgerParts(Path(folder), document_format.ledgers, context.last_of_shards)
        inspections: list[Future[KnownRecords]] = []

        def examine(on_page: range) -> None:
            # Runs while the next page is rendered and the first ones are written.
            inspections.append(inspector.submit(prevalidate, document_format, spool.sections(on_page)))

        with spool, parts:
            unchanged = _spool_changed(spool, rendered_portfolios(context, plan.included, slices, parts.add), examine)
        ranges = context.pages(spool.paging.pages)
        headers = [context.header(at, len(ranges)) for at in range(1, len(ranges) + 1)]
        files = [Path(folder) / context.file_name(header) for header in headers]
        totals = spool.totals if len(spool.portfolios) else [Totals()] * len(ranges)

        def write(at: int) -> Written:
            chunks = document_format.page(headers[at], totals[at], spool.sections(ranges[at]))
            return write_page(chunks, files[at], compress=context.compress)

        with ThreadPoolExecutor(max_workers=2) as pool:
            results = list(pool.map(write, range(len(ranges))))

        build = context.build(
            pages=map(page_record, headers, totals, results),
            portfolios=spool.portfolios,
            held_back=plan.held_back,
            unannounced=plan.unannounced,
            unchanged=unchanged,
        )
        prefix = staged_prefix(build.feed, build.business_date, build.build_id)
        known_records: list[KnownRecords | None] = [inspection.result() for inspection in inspections]
        known_records += [None] * (len(files) - len(inspections))
        pages = [
            stage_page(store, prefix, page, path, records, context)
            for page, path, records in zip(build.pages, files, known_records, strict=True)
        ]
        staged = StagedLedger(prefix=prefix, files=parts.stage(store, prefix)) if parts.written else None
        build = build.model_copy(update={"pages": tuple(pages), "staged_ledger": staged})
        return keep_build(store, build, spool.portfolios)


def page_record(header: PageHeader, totals: Totals, result: Written) -> Page:
    """Return the record of a written page, which has no key yet."""
    return Page(
        message_id=header.message_id,
        key="",
        bytes=result.bytes,
        sha256=result.sha256,
        document_bytes=result.document_bytes,
        document_sha256=result.document_sha256,
        counts=dict(totals.counts),
        totals=ControlTotals.of(totals),
    )


def rendered_portfolios(
    context: DeliveryContext,
    included: Iterable[PlannedPortfolio],
    slices: Iterable[Mapping[str, pl.DataFrame]],
    ledger: Callable[[Mapping[str, pl.DataFrame], Mapping[str, str]], None] = lambda frames, digests: None,
) -> Iterator[tuple[PlannedPortfolio, RenderedPortfolio, str | None]]:
    """Render the included portfolios in order, each with its content digest, or None if that content was delivered.

    Raise BuildError if the rendered portfolios are not exactly ``included``.
    """
    feed, day = context.feed, context.day.isoformat()
    waiting = {portfolio.number: portfolio for portfolio in included}
    numbers = pl.Series(list(waiting), dtype=pl.String())
    before, last = context.delivered.portfolios, ""

    def render(
        frames: Mapping[str, pl.DataFrame],
    ) -> tuple[Iterator[RenderedPortfolio], dict[str, pl.DataFrame]]:
        # Portfolios held back are not rendered: they may hold values that the format cannot carry.
        rows = {name: frame for name, frame in frames.items() if name in LEDGER_INPUT}
        return context.document_format.render(_of_portfolios(frames, numbers)), rows

    # ``map`` keeps no reference to a slice's frames, so they are freed before the next slice is read.
    for portfolios, rows in map(render, slices):
        digests: dict[str, str] = {}
        for rendered in portfolios:
            portfolio = waiting.pop(rendered.number, None)
            if portfolio is None or rendered.number <= last:
                raise BuildError(
                    f"{feed} of {day}: portfolio {rendered.number} was rendered twice, out of order, or is not in the "
                    "plan"
                )
            last = rendered.number
            digest = content_digest(rendered)
            if (portfolio.change, portfolio.extract) == ("CURRENT", "FULL"):
                digest = _refreshed_digest(context.delivered, rendered.number, digest)
            delivered = before.get(rendered.number)
            changed = delivered is None or delivered.digest != digest
            if changed:
                digests[rendered.number] = digest
            yield portfolio, rendered, digest if changed else None
        ledger(rows, digests)
        del portfolios, rows  # not in memory any more while the next slice is read
    if waiting:
        missing = ", ".join(sorted(waiting)[:20])
        raise BuildError(
            f"{feed} of {day}: the frames have no record of {counted(len(waiting), 'portfolio')} of the plan "
            f"({missing})"
        )


def _spool_changed(
    spool: _Spool,
    portfolios: Iterable[tuple[PlannedPortfolio, RenderedPortfolio, str | None]],
    page_ended: Callable[[range], None],
) -> int:
    # Spool the portfolios whose content was not delivered yet; return the number of the others.
    ended = unchanged = 0
    for portfolio, rendered, digest in portfolios:
        if digest is None:
            unchanged += 1
            continue
        spool.add(portfolio, rendered, digest)
        if len(spool.totals) > ended + 1:
            page_ended(spool.page(ended))
            ended += 1
    if len(spool.portfolios):
        page_ended(spool.page(ended))
    return unchanged


def _of_portfolios(frames: Mapping[str, pl.DataFrame], numbers: pl.Series) -> dict[str, pl.DataFrame]:
    # The frames' rows of these portfolios. A frame without others is not copied.
    kept = dict(frames)
    for name, frame in frames.items():
        if "portfolio_number" in frame.columns:
            wanted = frame["portfolio_number"].is_in(numbers.implode())
            kept[name] = frame if wanted.all() else frame.filter(wanted)
    return kept


def _refreshed_digest(state: DeliveredState, number: str, digest: str) -> str:
    # A refresh is delivered once, even if the date's DELTA had the same records.
    delivered, repeated = state.portfolios.get(number), hashlib.sha256(f"FULL\0{digest}".encode()).hexdigest()
    if delivered is None or delivered.digest not in (digest, repeated):
        return digest
    return delivered.digest if sent_in_full(state, number) else repeated


def content_digest(rendered: RenderedPortfolio) -> str:
    """Return the SHA-256 of a portfolio's records by section. It is independent of the page."""
    digest = hashlib.sha256()
    for name in sorted(rendered.sections):
        section = rendered.sections[name]
        digest.update(f"{name}\0{len(section)}\0".encode())
        digest.update(section)
    return digest.hexdigest()


class LedgerParts:
    """The ledger rows of a build, in the parts that its shards make; none if the frames have no ledger rows."""

    def __init__(self, folder: Path, ledgers: frozenset[str], last_of_shards: Sequence[str]) -> None:
        self._folder = folder
        self._ledgers = ledgers
        self._last_of_shards = last_of_shards
        self._open: ExitStack = ExitStack()
        self._writers: list[PartWriter] = []

    def __enter__(self) -> LedgerParts:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def written(self) -> bool:
        """Return True if any slice had ledger rows."""
        return bool(self._writers)

    def add(self, frames: Mapping[str, pl.DataFrame], digests: Mapping[str, str]) -> None:
        """Append the rows of one slice: those of the portfolios in ``digests``, with the digest of their content."""
        if not has_ledger_rows(frames):
            return
        numbers = frames["consented_portfolios"]["portfolio_number"]
        part = part_of(numbers[0], self._last_of_shards) if len(numbers) else 0
        if not self._writers or self._writers[-1].part < part:
            self._writers.append(self._open.enter_context(PartWriter(self._folder, part, self._ledgers)))
        self._writers[-1].add(frames, digests)

    def stage(self, store: ObjectStore, prefix: str) -> tuple[LedgerFile, ...]:
        """Store the closed files below ``prefix``."""
        return tuple(file for writer in self._writers for file in writer.stage(store, prefix))


class _Spool:
    """Rendered records on disk, one file per section in order of portfolios, with each page's portfolios and totals.

    ``page_id`` returns the message id of a page by its number.
    """

    def __init__(self, folder: Path, paging: Paging, page_id: Callable[[int], str]) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, tuple[Path, IO[bytes]]] = {}
        self._ends: dict[str, array[int]] = {}  # by section: the end of each portfolio's records
        self._page_id = page_id
        self._page_ids: list[str] = []
        self.paging = paging
        self.portfolios = PortfolioListWriter(folder / FILE_NAME)

    @property
    def totals(self) -> list[Totals]:
        """Totals of each page that has a portfolio."""
        return self.paging.totals

    def __enter__(self) -> _Spool:
        self._open.enter_context(self.portfolios)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, planned: PlannedPortfolio, rendered: RenderedPortfolio, digest: str) -> None:
        """Append one portfolio."""
        for name in rendered.sections.keys() - self._files.keys():
            path = self._folder / f"section-{len(self._files)}"
            self._files[name] = (path, self._open.enter_context(path.open("xb", buffering=_SPOOL_BUFFER)))
            self._ends[name] = array("q", bytes(8 * len(self.portfolios)))
        for name, (_, target) in self._files.items():
            ends = self._ends[name]
            data = rendered.sections.get(name, b"")
            target.write(data)
            ends.append((ends[-1] if ends else 0) + len(data))
        page = self.paging.add(rendered.size, rendered.totals)
        if page > len(self._page_ids):
            self._page_ids.append(self._page_id(page))
        self.portfolios.add(
            PortfolioRecord(
                number=planned.number,
                change=planned.change,
                extract=planned.extract,
                digest=digest,
                bytes=rendered.size,
                consent_ids=planned.consent_ids,
                page=self._page_ids[-1],
            )
        )

    def page(self, number: int) -> range:
        """Return the portfolios of a page (from 0), after flushing their records to disk."""
        for _, target in self._files.values():
            target.flush()
        return self.paging.pages[number]

    def sections(self, portfolios: range) -> dict[str, Iterable[bytes]]:
        """Return the records of consecutive portfolios by section, read from disk in blocks."""
        return {name: self._blocks(name, portfolios) for name in self._files}

    def _blocks(self, name: str, portfolios: range) -> Iterator[bytes]:
        ends = self._ends[name]
        start = ends[portfolios.start - 1] if portfolios.start else 0
        remaining = (ends[portfolios.stop - 1] if portfolios.stop else 0) - start
        with self._files[name][0].open("rb") as source:
            source.seek(start)
            while block := source.read(min(_READ, remaining)):
                remaining -= len(block)
                yield block


def stage_page(
    store: ObjectStore, prefix: str, page: Page, path: Path, ahead: KnownRecords | None, context: DeliveryContext
) -> Page:
    """Stage a page's file below ``prefix``, and its prevalidated records. Return the page with its key."""
    key = prefix + path.name
    if store.create(key, path, {"correlation-id": context.correlation_id, "sha256": page.sha256}):
        staged = page.model_copy(update={"key": key})
    else:
        staged = _staged_before(store, page, key)
    if ahead:
        record_prevalidation(store, prevalidation_key(key, page.message_id), context.code_version, ahead)
    return staged


def keep_build(store: ObjectStore, build: Build, portfolios: PortfolioListWriter) -> Build:
    """Stage the closed list of a build whose pages are staged, and record the build.

    Return the recorded build, which may be an earlier attempt's.
    """
    prefix = staged_prefix(build.feed, build.business_date, build.build_id)
    listed = stage_portfolios(store, prefix, portfolios)
    build = build.model_copy(update={"portfolio_list": listed}).listed_in(store)
    if create_record(store, build_key(build.feed, build.business_date, build.build_id), build):
        return build
    return read_build(store, build.feed, build.business_date, build.build_id)


def _staged_before(store: ObjectStore, page: Page, key: str) -> Page:
    # An earlier attempt staged the same document: use its file, so that all attempts deliver the same bytes.
    with store.local_file(key) as path:
        try:
            facts = written(path)
        except UNREADABLE:
            raise DamagedRecordError(store.location(key), "the staged page is unreadable") from None
    if facts.document_sha256 != page.document_sha256:
        raise DamagedRecordError(store.location(key), "the staged page is not the document of its build")
    return page.model_copy(update={"key": key, "bytes": facts.bytes, "sha256": facts.sha256})
