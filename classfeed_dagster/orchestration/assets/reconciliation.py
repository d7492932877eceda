"""Reconciliations of a delivered date: with bigsite, and with the data team's table."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM_RECONCILIATION,
    GROUP_WAREHOUSE,
    SOURCE_RECONCILIATION,
    warehouse_key,
)
from classfeed_dagster.orchestration.column_metadata import AssetColumn, table_metadata
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.orchestration.warehouse_columns import (
    THEIRS,
    data_team_breaks,
    source_breaks,
    their_columns,
)
from classfeed_dagster.reconciliation.result import Reconciliation
from classfeed_dagster.runtime import Runtime


def reconciliation_assets(part: FeedContext) -> list[dg.AssetsDefinition]:
    """Return the feed's comparisons with bigsite and with the data team."""
    return [_source(part), _data_team(part)]


def data_team_asset() -> dg.AssetSpec:
    """Return the data team's table, an external asset."""
    return dg.AssetSpec(
        THEIRS,
        description="The data team's metrics of what should be delivered, worked out by their own code from their own "
        "replica of bigsite. Theirs: compared with, never written.",
        group_name=GROUP_WAREHOUSE,
        metadata=table_metadata(their_columns()),
    )


def _source(part: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        part,
        SOURCE_RECONCILIATION,
        [part.key("delivery")],
        "The delivered files against the landed snapshot and against bigsite, asked again by SQL that shares no code "
        "with the export: row by row, field by field. Its breaks are kept in the warehouse until they are gone.",
        source_breaks(part.feed.format, part.key("delivery")),
        PostDelivery.source,
    )


def _data_team(part: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        part,
        DATA_TEAM_RECONCILIATION,
        [part.key("delivery"), warehouse_key(part.feed.name, "FACT_DELIVERY"), THEIRS],
        "Our metrics, worked out from the delivered files, against the data team's, worked out by their own code from "
        "their own replica: a date that is missing, late or computed again, portfolios on one side only, values off.",
        data_team_breaks(part.feed.format, part.key("delivery")),
        PostDelivery.data_team,
    )


def _compared(
    part: FeedContext,
    name: str,
    deps: list[dg.AssetKey],
    description: str,
    columns: Sequence[AssetColumn],
    compare: Callable[[PostDelivery], Reconciliation],
) -> dg.AssetsDefinition:
    # The breaks of one comparison; the runbook's section is that of its check.
    @part.asset(
        name,
        deps,
        description,
        f"{name.removesuffix('_reconciliation')}-agrees".replace("_", "-"),
        columns,
    )
    def breaks(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with step(context, f"{part.feed.name}/{name}"):
            work = part.post_delivery(context, runtime)
            yield _result(runtime, work, compare(work))

    return breaks


def _result(runtime: Runtime, work: PostDelivery, found: Reconciliation) -> dg.MaterializeResult[None]:
    assured, saved = work.keep(found)
    return dg.MaterializeResult(
        metadata={
            **found.metrics(),
            "new_breaks": saved.new,
            "resolved_breaks": saved.resolved,
            "worst": dg.MetadataValue.md(found.markdown()),
            "report": runtime.store.location(assured.report),
        }
    )
