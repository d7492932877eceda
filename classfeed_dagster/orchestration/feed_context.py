"""Shared context for a feed's Dagster definitions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.domains.build import CONSENTED
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import FeedAsset, domain_key, feed_group, runbook_value
from classfeed_dagster.orchestration.column_metadata import (
    AssetColumn,
    document_columns,
    lineage_table,
    record_columns,
    same_columns,
    table_metadata,
)
from classfeed_dagster.orchestration.fan_out import Stage, fanned_out_asset
from classfeed_dagster.orchestration.step_context import (
    StepContext,
    business_date,
    correlation_id,
    idle_observation,
    step,
    timed,
)
from classfeed_dagster.parity.comparison import ParityDifference
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule

_Results = Iterator[dg.MaterializeResult[None]]
_Decorator = Callable[[Callable[..., _Results]], dg.AssetsDefinition]


@dataclass(frozen=True, slots=True)
class FeedContext:
    """A feed with its audience, the audience's name, the partitions, and all feeds."""

    feed: Feed
    audience: RecipientSchedule
    audience_name: str
    partitions: dg.PartitionsDefinition[str]
    feeds: tuple[Feed, ...]
    fan_out: bool = False  # fan out large dates to several steps within a run

    def key(self, name: FeedAsset) -> dg.AssetKey:
        """Return the key of the feed's asset ``name``."""
        return dg.AssetKey([self.feed.name, name])

    @property
    def domain_keys(self) -> list[dg.AssetKey]:
        """Return the keys of the format's domains, the consented portfolios first."""
        return [domain_key(self.audience_name, domain) for domain in (CONSENTED, *self.feed.domains)]

    def work(self, context: StepContext, runtime: Runtime) -> FeedRun:
        """Return the feed's run for the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return FeedRun(runtime, self.feed, self.audience, day, correlation_id(context), now, self.feeds)

    def post_delivery(self, context: StepContext, runtime: Runtime) -> PostDelivery:
        """Return the work that follows the delivery of the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return PostDelivery(runtime, self.feed, self.audience, day, correlation_id(context), now)

    def shown(self, name: str) -> list[AssetColumn]:
        """Return the columns of the feed's asset ``name`` with their sources."""
        document = document_columns(self.feed.format, self.audience_name)
        columns = {
            "quarantine": self._held_back(),
            "document": document,
            "delivery": same_columns(document, self.key("document")),
            "transmission": same_columns(document, self.key("delivery")),
            "parity": record_columns(ParityDifference),
            "legacy": [replace(column, sources=(), origin=()) for column in document],  # the old app's equal layout
        }
        return columns.get(name, [])

    def _held_back(self) -> list[AssetColumn]:
        number = ((domain_key(self.audience_name, CONSENTED), "portfolio_number"),)
        return [
            replace(column, sources=number) if column.name == "number" else column
            for column in record_columns(HeldBack)
        ]

    def asset(
        self,
        name: FeedAsset,
        deps: list[dg.AssetKey],
        description: str,
        section: str = "",
        columns: Sequence[AssetColumn] = (),
        *,
        stages: Sequence[Stage] = (),
    ) -> _Decorator:
        """Return the decorator of the feed's assets, which adds columns, lineage, links and each step's duration.

        ``section``: the runbook's section (default: the asset's name). ``columns``: those of an asset that is not a
        document. ``stages``: the work to fan out on large dates, if the feed fans out.
        """
        shown = [*columns] or self.shown(name)
        column_metadata = table_metadata(shown) if shown else {}
        lineage = {"column_sources": lineage_table(shown)} if any(column.sources for column in shown) else {}
        attributes: dict[str, Any] = {
            "partitions_def": self.partitions,
            "group_name": feed_group(self.feed.name),
            "description": description,
            "metadata": {**column_metadata, **lineage, "runbook": runbook_value(section or name)},
        }
        if self.fan_out and stages:
            key = self.key(name)
            return lambda compute: fanned_out_asset(key, deps, stages, timed(compute), **attributes)
        # On a date without work nothing is materialized, and the downstream assets are skipped.
        asset = dg.asset(key=self.key(name), deps=deps, output_required=False, **attributes)
        return lambda compute: asset(timed(compute))

    def stage(
        self, name: str, shares: Callable[[FeedRun], int], work: Callable[[FeedRun, int], None], asset: str
    ) -> Stage:
        """Return fan-out work of the feed's asset ``asset``; ``name``: of one part."""

        def count(context: StepContext, runtime: Runtime) -> int:
            with step(context, f"{self.feed.name}/{asset}"):
                feed_run = self.work(context, runtime)
                return 0 if feed_run.idle is not None else shares(feed_run)

        def do(context: StepContext, runtime: Runtime, share: int) -> None:
            with step(context, f"{self.feed.name}/{asset}"):
                work(self.work(context, runtime), share)

        return Stage(name, count, do)

    def is_idle(self, context: dg.AssetExecutionContext, work: FeedRun, asset: FeedAsset) -> bool:
        """Return True if the feed has no work on this date; then report it on the asset ``asset`` and in the log."""
        if work.idle is None:
            return False
        get_logger().info("nothing to do", why=work.idle)
        idle_observation(context, self.key(asset), work.idle)
        return True
