"""A great date's document, made by several workers: each renders a shard, each writes some pages, one puts it together.

What a worker makes lies below one prefix of the store whose name says what all of it is made from, so that making it
again makes nothing new and nobody takes what belongs to something else. The pages, the build and its id are those that
one worker alone would make, whatever the number of shards or workers.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import polars as pl
from pydantic import BaseModel, Field, NonNegativeInt

from classfeed_dagster.bigsite.landing import StoredFile
from classfeed_dagster.delivery.build import (
    Build,
    DeliveryContext,
    LedgerParts,
    keep_build,
    page_record,
    rendered_portfolios,
    stage_page,
)
from classfeed_dagster.delivery.manifest import Change, Extract, HeldBack, Page, Portfolio, Sha256
from classfeed_dagster.delivery.pages import write_page
from classfeed_dagster.delivery.plan import DeliveryPlan, PlannedPortfolio
from classfeed_dagster.delivery.prevalidation import examine_ahead
from classfeed_dagster.delivery.rendered_portfolios import OF_A_PORTFOLIO, RenderedReader, RenderedWriter
from classfeed_dagster.ledger.files import LedgerFile, StagedLedger
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import Record, canonical, create_record, from_json, sha256, to_json

_PER_SHARD = 2  # lots of pages for each shard, so that workers end at about the same time
_T = TypeVar("_T", bound=BaseModel)


class StoredPlan(Record):
    """Where the plan of one shard is."""

    key: str
    portfolios: NonNegativeInt


class SharedOut(Record):
    """A date's document, shared out: who goes, by shard; who doesn't."""

    schema_version: int = 1
    feed: str
    business_date: dt.date
    made_from: Sha256 = Field(description="hash of everything that determines the document")
    made_under: Sha256 = Field(description="hash of all of that but who goes")
    shards: tuple[StoredPlan, ...]
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Below it lies whatever the workers make."""
        return f"staged/{self.feed}/{self.business_date.isoformat()}/shared-{self.made_from[:32]}/"


class ShardPlan(Record):
    """Who goes, of one shard."""

    going: tuple[PlannedPortfolio, ...]


class RenderedShard(Record):
    """One shard's records, rendered: a Parquet file, a row a portfolio whose content was not delivered before."""

    file: StoredFile
    unchanged: NonNegativeInt
    ledger: tuple[LedgerFile, ...] = ()


class PageLots(Record):
    """Which portfolios are on which page, as ranges over all rendered ones; so many pages are one worker's lot."""

    pages: tuple[tuple[NonNegativeInt, NonNegativeInt], ...]
    lot: int

    @property
    def lots(self) -> list[range]:
        """The pages of each lot, from 0."""
        return [range(at, min(at + self.lot, len(self.pages))) for at in range(0, len(self.pages), self.lot)]


def share_out(
    store: ObjectStore,
    terms: DeliveryContext,
    plan: DeliveryPlan,
    last_of_shards: Sequence[str],
    made_of: Iterable[str],
) -> SharedOut:
    """Put on record who goes, shard by shard. ``last_of_shards`` are the shards' last portfolio numbers, in order.

    ``made_of`` are the hashes of the frames that will be rendered.
    """
    under = made_under(terms, made_of)
    made_from = hashlib.sha256(under.encode())
    for going in plan.going:
        made_from.update(canonical([going.number, going.change, going.extract, going.consent_ids]))
    for held in plan.held_back:
        made_from.update(to_json(held))
    shared = SharedOut(
        feed=terms.feed,
        business_date=terms.day,
        made_from=made_from.hexdigest(),
        made_under=under,
        shards=(),
        held_back=plan.held_back,
        unannounced=plan.unannounced,
    )
    shards: list[StoredPlan] = []
    waiting = list(reversed(plan.going))
    for at, last in enumerate(last_of_shards):
        of_shard: list[PlannedPortfolio] = []
        while waiting and (waiting[-1].number <= last or at == len(last_of_shards) - 1):
            of_shard.append(waiting.pop())
        key = f"{shared.prefix}plan-{at:04d}.json"
        create_record(store, key, ShardPlan(going=tuple(of_shard)))
        shards.append(StoredPlan(key=key, portfolios=len(of_shard)))
    return shared.model_copy(update={"shards": tuple(shards)})


def made_under(terms: DeliveryContext, made_of: Iterable[str]) -> str:
    """The hash of what a document is made under and of; who goes is not in it."""
    delivered = terms.delivered
    determining = [
        *(terms.feed, terms.day.isoformat(), terms.document_format.name, terms.code_version),
        *(terms.snapshot.id, str(delivered.next_revision), delivered.fingerprint),
        *(str(terms.max_page_bytes), str(terms.compress), str(sorted(terms.flags.items()))),
        terms.ledger_view,
    ]
    return sha256(canonical([*determining, *made_of]))


def render_shard(
    store: ObjectStore,
    terms: DeliveryContext,
    shared: SharedOut,
    number: int,
    slices: Iterable[Mapping[str, pl.DataFrame]],
) -> None:
    """Render shard ``number`` (from 0); ``slices`` are the frames of its portfolios. BuildError if they aren't."""
    key = _shard_name(shared, number)
    if store.exists(f"{key}.json"):
        return
    plan = _read(store, ShardPlan, shared.shards[number].key)
    unchanged = 0
    with tempfile.TemporaryDirectory(prefix="classfeed-shard-") as folder:
        parts = LedgerParts(Path(folder), terms.document_format.ledgers, terms.last_of_shards)
        with parts, RenderedWriter(Path(folder) / "rendered.parquet", terms.document_format.sections) as writer:
            for going, rendered, digest in rendered_portfolios(terms, plan.going, slices, parts.add):
                if digest is None:
                    unchanged += 1
                else:
                    writer.add(going, digest, rendered)
        file = writer.target.store(store, lambda at, digest: f"{key}-{digest[:32]}.parquet").files[0]
        ledger = parts.stage(store, shared.prefix)
    create_record(store, f"{key}.json", RenderedShard(file=file, unchanged=unchanged, ledger=ledger))


def share_out_pages(store: ObjectStore, terms: DeliveryContext, shared: SharedOut) -> int:
    """Divide what was rendered into pages; the number of lots in which they are to be written."""
    paging = terms.paging()
    for shard in _rendered(store, shared):
        with RenderedReader(store, [shard.file]) as rendered:
            for size in rendered.column("bytes", range(shard.file.rows)):
                paging.add(size)
    pages = [(page.start, page.stop) for page in terms.pages(paging.pages)]
    lot = max(1, -(-len(pages) // (_PER_SHARD * len(shared.shards))))
    made = PageLots(pages=tuple(pages), lot=lot)
    create_record(store, _lots_key(shared), made)
    return len(made.lots)


def write_pages(store: ObjectStore, terms: DeliveryContext, shared: SharedOut, lot: int) -> None:
    """Write, examine and stage the pages of a lot (from 0)."""
    pages = _read(store, PageLots, _lots_key(shared))
    # Another attempt may have shared out anew meanwhile, into fewer lots.
    numbers = pages.lots[lot] if lot < len(pages.lots) else range(0)
    missing = [at for at in numbers if not store.exists(_page_key(shared, at))]
    if not missing:
        return
    document_format = terms.document_format
    shards = _rendered(store, shared)
    with (
        tempfile.TemporaryDirectory(prefix="classfeed-pages-") as folder,
        RenderedReader(
            store, [shard.file for shard in shards], range(pages.pages[missing[0]][0], pages.pages[missing[-1]][1])
        ) as rendered,
    ):
        for at in missing:
            portfolios = range(*pages.pages[at])
            header = terms.header(at + 1, len(pages.pages))
            path = Path(folder) / terms.file_name(header)
            totals = rendered.totals(portfolios)
            sections = rendered.sections(document_format.sections, portfolios)
            result = write_page(document_format.page(header, totals, sections), path, compress=terms.compress)
            ahead = None
            if portfolios:
                ahead = examine_ahead(document_format, rendered.sections(document_format.sections, portfolios))
            page = stage_page(store, shared.prefix, page_record(header, totals, result), path, ahead, terms)
            path.unlink()
            store.create(_page_key(shared, at), to_json(page))


def put_together(store: ObjectStore, terms: DeliveryContext, shared: SharedOut) -> Build:
    """The build of a shared out document, once all its pages are written: the one that one worker would have made.

    ObjectNotFoundError if a part of it is missing.
    """
    lots = _read(store, PageLots, _lots_key(shared))
    pages = [_read(store, Page, _page_key(shared, at)) for at in range(len(lots.pages))]
    shards = _rendered(store, shared)
    staged = tuple(file for shard in shards for file in shard.ledger)
    return keep_build(
        store,
        terms.build(
            pages=pages,
            portfolios=_portfolios(store, shards, lots, [page.message_id for page in pages]),
            held_back=shared.held_back,
            unannounced=shared.unannounced,
            unchanged=sum(shard.unchanged for shard in shards),
        ).model_copy(update={"staged_ledger": StagedLedger(prefix=shared.prefix, files=staged) if staged else None}),
    )


def _portfolios(
    store: ObjectStore, shards: Iterable[RenderedShard], lots: PageLots, page_ids: Sequence[str]
) -> Iterator[Portfolio]:
    ends = [end for _, end in lots.pages]
    page = done = 0
    for shard in shards:
        with RenderedReader(store, [shard.file]) as rendered:
            said = [rendered.column(name, range(shard.file.rows)) for name in OF_A_PORTFOLIO]
            for number, change, extract, consent_ids, digest, size in zip(*said, strict=True):
                while done >= ends[page]:
                    page += 1
                done += 1
                yield Portfolio(
                    number=number,
                    change=cast(Change, sys.intern(change)),
                    extract=cast(Extract, sys.intern(extract)),
                    digest=digest,
                    bytes=size,
                    consent_ids=tuple(consent_ids),
                    page=page_ids[page],
                )


def _rendered(store: ObjectStore, shared: SharedOut) -> list[RenderedShard]:
    return [_read(store, RenderedShard, f"{_shard_name(shared, at)}.json") for at in range(len(shared.shards))]


def _shard_name(shared: SharedOut, number: int) -> str:
    return f"{shared.prefix}rendered-{number:04d}"


def _lots_key(shared: SharedOut) -> str:
    return f"{shared.prefix}pages.json"


def _page_key(shared: SharedOut, at: int) -> str:
    return f"{shared.prefix}page-{at + 1:05d}.json"


def _read(store: ObjectStore, kind: type[_T], key: str) -> _T:
    return from_json(kind, store.read(key), store.location(key))
