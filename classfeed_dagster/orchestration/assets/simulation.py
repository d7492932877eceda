"""Assets of simulated customers and recipients: their day, the deletion of expired rows, the recipients' answers.

They do not exist where CLASSFEED_ENV is prod, and the simulation itself refuses production. The steps import it: every
process loads the definitions, few simulate.
"""

import datetime as dt
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from classfeed_dagster import charts
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    GROUP_SIMULATION,
    SIMULATED_CUSTOMERS,
    SIMULATED_RECIPIENTS,
    SIMULATION_CLEANING,
)
from classfeed_dagster.orchestration.metadata_values import markdown_table
from classfeed_dagster.orchestration.step_context import current_time, since, step
from classfeed_dagster.runtime import Runtime

if TYPE_CHECKING:
    from classfeed_dagster.simulation.day import DaySummary
    from classfeed_dagster.simulation.environment import Advance

_PLOTTED_DAYS = 20
# Charts, and the counts that each adds up.
_PLOTTED = {
    "trades a day": ("buys", "sells"),
    "cash movements a day": ("deposit", "withdrawal", "income", "settlement"),
    "corrections a day": ("reversed trades", "reversed incomes", "reversed movements", "late rows"),
}


def simulation_assets(partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetsDefinition]:
    """Return the daily asset of simulated customers and the asset that deletes expired rows."""
    return [_customers(partitions), _cleaning()]


def _customers(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=SIMULATED_CUSTOMERS,
        partitions_def=partitions,
        group_name=GROUP_SIMULATION,
        description="Simulated customers' business date in this environment's bigsite: trades, consents, revocations, "
        "dividends, splits, corrections and the end of day. Equal seed and date give equal rows. Writes to bigsite's "
        "tables, which the feeds then read as real ones. Refuses production.",
    )
    def customers(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        from classfeed_dagster.simulation.environment import advance

        started = time.monotonic()
        with step(context, "simulation/customers") as day:
            result = advance(runtime.engine, runtime.settings, day)
            get_logger().info("simulation advanced", rows=sum(sum(written.rows.values()) for written in result.written))
        return dg.MaterializeResult(metadata={**_metadata(result, day), "seconds": since(started)})

    return customers


def _metadata(result: "Advance", day: dt.date) -> dict[str, Any]:
    summary = result.summary
    rows_by_table: dict[str, int] = {}
    for written in result.written:
        for table, rows in written.rows.items():
            rows_by_table[table] = rows_by_table.get(table, 0) + rows
    return {
        "plot": dg.MetadataValue.md(_plot(result.world.recent(day, _PLOTTED_DAYS))),
        "customer_actions": markdown_table(["action", "count"], summary.counts.items()),
        "trades": summary.counts.get("buys", 0) + summary.counts.get("sells", 0),
        "consents_granted": summary.counts.get("consents granted", 0),
        "consents_revoked": summary.counts.get("consents revoked", 0),
        "sharing_with_class": len(result.world.sharing(day)),
        "world": result.world.description,
        "days_written": len(result.written),
        "rows_written": sum(rows_by_table.values()),
        "rows_by_table": markdown_table(["table", "rows added now"], sorted(rows_by_table.items())),
    }


def _plot(days: Sequence["DaySummary"]) -> str:
    # Markdown images with embedded bytes, which the UI shows.
    images = []
    for title, counts in _PLOTTED.items():
        values = [(day.day.isoformat(), sum(day.counts.get(name, 0) for name in counts)) for day in days]
        images.append(f"![{title}]({charts.data_uri(charts.columns(title, values))})")
    return "\n\n".join(images)


def _cleaning() -> dg.AssetsDefinition:
    @dg.asset(
        key=SIMULATION_CLEANING,
        group_name=GROUP_SIMULATION,
        description="Deletes simulated rows after CLASSFEED_SIMULATION_KEEP_DAYS, sooner than real ones: old "
        "end-of-day rows and prices, and whole closed portfolios. Real rows are never changed.",
    )
    def cleaning(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        from classfeed_dagster.simulation.environment import expire

        started = time.monotonic()
        before, deleted = expire(runtime.engine, runtime.settings)
        context.log.info("simulated rows before %s deleted: %d", before, sum(deleted.values()))
        return dg.MaterializeResult(
            metadata={
                "kept_from": before.isoformat(),
                "rows_deleted": sum(deleted.values()),
                "seconds": since(started),
                "rows_by_table": markdown_table(["table", "rows deleted"], deleted.items()),
            }
        )

    return cleaning


def recipients_asset(feeds: Sequence[Feed]) -> dg.AssetsDefinition:
    """Return the asset of the answers of simulated recipients; ``feeds`` are those whose recipient answers."""

    @dg.asset(
        key=SIMULATED_RECIPIENTS,
        deps=[dg.AssetKey(["recipient", feed.name]) for feed in feeds],
        group_name=GROUP_SIMULATION,
        description="Answers about the files that reached each recipient, in its inbox, with the faults of real ones: "
        "late, duplicate, contradictory, about another file, unreadable. Equal seed and file give equal answers. "
        "Refuses production, and a bigsite without simulated customers.",
    )
    def recipients(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        from classfeed_dagster.simulation.recipient_answers import SimulatedRecipient

        at = runtime.clock(context.run.tags) or current_time(runtime)
        new = {
            feed.name: len(SimulatedRecipient(runtime.engine, runtime.settings, runtime.store, feed).answer(at))
            for feed in feeds
        }
        return dg.MaterializeResult(metadata={"messages": sum(new.values()), "by_feed": new})

    return recipients
