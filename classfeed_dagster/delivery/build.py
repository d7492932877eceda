"""Building a delivery: render who goes, keep what differs from what was delivered, write the pages, stage them.

Everything is streamed over a folder on disk, so memory doesn't grow with the number of portfolios. The same inputs
give the same bytes and the same build id.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl
from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt

from classfeed_dagster.delivery.errors import BuildError, DamagedRecordError
from classfeed_dagster.delivery.manifest import ControlTotals, HeldBack, Page, Portfolio, Sha256, SnapshotRef
from classfeed_dagster.delivery.pages import UNREADABLE, Written, write_page, written
from classfeed_dagster.delivery.plan import DeliveryPlan, Going
from classfeed_dagster.delivery.records import Record, build_key, canonical, from_json, sha256, staged_prefix, to_json
from classfeed_dagster.delivery.state import DeliveredState
from classfeed_dagster.documents.format import (
    DocumentFormat,
    PageHeader,
    RenderedPortfolio,
    Totals,
    file_stem,
    pages_of,
)
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.store import ObjectStore

_FRAME_BYTES = 8 * 1024  # what a page needs around the records: header and control totals
_READ = 1 << 20
_SPOOL_BUFFER = 1 << 20


class Build(Record):
    """A staged delivery, ready for the gate: what would be delivered, and what was assumed when it was made."""

    schema_version: Literal[1] = 1
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
    pages: tuple[Page, ...] = Field(description="staged pages; none if there is nothing to deliver")
    portfolios: tuple[Portfolio, ...] = Field(description="those whose content differs from what was delivered")
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...] = Field(description="removed portfolios of which nothing was ever sent")
    unchanged: NonNegativeInt = Field(description="portfolios whose content was delivered already")
    delivered_before: Sha256 = Field(description="fingerprint of what was delivered for the date when this was built")

    @property
    def totals(self) -> Totals:
        """What all pages add up to."""
        return sum((page.expected for page in self.pages), Totals())

    @property
    def subject(self) -> dict[str, str]:
        """The documents that a verdict must speak of: SHA-256 before compression, by message id."""
        return {page.message_id: page.document_sha256 for page in self.pages}


def read_build(store: ObjectStore, feed: str, day: dt.date, build_id: str) -> Build:
    """A staged build. ObjectNotFoundError if there is none, DamagedRecordError if it can't be read."""
    key = build_key(feed, day, build_id)
    return from_json(Build, store.read(key), store.location(key))


def build_delivery(
    store: ObjectStore,
    *,
    feed: str,
    audience: Audience,
    document_format: DocumentFormat,
    plan: DeliveryPlan,
    slices: Iterable[Mapping[str, pl.DataFrame]],
    delivered: DeliveredState,
    snapshot: SnapshotRef,
    code_version: str,
    correlation_id: str,
    flags: Mapping[str, str | int | bool] | None = None,
    max_page_bytes: int,
    compress: bool = True,
    threads: int = 2,
) -> Build:
    """Render and stage the delivery of ``plan``; the record of it is in the store as well.

    ``slices`` are the domain frames by name, in order of portfolio number, each portfolio whole in one slice.
    Nothing to deliver gives a build without pages; the first delivery of a date always has page 1.
    BuildError if the rendered portfolios aren't those of the plan.
    """
    day = plan.business_date
    window = audience.window(day)
    with tempfile.TemporaryDirectory(prefix="classfeed-build-") as folder:
        spool = _Spool(Path(folder))
        with spool:
            unchanged = _render_changed(spool, document_format, plan, slices, delivered)
        sizes = [portfolio.bytes for portfolio in spool.portfolios]
        due = bool(sizes) or delivered.latest is None
        ranges = pages_of(document_format, sizes, max_page_bytes - _FRAME_BYTES) if due else []
        headers = [
            PageHeader(
                feed=feed,
                recipient=audience.recipient,
                business_date=day,
                sequence_number=audience.sequence_number(day),
                revision=delivered.next_revision,
                replaces=delivered.replaces,
                page_number=at,
                page_count=len(ranges),
                window=window,
                snapshot_at=snapshot.snapshot_at,
            )
            for at in range(1, len(ranges) + 1)
        ]
        suffix = document_format.extension + (".gz" if compress else "")
        files = [Path(folder) / f"{file_stem(document_format, header)}{suffix}" for header in headers]
        totals = [sum((spool.totals[at] for at in on_page), Totals()) for on_page in ranges]

        def write(at: int) -> Written:
            chunks = document_format.page(headers[at], totals[at], spool.sections(ranges[at]))
            return write_page(chunks, files[at], compress=compress)

        with ThreadPoolExecutor(max_workers=threads) as pool:
            results = list(pool.map(write, range(len(ranges))))

        build = Build(
            build_id="0" * 32,
            feed=feed,
            recipient=audience.recipient,
            business_date=day,
            previous_date=audience.previous(day),
            sequence_number=audience.sequence_number(day),
            revision=delivered.next_revision,
            replaces=delivered.replaces,
            recorded_after=window.start,
            recorded_before=window.end,
            snapshot=snapshot,
            code_version=code_version,
            flags=dict(flags or {}),
            pages=tuple(map(_page, headers, totals, results)),
            portfolios=tuple(
                portfolio.model_copy(update={"page": header.message_id})
                for header, on_page in zip(headers, ranges, strict=True)
                for portfolio in spool.portfolios[on_page.start : on_page.stop]
            ),
            held_back=plan.held_back,
            unannounced=plan.unannounced,
            unchanged=unchanged,
            delivered_before=delivered.fingerprint,
        )
        return _stage(store, build, files, correlation_id)


def _page(header: PageHeader, totals: Totals, result: Written) -> Page:
    return Page(
        message_id=header.message_id,
        key="",  # known once the build id is
        bytes=result.bytes,
        sha256=result.sha256,
        document_bytes=result.document_bytes,
        document_sha256=result.document_sha256,
        counts=dict(totals.counts),
        totals=ControlTotals.of(totals),
    )


def _render_changed(
    spool: _Spool,
    document_format: DocumentFormat,
    plan: DeliveryPlan,
    slices: Iterable[Mapping[str, pl.DataFrame]],
    delivered: DeliveredState,
) -> int:
    # Spool the portfolios whose content was not delivered yet; the number of the others is the result.
    going = {portfolio.number: portfolio for portfolio in plan.going}
    numbers = pl.DataFrame({"portfolio_number": list(going)}, schema={"portfolio_number": pl.String()})
    unchanged, last = 0, ""
    for frames in slices:
        # What is held back isn't even rendered: it may hold values that the format can't carry.
        kept = {name: _of_portfolios(frame, numbers) for name, frame in frames.items()}
        for rendered in document_format.render(kept):
            portfolio = going.pop(rendered.number, None)
            if portfolio is None or rendered.number <= last:
                raise BuildError(
                    f"{delivered.feed} of {plan.business_date.isoformat()}: portfolio {rendered.number} was rendered "
                    "twice, out of order, or without being in the plan"
                )
            last = rendered.number
            digest = content_digest(rendered)
            before = delivered.portfolios.get(rendered.number)
            if before is not None and before.digest == digest:
                unchanged += 1
            else:
                spool.add(portfolio, rendered, digest)
    if going:
        missing = ", ".join(sorted(going)[:20])
        raise BuildError(
            f"{delivered.feed} of {plan.business_date.isoformat()}: {len(going)} portfolio(s) of the plan have no "
            f"record in the frames ({missing})"
        )
    return unchanged


def _of_portfolios(frame: pl.DataFrame, numbers: pl.DataFrame) -> pl.DataFrame:
    if "portfolio_number" not in frame.columns:
        return frame
    return frame.join(numbers, on="portfolio_number", how="semi")


def content_digest(rendered: RenderedPortfolio) -> str:
    """SHA-256 over a portfolio's records by section: equal content, equal digest, whatever page it is on."""
    digest = hashlib.sha256()
    for name in sorted(rendered.sections):
        section = rendered.sections[name]
        digest.update(f"{name}\0{len(section)}\0".encode())
        digest.update(section)
    return digest.hexdigest()


class _Spool:
    """The rendered records on disk, one file a section, each in order of portfolios."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, tuple[Path, IO[bytes]]] = {}
        self._ends: dict[str, list[int]] = {}  # by section: where each portfolio's records end
        self.portfolios: list[Portfolio] = []
        self.totals: list[Totals] = []

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, going: Going, rendered: RenderedPortfolio, digest: str) -> None:
        """Append one portfolio."""
        for name in rendered.sections.keys() - self._files.keys():
            path = self._folder / f"section-{len(self._files)}"
            self._files[name] = (path, self._open.enter_context(path.open("xb", buffering=_SPOOL_BUFFER)))
            self._ends[name] = [0] * len(self.portfolios)
        for name, (_, target) in self._files.items():
            ends = self._ends[name]
            data = rendered.sections.get(name, b"")
            target.write(data)
            ends.append((ends[-1] if ends else 0) + len(data))
        self.totals.append(rendered.totals)
        self.portfolios.append(
            Portfolio(
                number=going.number,
                change=going.change,
                extract=going.extract,
                digest=digest,
                bytes=rendered.size,
                consent_ids=going.consent_ids,
                page="",
            )
        )

    def sections(self, portfolios: range) -> dict[str, Iterable[bytes]]:
        """The records of some consecutive portfolios, by section, read from disk in blocks."""
        return {name: self._blocks(name, portfolios) for name in self._files}

    def _blocks(self, name: str, portfolios: range) -> Iterator[bytes]:
        ends = self._ends[name]
        start = ends[portfolios.start - 1] if portfolios.start else 0
        left = (ends[portfolios.stop - 1] if portfolios.stop else 0) - start
        with self._files[name][0].open("rb") as source:
            source.seek(start)
            while block := source.read(min(_READ, left)):
                left -= len(block)
                yield block


def _stage(store: ObjectStore, build: Build, files: list[Path], correlation_id: str) -> Build:
    # The id leaves out how the files are compressed: another processor may compress the same document otherwise.
    left_out: dict[str, Any] = {"build_id": True, "pages": {"__all__": {"key", "bytes", "sha256"}}}
    determining = build.model_dump(mode="json", exclude=left_out)
    build_id = sha256(canonical(determining))[:32]
    prefix = staged_prefix(build.feed, build.business_date, build_id)
    pages = []
    for page, path in zip(build.pages, files, strict=True):
        key = prefix + path.name
        metadata = {"correlation-id": correlation_id, "sha256": page.sha256}
        if store.create(key, path, metadata):
            pages.append(page.model_copy(update={"key": key}))
        else:
            pages.append(_staged_before(store, page, key))
    build = build.model_copy(update={"build_id": build_id, "pages": tuple(pages)})
    store.create(build_key(build.feed, build.business_date, build_id), to_json(build))
    return read_build(store, build.feed, build.business_date, build_id)


def _staged_before(store: ObjectStore, page: Page, key: str) -> Page:
    # An earlier attempt staged the same document: take its file, so that all attempts deliver the same bytes.
    with store.local_file(key) as path:
        try:
            facts = written(path)
        except UNREADABLE:
            raise DamagedRecordError(store.location(key), "the staged page can't be read") from None
    if facts.document_sha256 != page.document_sha256:
        raise DamagedRecordError(store.location(key), "the staged page isn't the document of its build")
    return page.model_copy(update={"key": key, "bytes": facts.bytes, "sha256": facts.sha256})
