"""What everything that Dagster sees of a feed must know: the feed, its audience, its partitions."""

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
from classfeed_dagster.orchestration.asset_keys import RUNBOOK, domain_key, feed_group
from classfeed_dagster.orchestration.column_metadata import (
    AssetColumn,
    document_columns,
    lineage_table,
    record_columns,
    same_columns,
    table_metadata,
)
from classfeed_dagster.orchestration.fan_out import Stage, asset_made_together
from classfeed_dagster.orchestration.step_context import (
    StepContext,
    business_date,
    correlation_id,
    idle_observation,
    step,
    timed,
)
from classfeed_dagster.parity.report import ParityDifference
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule

_Results = Iterator[dg.MaterializeResult[None]]
_Decorator = Callable[[Callable[..., _Results]], dg.AssetsDefinition]


@dataclass(frozen=True, slots=True)
class FeedContext:
    """A feed with what its assets need to know: its audience, the audience's name, the partitions, all feeds."""

    feed: Feed
    audience: RecipientSchedule
    audience_name: str
    partitions: dg.PartitionsDefinition[str]
    feeds: tuple[Feed, ...]
    fan_out: bool = False  # great dates are shared out to several steps within a run

    def key(self, name: str) -> dg.AssetKey:
        """The asset ``name`` of the feed."""
        return dg.AssetKey([self.feed.name, name])

    @property
    def domain_keys(self) -> list[dg.AssetKey]:
        """The domains that the feed's format carries; the consented portfolios come first."""
        return [domain_key(self.audience_name, domain) for domain in (CONSENTED, *self.feed.domains)]

    def work(self, context: StepContext, runtime: Runtime) -> FeedRun:
        """This feed on the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return FeedRun(runtime, self.feed, self.audience, day, correlation_id(context), now, self.feeds)

    def post_delivery(self, context: StepContext, runtime: Runtime) -> PostDelivery:
        """Return the work that follows the delivery of the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return PostDelivery(runtime, self.feed, self.audience, day, correlation_id(context), now)

    def shown(self, name: str) -> list[AssetColumn]:
        """The columns of the feed's asset ``name``, and where each comes from."""
        document = document_columns(self.feed.format, self.audience_name)
        of = {
            "quarantine": self._held_back(),
            "document": document,
            "delivery": same_columns(document, self.key("document")),
            "transmission": same_columns(document, self.key("delivery")),
            "parity": record_columns(ParityDifference),
            "legacy": [replace(column, made_of=(), origin=()) for column in document],  # the same layout, by another
        }
        return of.get(name, [])

    def _held_back(self) -> list[AssetColumn]:
        number = ((domain_key(self.audience_name, CONSENTED), "portfolio_number"),)
        return [
            replace(column, made_of=number) if column.name == "number" else column
            for column in record_columns(HeldBack)
        ]

    def columns(self, name: str) -> dict[str, Any]:
        """The same as metadata, of the asset's definition and of its materializations."""
        shown = self.shown(name)
        return table_metadata(shown) if shown else {}

    def asset(
        self,
        name: str,
        deps: list[dg.AssetKey],
        description: str,
        section: str = "",
        columns: Sequence[AssetColumn] = (),
        *,
        stages: Sequence[Stage] = (),
    ) -> _Decorator:
        """The decorator that all of the feed's assets share: columns, lineage, links, and how long a step took.

        ``section`` of the runbook says what to do; ``columns`` are those of an asset that isn't a document. ``stages``
        are what can be shared out on great dates, if the feed's work is.
        """
        shown = [*columns] or self.shown(name)
        about = table_metadata(shown) if shown else {}
        lineage = {"where_columns_come_from": lineage_table(shown)} if any(one.made_of for one in shown) else {}
        described: dict[str, Any] = {
            "partitions_def": self.partitions,
            "group_name": feed_group(self.feed.name),
            "description": f"{description} Runbook: {RUNBOOK}.",
            "metadata": {**about, **lineage, "runbook": f"{RUNBOOK}#{section or name}"},
        }
        if self.fan_out and stages:
            return lambda made: asset_made_together(self.key(name), deps, stages, timed(made, about), **described)
        # On a date on which the feed has nothing to do there is nothing to materialize; what follows is skipped.
        asset = dg.asset(key=self.key(name), deps=deps, output_required=False, **described)
        return lambda made: asset(timed(made, about))

    def stage(
        self, name: str, shares: Callable[[FeedRun], int], work: Callable[[FeedRun, int], None], asset: str
    ) -> Stage:
        """Work of the feed's asset ``asset`` that can be shared out; ``name`` is that of one share."""

        def count(context: StepContext, runtime: Runtime) -> int:
            with step(context, f"{self.feed.name}/{asset}"):
                day = self.work(context, runtime)
                return 0 if day.idle is not None else shares(day)

        def do(context: StepContext, runtime: Runtime, share: int) -> None:
            with step(context, f"{self.feed.name}/{asset}"):
                work(self.work(context, runtime), share)

        return Stage(name, count, do)

    def is_idle(self, context: dg.AssetExecutionContext, work: FeedRun, asset: str) -> bool:
        """True if the feed has nothing to do; says so on its asset ``asset`` and in the log."""
        if work.idle is None:
            return False
        get_logger().info("nothing to do", why=work.idle)
        idle_observation(context, self.key(asset), work.idle)
        return True
