"""Jobs, one function each, and the executors of their steps by the setting ``CLASSFEED_EXECUTOR``."""

import datetime as dt
from collections.abc import Sequence

import dagster as dg

from classfeed_dagster.alerting.audit_alerts import raise_audit_failure, sync_audit_incident
from classfeed_dagster.extras import extra_needed
from classfeed_dagster.feed_run.nightly_audit import audit_feed
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM_RECONCILIATION,
    GROUP_OPERATIONS,
    GROUP_OWNER,
    SCHEMA_ASSET,
    SIMULATED_CUSTOMERS,
    SIMULATED_RECIPIENTS,
    SIMULATION_CLEANING,
    SOURCE_RECONCILIATION,
    warehouse_key,
)
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.warehouse_columns import WAREHOUSE_TABLES
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.tags import (
    CODE_VERSION_TAG,
    FEED_TAG,
    feed_job_name,
    new_correlation_id,
    parity_job_name,
    reconciliation_job_name,
)
from classfeed_dagster.wording import counted

_RETENTION_BATCH = 200
SCHEMA_JOB, AUDIT_JOB = "schema_job", "audit"
_SHOWN = 5  # differences in a failed audit's message
SIMULATION_JOB, CLEANING_JOB = "simulation_job", "simulation_cleaning_job"
RECIPIENTS_JOB = "simulation_recipients_job"


def feed_job(feed: Feed, code_version: str, executor: dg.ExecutorDefinition) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job from bigsite to the feed's delivery. Backfill a range of dates to get one run a date."""
    return dg.define_asset_job(
        feed_job_name(feed.name),
        selection=dg.AssetSelection.assets(dg.AssetKey([feed.name, "transmission" if feed.sends_to else "delivery"]))
        .upstream()
        .required_multi_asset_neighbors(),
        description=f"{feed.title}. One business date a run; select a range to backfill, one run a date. Safe to run "
        "at any time, repeatedly or concurrently: a delivered document is never delivered again.",
        tags={FEED_TAG: feed.name, CODE_VERSION_TAG: code_version},
        executor_def=executor,
    )


def parity_job(feed_context: FeedContext) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job of the comparison with the old app, with its check."""
    return _asset_job(
        parity_job_name(feed_context.feed.name),
        dg.AssetSelection.assets(feed_context.key("parity")),
        f"Compares {feed_context.feed.name} with the old app's files of a business date. Changes no delivery; safe to "
        "run at any time.",
    )


def reconciliation_job(feed_context: FeedContext) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that reconciles a delivered date and loads it into the warehouse."""
    warehouse = [warehouse_key(feed_context.feed.name, name) for name in WAREHOUSE_TABLES]
    keys = (feed_context.key(SOURCE_RECONCILIATION), *warehouse, feed_context.key(DATA_TEAM_RECONCILIATION))
    return _asset_job(
        reconciliation_job_name(feed_context.feed.name),
        dg.AssetSelection.assets(*keys),
        "Reconciles a delivered date with bigsite, loads it into the warehouse and compares it with the data team's "
        "metrics. Safe to run at any time and repeatedly.",
    )


def acknowledgement_job(feed_context: FeedContext) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that reads a recipient's inbox."""
    return _asset_job(
        f"{feed_context.feed.name}_acknowledgement_job",
        dg.AssetSelection.assets(feed_context.key("acknowledgement")),
        f"Reads {feed_context.feed.recipient}'s answers about delivered files. Safe to run at any time and repeatedly.",
    )


def report_job(fresh: Sequence[dg.AssetChecksDefinition]) -> "dg.UnresolvedAssetJobDefinition":
    """Return the job of both reports and of the feeds' freshness checks."""
    return _asset_job(
        "operations_report",
        dg.AssetSelection.groups(GROUP_OPERATIONS) | dg.AssetSelection.checks(*fresh),
        "Computes service levels and toil from deliveries and runs.",
    )


def owner_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job of the owner's numbers."""
    return _asset_job(
        "owner_report",
        dg.AssetSelection.groups(GROUP_OWNER),
        "Records the owner's numbers and writes the month's page. Safe to run at any time and repeatedly.",
    )


def retention_job() -> dg.JobDefinition:
    """Return the job that deletes runs older than the setting."""

    @dg.op(description="Deletes old finished runs and their event logs.")
    def delete_old_runs(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> None:
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=runtime.settings.keep_runs_days)
        deleted = purge_runs(context.instance, before)
        get_logger().info("old runs deleted", rows=deleted)
        context.log.info(f"{counted(deleted, 'run')} from before {before:%Y-%m-%d} deleted")

    @dg.job(
        name="retention",
        description="Deletes old runs from Dagster's storage. Permanent records are in the object store.",
        executor_def=dg.in_process_executor,
    )
    def retention() -> None:
        delete_old_runs()

    return retention


def purge_runs(instance: dg.DagsterInstance, before: dt.datetime, *, at_most: int = 5000) -> int:
    """Delete finished runs created before ``before`` (UTC), oldest first, and return their number."""
    finished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED],
        created_before=before,
    )
    deleted = 0
    while deleted < at_most:
        runs = instance.get_run_records(finished, limit=min(_RETENTION_BATCH, at_most - deleted), ascending=True)
        if not runs:
            break
        for record in runs:
            instance.delete_run(record.dagster_run.run_id)
            deleted += 1
    return deleted


def audit_job(feeds: Sequence[Feed]) -> dg.JobDefinition:
    """Return the job that audits what was delivered. A failed audit of one feed does not stop the others."""

    @dg.op(description="Audits positions, warehouse rows and the data team's figures of every feed.")
    def audit_deliveries(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> None:
        failed: list[str] = []
        for feed in feeds:
            try:
                findings = audit_feed(runtime, feed, new_correlation_id(), runtime.settings.now)
            except Exception as error:
                raise_audit_failure(runtime.store, feed.name, error, context.run_id)
                failed.append(f"{feed.name}: {type(error).__name__}")
                continue
            sync_audit_incident(runtime.store, feed.name, findings, context.run_id)
            failed += [f"{feed.name} {one.business_date.isoformat()}: {one.what}" for one in findings]
            get_logger().info("audited", feed=feed.name, rows=len(findings))
        if failed:
            raise dg.Failure("; ".join(failed[:_SHOWN]), metadata={"differences": len(failed)}, allow_retries=False)

    @dg.job(
        name=AUDIT_JOB,
        description="Adds up positions of a sample from all records, and compares the newest dates' warehouse rows and "
        "the data team's figures again. Changes nothing that was delivered; safe at any time.",
        executor_def=dg.in_process_executor,
    )
    def audit() -> None:
        audit_deliveries()

    return audit


def schema_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that compares bigsite's schema with its contract."""
    return _asset_job(
        SCHEMA_JOB,
        dg.AssetSelection.assets(SCHEMA_ASSET),
        "Compares bigsite's schema with its contract and records it in the schema history.",
    )


def simulation_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that writes one business date of simulated customers."""
    return _asset_job(
        SIMULATION_JOB,
        dg.AssetSelection.assets(SIMULATED_CUSTOMERS),
        "Writes one business date of simulated customers to this environment's bigsite. Missed dates are written "
        "first, in order; a date that exists is not written again.",
    )


def simulation_cleaning_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job that deletes expired simulated rows."""
    return _asset_job(
        CLEANING_JOB,
        dg.AssetSelection.assets(SIMULATION_CLEANING),
        "Deletes simulated rows that have expired. Real rows are never changed.",
    )


def simulation_recipients_job() -> "dg.UnresolvedAssetJobDefinition":
    """Return the job in which simulated recipients answer."""
    return _asset_job(
        RECIPIENTS_JOB,
        dg.AssetSelection.assets(SIMULATED_RECIPIENTS),
        "Writes simulated recipients' answers about received files into the inbox. Safe to repeat.",
    )


def _asset_job(name: str, selection: dg.AssetSelection, description: str) -> "dg.UnresolvedAssetJobDefinition":
    return dg.define_asset_job(name, selection, description=description, executor_def=dg.in_process_executor)


def executor_called(name: str) -> dg.ExecutorDefinition:
    """Return the executor of a run's steps by the setting ``CLASSFEED_EXECUTOR``.

    The default is ``in_process``, because starting processes costs more than the work of an ordinary day.
    ``multiprocess`` starts a process a step, ``celery`` passes steps to workers on other machines, ``k8s`` starts a pod
    a step. The last two are extras of this project; ExecutorError names the extra to install if it is missing.
    """
    match name:
        case "multiprocess":
            return dg.multiprocess_executor
        case "celery":
            from classfeed_dagster.orchestration.celery_executor import celery_steps

            return celery_steps
        case "k8s":
            with extra_needed(f"CLASSFEED_EXECUTOR={name}", "k8s"):
                from dagster_k8s import k8s_job_executor
            # Without it a run's own configuration would give its pods another command, account or image.
            return k8s_job_executor.configured({}, name="k8s")
    return dg.in_process_executor
