"""Fan-out of a large date's document: workers render shards and write batches of pages, and one merges them.

All results are stored below one prefix whose name is a digest of their inputs. A repetition therefore stores nothing
new, and results of other inputs are never used. Pages, build and build id are the same for any number of shards or
workers, including one.

A shard's rendered portfolios are a Parquet file: a row is a portfolio with its manifest entry, its control totals and
its records, one column per section. Columns are read one row group at a time, so memory does not grow with the shard.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, NonNegativeInt

from classfeed_dagster.bigsite.landing import RowGroups, StoredFile
from classfeed_dagster.delivery.build import (
    Build,
    DeliveryContext,
    LedgerParts,
    keep_build,
    page_record,
    rendered_portfolios,
    stage_page,
)
from classfeed_dagster.delivery.manifest import ControlTotals, HeldBack, Page
from classfeed_dagster.delivery.pages import write_page
from classfeed_dagster.delivery.plan import DeliveryPlan, PlannedPortfolio
from classfeed_dagster.delivery.portfolio_list import FILE_NAME, Change, Extract, PortfolioListWriter, PortfolioRecord
from classfeed_dagster.delivery.prevalidation import prevalidate
from classfeed_dagster.documents.document_format import RenderedPortfolio, Totals
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.ledger.files import LedgerFile, StagedLedger
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import (
    Sha256,
    StoredRecord,
    canonical,
    create_record,
    read_record,
    sha256,
    sha256_of,
    to_json,
)

_ROW_GROUP_SIZE = 200  # portfolios in a row group of a rendered shard
_SECTION = "section:"
MANIFEST_COLUMNS = ("number", "change", "extract", "consent_ids", "digest", "bytes")
_FIELDS = [
    ("number", pa.string()),
    ("change", pa.string()),
    ("extract", pa.string()),
    ("consent_ids", pa.list_(pa.int64())),
    ("digest", pa.string()),
    ("bytes", pa.int64()),
    ("totals", pa.string()),  # as JSON, exact
]


class _SumsAndCounts(StoredRecord):
    counts: dict[str, NonNegativeInt]
    totals: ControlTotals


class RenderedWriter:
    """Writer of rendered portfolios to Parquet: each one's manifest entry, totals and records."""

    def __init__(self, path: Path, sections: Sequence[str]) -> None:
        fields = [*_FIELDS, *((_SECTION + name, pa.large_binary()) for name in sections)]
        self.target = RowGroups(path, pa.schema(fields))
        self._sections = sections
        self._rows: list[dict[str, object]] = []

    def add(self, planned: PlannedPortfolio, digest: str, rendered: RenderedPortfolio) -> None:
        """Append one portfolio."""
        totals = _SumsAndCounts(counts=dict(rendered.totals.counts), totals=ControlTotals.of(rendered.totals))
        self._rows.append(
            {
                "number": planned.number,
                "change": planned.change,
                "extract": planned.extract,
                "consent_ids": planned.consent_ids,
                "digest": digest,
                "bytes": rendered.size,
                "totals": totals.model_dump_json(),
                **{_SECTION + name: rendered.sections.get(name, b"") for name in self._sections},
            }
        )
        if len(self._rows) == _ROW_GROUP_SIZE:
            self._write()

    def _write(self) -> None:
        self.target.write(pa.Table.from_pylist(self._rows, schema=self.target.schema))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._write()
        self.target.__exit__(kind, error, trace)


class RenderedReader:
    """Reader of rendered shards as one table. Only the shards that overlap ``portfolios`` are fetched."""

    def __init__(self, store: ObjectStore, files: Iterable[StoredFile], portfolios: range | None = None) -> None:
        self._store = store
        self._files = list(files)
        self._portfolios = portfolios
        self._stack = ExitStack()
        self._groups: list[tuple[range, pq.ParquetFile, int]] = []

    def __enter__(self) -> Self:
        first = 0
        with ExitStack() as opened:
            for stored in self._files:
                rows = range(first, first + stored.rows)
                first = rows.stop
                if self._portfolios is not None and not _overlap(rows, self._portfolios):
                    continue
                path = opened.enter_context(self._store.local_file(stored.key))
                if sha256_of(path) != stored.sha256:
                    raise DamagedRecordError(self._store.location(stored.key), "it differs from the rendered file")
                self._open(opened.enter_context(pq.ParquetFile(path)), rows.start)
            self._stack = opened.pop_all()
        return self

    def _open(self, file: pq.ParquetFile, start: int) -> None:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            self._groups.append((range(start, start + count), file, group))
            start += count

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sections(self, names: Iterable[str], portfolios: range) -> Mapping[str, Iterator[bytes]]:
        """Return the records of ``portfolios`` by section."""
        return {name: self.column(_SECTION + name, portfolios) for name in names}

    def totals(self, portfolios: range) -> Totals:
        """Return the control totals of ``portfolios``."""
        return sum(self.totals_of_each(portfolios), Totals())

    def totals_of_each(self, portfolios: range) -> Iterator[Totals]:
        """Yield the control totals of each of ``portfolios``, in order."""
        yield from map(_totals, self.column("totals", portfolios))

    def column(self, name: str, portfolios: range) -> Iterator[Any]:
        """Yield the values of a column for ``portfolios`` in order, with one row group in memory at a time."""
        for rows, file, group in self._groups:
            overlap = _overlap(rows, portfolios)
            if overlap:
                values = file.read_row_group(group, columns=[name]).column(0)
                yield from values.slice(overlap.start - rows.start, len(overlap)).to_pylist()


def _overlap(rows: range, other: range) -> range:
    return range(max(rows.start, other.start), min(rows.stop, other.stop))


def _totals(text: str) -> Totals:
    sums = _SumsAndCounts.model_validate_json(text)
    return sums.totals.with_counts(dict(sums.counts))


_BATCHES_PER_SHARD = 2  # page batches per shard, so that workers end at about the same time
_T = TypeVar("_T", bound=BaseModel)


class StoredPlan(StoredRecord):
    """The location of one shard's plan."""

    key: str
    portfolios: NonNegativeInt


class FanOutPlan(StoredRecord):
    """The fan-out of a date's document: the included portfolios by shard, and those held back."""

    schema_version: int = 1
    feed: str
    business_date: dt.date
    input_digest: Sha256 = Field(alias="made_from", description="hash of everything that determines the document")
    context_digest: Sha256 = Field(alias="made_under", description="the same hash without the portfolios")
    shards: tuple[StoredPlan, ...]
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Return the prefix of all results of the workers."""
        return f"staged/{self.feed}/{self.business_date.isoformat()}/shared-{self.input_digest[:32]}/"


class ShardPlan(StoredRecord):
    """The included portfolios of one shard."""

    included: tuple[PlannedPortfolio, ...] = Field(alias="going")


class RenderedShard(StoredRecord):
    """One shard's rendered records: a Parquet file with a row per portfolio whose content was not delivered before."""

    file: StoredFile
    unchanged: NonNegativeInt
    ledger: tuple[LedgerFile, ...] = ()


class PageBatches(StoredRecord):
    """The division of all rendered portfolios into pages, and of the pages into batches for workers."""

    pages: tuple[tuple[NonNegativeInt, NonNegativeInt], ...]  # ranges of rendered portfolios
    batch_size: int = Field(alias="lot")  # pages per batch

    @property
    def batches(self) -> list[range]:
        """Return the pages of each batch, from 0."""
        count, size = len(self.pages), self.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def fan_out(
    store: ObjectStore,
    context: DeliveryContext,
    plan: DeliveryPlan,
    last_of_shards: Sequence[str],
    inputs: Iterable[str],
) -> FanOutPlan:
    """Store the included portfolios by shard. ``last_of_shards`` are the shards' last portfolio numbers, in order.

    ``inputs`` are the hashes of the frames to render.
    """
    digest_without_plan = context_digest(context, inputs)
    input_digest = hashlib.sha256(digest_without_plan.encode())
    for planned in plan.included:
        input_digest.update(canonical([planned.number, planned.change, planned.extract, planned.consent_ids]))
    for entry in plan.held_back:
        input_digest.update(to_json(entry))
    fan_out_plan = FanOutPlan(
        feed=context.feed,
        business_date=context.day,
        input_digest=input_digest.hexdigest(),
        context_digest=digest_without_plan,
        shards=(),
        held_back=plan.held_back,
        unannounced=plan.unannounced,
    )
    shards: list[StoredPlan] = []
    remaining = list(reversed(plan.included))
    for at, last in enumerate(last_of_shards):
        of_shard: list[PlannedPortfolio] = []
        while remaining and (remaining[-1].number <= last or at == len(last_of_shards) - 1):
            of_shard.append(remaining.pop())
        key = f"{fan_out_plan.prefix}plan-{at:04d}.json"
        create_record(store, key, ShardPlan(included=tuple(of_shard)))
        shards.append(StoredPlan(key=key, portfolios=len(of_shard)))
    return fan_out_plan.model_copy(update={"shards": tuple(shards)})


def context_digest(context: DeliveryContext, inputs: Iterable[str]) -> str:
    """Return the digest of a document's context and inputs, without the included portfolios."""
    delivered = context.delivered
    determining = [
        *(context.feed, context.day.isoformat(), context.document_format.name, context.code_version),
        *(context.snapshot.id, str(delivered.next_revision), delivered.fingerprint),
        *(str(context.max_page_bytes), str(context.compress), str(sorted(context.flags.items()))),
        context.ledger_view,
    ]
    return sha256(canonical([*determining, *inputs]))


def render_shard(
    store: ObjectStore,
    context: DeliveryContext,
    fan_out_plan: FanOutPlan,
    number: int,
    slices: Iterable[Mapping[str, pl.DataFrame]],
) -> None:
    """Render shard ``number`` (from 0). Raise BuildError if ``slices`` are not the frames of its portfolios."""
    key = _shard_name(fan_out_plan, number)
    if store.exists(f"{key}.json"):
        return
    plan = read_record(store, ShardPlan, fan_out_plan.shards[number].key)
    unchanged = 0
    with tempfile.TemporaryDirectory(prefix="classfeed-shard-") as folder:
        parts = LedgerParts(Path(folder), context.document_format.ledgers, context.last_of_shards)
        with parts, RenderedWriter(Path(folder) / "rendered.parquet", context.document_format.sections) as writer:
            for planned, rendered, digest in rendered_portfolios(context, plan.included, slices, parts.add):
                if digest is None:
                    unchanged += 1
                else:
                    writer.add(planned, digest, rendered)
        file = writer.target.store(store, lambda at, digest: f"{key}-{digest[:32]}.parquet").files[0]
        ledger = parts.stage(store, fan_out_plan.prefix)
    create_record(store, f"{key}.json", RenderedShard(file=file, unchanged=unchanged, ledger=ledger))


def fan_out_pages(store: ObjectStore, context: DeliveryContext, fan_out_plan: FanOutPlan) -> int:
    """Divide the rendered portfolios into pages; return the number of batches in which to write them."""
    paging = context.paging()
    for shard in _rendered(store, fan_out_plan):
        with RenderedReader(store, [shard.file]) as rendered:
            rows = range(shard.file.rows)
            for size, totals in zip(rendered.column("bytes", rows), rendered.totals_of_each(rows), strict=True):
                paging.add(size, totals)
    pages = [(page.start, page.stop) for page in context.pages(paging.pages)]
    batch_size = max(1, -(-len(pages) // (_BATCHES_PER_SHARD * len(fan_out_plan.shards))))
    page_batches = PageBatches(pages=tuple(pages), batch_size=batch_size)
    create_record(store, _batches_key(fan_out_plan), page_batches)
    return len(page_batches.batches)


def write_pages(store: ObjectStore, context: DeliveryContext, fan_out_plan: FanOutPlan, batch: int) -> None:
    """Write, prevalidate and stage the pages of a batch (from 0)."""
    pages = read_record(store, PageBatches, _batches_key(fan_out_plan))
    # Another attempt may have divided the pages into fewer batches meanwhile.
    numbers = pages.batches[batch] if batch < len(pages.batches) else range(0)
    missing = [at for at in numbers if not store.exists(_page_key(fan_out_plan, at))]
    if not missing:
        return
    document_format = context.document_format
    shards = _rendered(store, fan_out_plan)
    with (
        tempfile.TemporaryDirectory(prefix="classfeed-pages-") as folder,
        RenderedReader(
            store, [shard.file for shard in shards], range(pages.pages[missing[0]][0], pages.pages[missing[-1]][1])
        ) as rendered,
    ):
        for at in missing:
            portfolios = range(*pages.pages[at])
            header = context.header(at + 1, len(pages.pages))
            path = Path(folder) / context.file_name(header)
            totals = rendered.totals(portfolios)
            sections = rendered.sections(document_format.sections, portfolios)
            result = write_page(document_format.page(header, totals, sections), path, compress=context.compress)
            ahead = None
            if portfolios:
                ahead = prevalidate(document_format, rendered.sections(document_format.sections, portfolios))
            page = stage_page(store, fan_out_plan.prefix, page_record(header, totals, result), path, ahead, context)
            path.unlink()
            store.create(_page_key(fan_out_plan, at), to_json(page))


def merge(store: ObjectStore, context: DeliveryContext, fan_out_plan: FanOutPlan) -> Build:
    """Return the build of a fanned-out document, once all its pages are written. It equals one worker's build.

    Raise ObjectNotFoundError if a part is missing.
    """
    batches = read_record(store, PageBatches, _batches_key(fan_out_plan))
    pages = [read_record(store, Page, _page_key(fan_out_plan, at)) for at in range(len(batches.pages))]
    shards = _rendered(store, fan_out_plan)
    staged = tuple(file for shard in shards for file in shard.ledger)
    with tempfile.TemporaryDirectory(prefix="classfeed-merge-") as folder:
        with PortfolioListWriter(Path(folder) / FILE_NAME) as portfolios:
            for portfolio in _portfolios(store, shards, batches, [page.message_id for page in pages]):
                portfolios.add(portfolio)
        build = context.build(
            pages=pages,
            portfolios=portfolios,
            held_back=fan_out_plan.held_back,
            unannounced=fan_out_plan.unannounced,
            unchanged=sum(shard.unchanged for shard in shards),
        ).model_copy(
            update={"staged_ledger": StagedLedger(prefix=fan_out_plan.prefix, files=staged) if staged else None}
        )
        return keep_build(store, build, portfolios)


def _portfolios(
    store: ObjectStore, shards: Iterable[RenderedShard], batches: PageBatches, page_ids: Sequence[str]
) -> Iterator[PortfolioRecord]:
    ends = [end for _, end in batches.pages]
    page = count = 0
    for shard in shards:
        with RenderedReader(store, [shard.file]) as rendered:
            columns = [rendered.column(name, range(shard.file.rows)) for name in MANIFEST_COLUMNS]
            for number, change, extract, consent_ids, digest, size in zip(*columns, strict=True):
                while count >= ends[page]:
                    page += 1
                count += 1
                yield PortfolioRecord(
                    number=number,
                    change=cast(Change, sys.intern(change)),
                    extract=cast(Extract, sys.intern(extract)),
                    digest=digest,
                    bytes=size,
                    consent_ids=tuple(consent_ids),
                    page=page_ids[page],
                )


def _rendered(store: ObjectStore, fan_out_plan: FanOutPlan) -> list[RenderedShard]:
    names = (_shard_name(fan_out_plan, at) for at in range(len(fan_out_plan.shards)))
    return [read_record(store, RenderedShard, f"{name}.json") for name in names]


def _shard_name(fan_out_plan: FanOutPlan, number: int) -> str:
    return f"{fan_out_plan.prefix}rendered-{number:04d}"


def _batches_key(fan_out_plan: FanOutPlan) -> str:
    return f"{fan_out_plan.prefix}pages.json"


def _page_key(fan_out_plan: FanOutPlan, at: int) -> str:
    return f"{fan_out_plan.prefix}page-{at + 1:05d}.json"
