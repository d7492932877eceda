"""Reconciliations of a delivered date: with bigsite, and with the data team's table."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM_RECONCILIATION,
    GROUP_WAREHOUSE,
    SOURCE_RECONCILIATION,
    FeedAsset,
    warehouse_key,
)
from classfeed_dagster.orchestration.column_metadata import AssetColumn, table_metadata
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import object_link
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.orchestration.warehouse_columns import (
    THEIRS,
    data_team_breaks,
    source_breaks,
    their_columns,
)
from classfeed_dagster.reconciliation.result import Reconciliation
from classfeed_dagster.runtime import Runtime


def reconciliation_assets(feed_context: FeedContext) -> list[dg.AssetsDefinition]:
    """Return the feed's comparisons with bigsite and with the data team."""
    return [_source(feed_context), _data_team(feed_context)]


def data_team_asset() -> dg.AssetSpec:
    """Return the data team's table, an external asset."""
    return dg.AssetSpec(
        THEIRS,
        description="The data team's metrics of the expected deliveries, computed by their own code from their own "
        "replica of bigsite. Owned by the data team: compared with, never written.",
        group_name=GROUP_WAREHOUSE,
        metadata=table_metadata(their_columns()),
    )


def _source(feed_context: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        feed_context,
        SOURCE_RECONCILIATION,
        [feed_context.key("delivery")],
        "The delivered files against the landed snapshot and against bigsite, read again by SQL that shares no code "
        "with the export: row by row, field by field. The warehouse stores its breaks until they are resolved.",
        source_breaks(feed_context.feed.format, feed_context.key("delivery")),
        PostDelivery.source,
    )


def _data_team(feed_context: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        feed_context,
        DATA_TEAM_RECONCILIATION,
        [feed_context.key("delivery"), warehouse_key(feed_context.feed.name, "FACT_DELIVERY"), THEIRS],
        "Comparison of our metrics, computed from the delivered files, with the data team's, computed from their "
        "replica. Breaks are missing, late or recomputed dates, portfolios on one side only, and different values.",
        data_team_breaks(feed_context.feed.format, feed_context.key("delivery")),
        PostDelivery.data_team,
    )


def _compared(
    feed_context: FeedContext,
    name: FeedAsset,
    deps: list[dg.AssetKey],
    description: str,
    columns: Sequence[AssetColumn],
    compare: Callable[[PostDelivery], Reconciliation],
) -> dg.AssetsDefinition:
    # The breaks of one comparison; the runbook's section is that of its check.
    @feed_context.asset(
        name,
        deps,
        description,
        f"{name.removesuffix('_reconciliation')}-agrees".replace("_", "-"),
        columns,
    )
    def breaks(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with step(context, f"{feed_context.feed.name}/{name}"):
            work = feed_context.post_delivery(context, runtime)
            yield _result(runtime, work, compare(work))

    return breaks


def _result(runtime: Runtime, work: PostDelivery, reconciliation: Reconciliation) -> dg.MaterializeResult[None]:
    summary, saved = work.keep(reconciliation)
    return dg.MaterializeResult(
        metadata={
            **{name: count for name, count in reconciliation.metrics().items() if count or name == "breaks"},
            "new_breaks": saved.new,
            "resolved_breaks": saved.resolved,
            "worst": dg.MetadataValue.md(reconciliation.markdown()),
            "report": object_link(runtime.store.location(summary.report)),
        }
    )
