"""Jobs, one function each."""

import datetime as dt

import dagster as dg

from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM_RECONCILIATION,
    GROUP_OPERATIONS,
    SCHEMA_ASSET,
    SIMULATED_CUSTOMERS,
    SIMULATION_CLEANING,
    SOURCE_RECONCILIATION,
    warehouse_key,
)
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_retention import purge_runs
from classfeed_dagster.orchestration.warehouse_columns import WAREHOUSE_TABLES
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.tags import (
    CODE_VERSION_TAG,
    FEED_TAG,
    feed_job_name,
    reconciliation_job_name,
)

SCHEMA_JOB = "schema_job"
SIMULATION_JOB, CLEANING_JOB = "simulation_job", "simulation_cleaning_job"


def feed_job(feed: Feed, code_version: str, executor: dg.ExecutorDefinition) -> "dg.UnresolvedAssetJobDefinition":
    """Everything between bigsite and the feed's delivery. Backfill it over a range of dates: each gets its own run."""
    return dg.define_asset_job(
        feed_job_name(feed.name),
        selection=dg.AssetSelection.assets(dg.AssetKey([feed.name, "transmission" if feed.sends_to else "delivery"]))
        .upstream()
        .required_multi_asset_neighbors(),
        description=f"{feed.title}. One business date a run; select a range to backfill, one run a date. Safe at "
        "any time, twice, or at once with another: what was delivered is never delivered again.",
        tags={FEED_TAG: feed.name, CODE_VERSION_TAG: code_version},
        executor_def=executor,
    )


def parity_job(parts: FeedContext) -> "dg.UnresolvedAssetJobDefinition":  # known to type checkers alone
    """The comparison alone, with its check."""
    return dg.define_asset_job(
        f"{parts.feed.name}_parity_job",
        selection=dg.AssetSelection.assets(parts.key("parity")),
        description=f"Compares {parts.feed.name} with the old app's files of a business date. Changes nothing that was "
        "delivered; safe at any time.",
        executor_def=dg.in_process_executor,
    )


def reconciliation_job(part: FeedContext) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that reconciles a delivered date and loads it into the warehouse."""
    warehouse = [warehouse_key(part.feed.name, name) for name in WAREHOUSE_TABLES]
    return dg.define_asset_job(
        reconciliation_job_name(part.feed.name),
        selection=dg.AssetSelection.assets(
            part.key(SOURCE_RECONCILIATION), *warehouse, part.key(DATA_TEAM_RECONCILIATION)
        ),
        description="Prove a delivered date against bigsite, load it into the warehouse, compare with the data team. "
        "Safe at any time and twice.",
        executor_def=dg.in_process_executor,
    )


def report_job() -> "dg.UnresolvedAssetJobDefinition":
    """Both reports."""
    return dg.define_asset_job(
        "operations_report",
        selection=dg.AssetSelection.groups(GROUP_OPERATIONS),
        description="Service levels and toil, from what was delivered and run.",
        executor_def=dg.in_process_executor,
    )


def retention_job() -> dg.JobDefinition:
    """Deletes runs older than the setting says."""

    @dg.op(description="Deletes old finished runs and their event logs.")
    def delete_old_runs(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> None:
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=runtime.settings.keep_runs_days)
        deleted = purge_runs(context.instance, before)
        get_logger().info("old runs deleted", rows=deleted)
        context.log.info(f"{deleted} run(s) from before {before:%Y-%m-%d} deleted")

    @dg.job(
        name="retention",
        description="Deletes old runs from Dagster's storage. What must last is in the object store.",
        executor_def=dg.in_process_executor,
    )
    def retention() -> None:
        delete_old_runs()

    return retention


def schema_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that compares bigsite's schema with its contract."""
    return dg.define_asset_job(
        SCHEMA_JOB,
        selection=dg.AssetSelection.assets(SCHEMA_ASSET),
        description="Compares bigsite's schema with its contract and records it in the schema history.",
        executor_def=dg.in_process_executor,
    )


def simulation_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that writes one business date of simulated customers."""
    return dg.define_asset_job(
        SIMULATION_JOB,
        selection=dg.AssetSelection.assets(SIMULATED_CUSTOMERS),
        description="Writes one business date of simulated customers to this environment's bigsite. Missed dates are "
        "written first, in order; a date that exists is not written again.",
        executor_def=dg.in_process_executor,
    )


def simulation_cleaning_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that deletes expired simulated rows."""
    return dg.define_asset_job(
        CLEANING_JOB,
        selection=dg.AssetSelection.assets(SIMULATION_CLEANING),
        description="Deletes simulated rows that have expired. Real rows are never changed.",
        executor_def=dg.in_process_executor,
    )
