"""What everything that Dagster sees of a feed must know: the feed, its audience, its partitions."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.run import CONSENTED
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.steps import FeedDay
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.seam import (
    RUNBOOK,
    Shown,
    business_date,
    code_of,
    correlation_id,
    document_columns,
    domain_key,
    idle_observation,
    lineage_table,
    same_columns,
    table_metadata,
)

_Results = Iterator[dg.MaterializeResult[None]]
_Decorator = Callable[[Callable[..., _Results]], dg.AssetsDefinition]


@dataclass(frozen=True, slots=True)
class FeedParts:
    """A feed with what its assets need to know: its audience, the audience's name, the partitions, all feeds."""

    feed: Feed
    audience: Audience
    audience_name: str
    partitions: dg.PartitionsDefinition[str]
    feeds: tuple[Feed, ...]

    def key(self, name: str) -> dg.AssetKey:
        """The asset ``name`` of the feed."""
        return dg.AssetKey([self.feed.name, name])

    @property
    def domain_keys(self) -> list[dg.AssetKey]:
        """The domains that the feed's format carries; the consented portfolios come first."""
        return [domain_key(self.audience_name, domain) for domain in (CONSENTED, *self.feed.domains)]

    def work(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime) -> FeedDay:
        """This feed on the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return FeedDay(runtime, self.feed, self.audience, day, correlation_id(context), now, self.feeds)

    def shown(self, name: str) -> list[Shown]:
        """The columns of the feed's asset ``name``, and where each comes from."""
        document = document_columns(self.feed.format, self.audience_name)
        of = {"document": document, "delivery": same_columns(document, self.key("document"))}
        return of.get(name, [])

    def columns(self, name: str) -> dict[str, Any]:
        """The same as metadata, of the asset's definition and of its materializations."""
        shown = self.shown(name)
        return table_metadata(shown) if shown else {}

    def asset(
        self, name: str, deps: list[dg.AssetKey], kinds: set[str], description: str, section: str = ""
    ) -> _Decorator:
        """The decorator that all of the feed's assets share; ``section`` of the runbook says what to do."""
        shown = self.shown(name)
        lineage = {"where_columns_come_from": lineage_table(shown)} if shown else {}
        return dg.asset(
            key=self.key(name),
            deps=deps,
            partitions_def=self.partitions,
            group_name=f"4_{self.feed.name}",
            kinds=kinds,
            owners=list(self.feed.owners),
            description=f"{description} Runbook: {RUNBOOK}.",
            metadata={**self.columns(name), **lineage, "runbook": f"{RUNBOOK}#{section}", "code": code_of(FeedDay)},
            # On a date on which the feed has nothing to do there is nothing to materialize; what follows is skipped.
            output_required=False,
        )

    def is_idle(self, context: dg.AssetExecutionContext, work: FeedDay) -> bool:
        """True if the feed has nothing to do; says so on the asset and in the log."""
        if work.idle is None:
            return False
        get_logger().info("nothing to do", why=work.idle)
        idle_observation(context, context.asset_key, work.idle)
        return True
