"""Checks of a feed's reconciliations."""

import dagster as dg

from classfeed_dagster.feed_run.post_delivery import ReconciliationSummary
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM_RECONCILIATION,
    SOURCE_RECONCILIATION,
    FeedAsset,
    runbook,
)
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import check_result, object_link
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.warehouse.records import Side
from classfeed_dagster.wording import counted


def source_agrees_check(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    """Return the blocking check of the reconciliation with bigsite."""
    return _check(
        feed_context,
        SOURCE_RECONCILIATION,
        Side.SOURCE,
        "source_agrees",
        dg.AssetCheckSeverity.ERROR,
        "Delivered files and bigsite agree row by row, to the cent. If it fails: the warehouse is not loaded. The "
        "report names every row, both values and a likely cause. Unexplained: a fault in the export. Switch the feed "
        "off, call the owners, and name the portfolios to the recipient. Late row, reversal, price revised: the "
        "source changed after delivery; these only warn. File altered: a security incident. After the correction run "
        "`classfeed reconcile --date D`.",
    )


def data_team_agrees_check(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    """Return the check of the reconciliation with the data team, a warning."""
    return _check(
        feed_context,
        DATA_TEAM_RECONCILIATION,
        Side.DATA_TEAM,
        "data_team_agrees",
        dg.AssetCheckSeverity.WARN,
        "The data team's metrics for the date equal those of the delivered files. If it fails: send the report to the "
        "data team. The delivery itself is not in doubt.",
    )


def _check(
    feed_context: FeedContext,
    asset: FeedAsset,
    side: Side,
    name: str,
    severity: dg.AssetCheckSeverity,
    description: str,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=feed_context.key(asset),
        name=name,
        partitions_def=feed_context.partitions,
        blocking=severity is dg.AssetCheckSeverity.ERROR,
        description=f"{description}{runbook(name)}",
    )
    def check(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{feed_context.feed.name}/{name}") as day:
            summary = runtime.load_reference(side.reference(feed_context.feed.name), day, ReconciliationSummary)
        wrong = summary.errors if side is Side.SOURCE else summary.errors + summary.warnings
        found = f"{counted(summary.errors, 'error')}, {counted(summary.warnings, 'warning')}"
        metadata = {
            "errors": summary.errors,
            "warnings": summary.warnings,
            "breaks": summary.breaks,
            "report": object_link(runtime.store.location(summary.report)),
        }
        return check_result((feed_context.key(asset), name), day, not wrong, found, metadata, severity)

    return check
