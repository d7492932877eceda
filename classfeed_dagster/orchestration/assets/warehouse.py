"""The star schema in Snowflake, one asset per table."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.orchestration.asset_keys import (
    GROUP_WAREHOUSE,
    SOURCE_RECONCILIATION,
    runbook_value,
    warehouse_key,
)
from classfeed_dagster.orchestration.column_metadata import AssetColumn, lineage_table, table_metadata
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.step_context import since, step
from classfeed_dagster.orchestration.warehouse_columns import (
    WAREHOUSE_TABLES,
    table_columns,
)
from classfeed_dagster.runtime import Runtime


def warehouse_assets(feed_context: FeedContext) -> dg.AssetsDefinition:
    """Return the step that loads a delivered date, with one asset per table."""
    shown = {
        name: table_columns(name, feed_context.feed.format, feed_context.key("delivery")) for name in WAREHOUSE_TABLES
    }

    @dg.multi_asset(
        name=f"{feed_context.feed.name}_warehouse",
        specs=[
            dg.AssetSpec(
                warehouse_key(feed_context.feed.name, name),
                deps=[feed_context.key("delivery"), feed_context.key(SOURCE_RECONCILIATION)],
                group_name=GROUP_WAREHOUSE,
                description=f"{name} of the star schema, from the deliveries. The date is replaced in one transaction, "
                "so that a re-run or a new revision causes no duplicate and no gap. Dimensions keep history. Add up "
                "facts by FEED: two feeds may deliver the same row.",
                metadata={
                    **table_metadata(shown[name]),
                    **_lineage(shown[name]),
                    "dagster/table_name": name,
                    "runbook": runbook_value("source-agrees"),
                },
            )
            for name in WAREHOUSE_TABLES
        ],
        partitions_def=feed_context.partitions,
    )
    def warehouse(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        with step(context, f"{feed_context.feed.name}/warehouse"):
            loaded = feed_context.post_delivery(context, runtime).load()
        seconds = since(started)
        for name in WAREHOUSE_TABLES:
            rows = {"dagster/row_count": loaded.rows[name]} if name in loaded.rows else {}
            yield dg.MaterializeResult(
                asset_key=warehouse_key(feed_context.feed.name, name),
                metadata={
                    **rows,
                    "revisions": loaded.revisions,
                    "dagster/table_name": name,
                    "seconds": seconds,
                },
            )

    return warehouse


def _lineage(shown: Sequence[AssetColumn]) -> dict[str, Any]:
    return {"column_sources": lineage_table(shown)} if any(column.sources for column in shown) else {}
