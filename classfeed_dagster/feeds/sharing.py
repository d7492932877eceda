"""A feed's document on a great date, shared out: planned once, rendered by shard, written by lots of pages.

What is made here ahead, the document's last step puts together; if anything of it is missing or was made from something
else, that step makes the document itself.
"""

from __future__ import annotations

from classfeed_dagster.delivery import shards
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.shards import SharedOut
from classfeed_dagster.feeds.steps import FeedDay
from classfeed_dagster.store import ObjectNotFoundError


def share_out(work: FeedDay) -> int:
    """Plan the date, and share the plan out for rendering; the number of shards, 0 on ordinary dates."""
    if not work.shards:
        return 0
    plan = work.plan(work.consent()[1], max_held_back_share=work.runtime.settings.max_held_back_share)
    snapshot = work.snapshot()
    last_of_shards = [snapshot.slices[shard.stop - 1].last for shard in snapshot.shards]
    shared = shards.share_out(work.store, work.terms(), plan, last_of_shards, work.made_of())
    work.runtime.save_reference(_reference(work), work.day, shared)
    return len(shared.shards)


def render_shard(work: FeedDay, shard: int) -> None:
    """Render those of one shard (from 0) who go."""
    frames = work.frames(work.snapshot().shards[shard])
    shards.render_shard(work.store, work.terms(), _shared(work), shard, frames)


def share_out_pages(work: FeedDay) -> int:
    """Divide what was rendered into pages; the number of lots to write them in, 0 on ordinary dates."""
    return shards.share_out_pages(work.store, work.terms(), _shared(work)) if work.shards else 0


def write_pages(work: FeedDay, lot: int) -> None:
    """Write, examine and stage one lot (from 0) of pages."""
    shards.write_pages(work.store, work.terms(), _shared(work), lot)


def put_together(work: FeedDay) -> Build | None:
    """The staged document, if it was shared out and still is what would be shared out now."""
    shared = work.runtime.find_reference(_reference(work), work.day, SharedOut) if work.shards else None
    terms = work.terms()
    if shared is None or shared.made_under != shards.made_under(terms, work.made_of()):
        return None
    try:
        return work.staged(shards.put_together(work.store, terms, shared))
    except ObjectNotFoundError:  # a part of it is missing
        return None


def _reference(work: FeedDay) -> str:
    return f"{work.feed.name}/document-shared"


def _shared(work: FeedDay) -> SharedOut:
    return work.runtime.load_reference(_reference(work), work.day, SharedOut)
