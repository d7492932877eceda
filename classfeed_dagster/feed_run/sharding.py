"""Fan-out of a feed's document on a large date: planned once, rendered by shard, written by batches of pages.

The document's last step merges these results. If a result is missing or has another input digest, that step builds
the document itself.
"""

from __future__ import annotations

import contextlib

from classfeed_dagster.delivery import shards
from classfeed_dagster.delivery.build import Build, DeliveryContext
from classfeed_dagster.delivery.shards import FanOutPlan
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectNotFoundError


def fan_out(work: FeedRun) -> int:
    """Plan the date and fan the plan out for rendering; return the number of shards, 0 on ordinary dates."""
    if not work.shards:
        return 0
    plan = work.plan(work.consent()[1], max_held_back_share=work.runtime.settings.max_held_back_share)
    snapshot = work.snapshot()
    last_of_shards = [snapshot.slices[shard.stop - 1].last for shard in snapshot.shards]
    fan_out_plan = shards.fan_out(work.store, work.context(), plan, last_of_shards, work.inputs())
    work.runtime.save_reference(_reference(work), work.day, fan_out_plan)
    return len(fan_out_plan.shards)


def render_shard(work: FeedRun, shard: int) -> None:
    """Render the included portfolios of one shard (from 0)."""
    context = work.context()
    fan_out_plan = _current_plan(work, context)
    if fan_out_plan is not None:
        shards.render_shard(work.store, context, fan_out_plan, shard, work.frames(work.snapshot().shards[shard]))


def fan_out_pages(work: FeedRun) -> int:
    """Divide the rendered portfolios into pages; return the number of batches, 0 without a current fan-out."""
    context = work.context()
    fan_out_plan = _current_plan(work, context)
    try:
        return 0 if fan_out_plan is None else shards.fan_out_pages(work.store, context, fan_out_plan)
    except ObjectNotFoundError:  # another attempt has fanned out again and not rendered all shards yet
        return 0


def write_pages(work: FeedRun, batch: int) -> None:
    """Write, prevalidate and stage one batch (from 0) of pages."""
    context = work.context()
    fan_out_plan = _current_plan(work, context)
    if fan_out_plan is not None:
        with contextlib.suppress(ObjectNotFoundError):  # as above
            shards.write_pages(work.store, context, fan_out_plan, batch)


def merge(work: FeedRun) -> Build | None:
    """Merge and return the staged document; None if no complete fan-out of the current inputs exists."""
    if not work.shards:
        return None
    context = work.context()
    fan_out_plan = _current_plan(work, context)
    if fan_out_plan is not None:
        with contextlib.suppress(ObjectNotFoundError):  # a part of it is missing
            return work.staged(shards.merge(work.store, context, fan_out_plan))
    get_logger().info("not fanned out", why="parts are missing or have another input digest")
    return None


def _current_plan(work: FeedRun, context: DeliveryContext) -> FanOutPlan | None:
    # The latest plan of any attempt: concurrent attempts work on one document, or the later plan counts.
    latest = work.runtime.find_reference(_reference(work), work.day, FanOutPlan) if work.shards else None
    if latest is None or latest.context_digest != shards.context_digest(context, work.inputs()):
        return None
    return latest


def _reference(work: FeedRun) -> str:
    return f"{work.feed.name}/document-shared"
