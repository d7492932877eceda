"""A feed's document on a great date, shared out: planned once, rendered by shard, written by lots of pages.

What is made here ahead, the document's last step puts together; if anything of it is missing or was made from something
else, that step makes the document itself.
"""

from __future__ import annotations

import contextlib

from classfeed_dagster.delivery import shards
from classfeed_dagster.delivery.build import Build, DeliveryContext
from classfeed_dagster.delivery.shards import SharedOut
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectNotFoundError


def share_out(work: FeedRun) -> int:
    """Plan the date, and share the plan out for rendering; the number of shards, 0 on ordinary dates."""
    if not work.shards:
        return 0
    plan = work.plan(work.consent()[1], max_held_back_share=work.runtime.settings.max_held_back_share)
    snapshot = work.snapshot()
    last_of_shards = [snapshot.slices[shard.stop - 1].last for shard in snapshot.shards]
    shared = shards.share_out(work.store, work.terms(), plan, last_of_shards, work.made_of())
    work.runtime.save_reference(_reference(work), work.day, shared)
    return len(shared.shards)


def render_shard(work: FeedRun, shard: int) -> None:
    """Render those of one shard (from 0) who go."""
    terms = work.terms()
    shared = _shared(work, terms)
    if shared is not None:
        shards.render_shard(work.store, terms, shared, shard, work.frames(work.snapshot().shards[shard]))


def share_out_pages(work: FeedRun) -> int:
    """Divide what was rendered into pages; the number of lots to write them in, 0 if there is nothing to share out."""
    terms = work.terms()
    shared = _shared(work, terms)
    try:
        return 0 if shared is None else shards.share_out_pages(work.store, terms, shared)
    except ObjectNotFoundError:  # another attempt has shared out anew, and not rendered all of it yet
        return 0


def write_pages(work: FeedRun, lot: int) -> None:
    """Write, examine and stage one lot (from 0) of pages."""
    terms = work.terms()
    shared = _shared(work, terms)
    if shared is not None:
        with contextlib.suppress(ObjectNotFoundError):  # as above
            shards.write_pages(work.store, terms, shared, lot)


def put_together(work: FeedRun) -> Build | None:
    """The staged document, if it was shared out, is whole, and still is what would be shared out now."""
    if not work.shards:
        return None
    terms = work.terms()
    shared = _shared(work, terms)
    if shared is not None:
        with contextlib.suppress(ObjectNotFoundError):  # a part of it is missing
            return work.staged(shards.put_together(work.store, terms, shared))
    get_logger().info("not shared out", why="parts are missing, or were made from something else")
    return None


def _shared(work: FeedRun, terms: DeliveryContext) -> SharedOut | None:
    # The latest, of whichever attempt: two at once may work on one document, or the later one's plan counts.
    shared = work.runtime.find_reference(_reference(work), work.day, SharedOut) if work.shards else None
    return shared if shared is not None and shared.made_under == shards.made_under(terms, work.made_of()) else None


def _reference(work: FeedRun) -> str:
    return f"{work.feed.name}/document-shared"
