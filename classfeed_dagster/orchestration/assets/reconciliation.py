"""Reconciliation and warehouse in Dagster: one job a feed, started by a sensor once a date has been delivered."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.delivery.delivery_history import delivered_dates
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feed_run.post_delivery import PostDelivery, ReconciliationSummary
from classfeed_dagster.orchestration.column_metadata import (
    RUNBOOK,
    Shown,
    business_date,
    code_links,
    correlation_id,
    lineage_table,
    runbook,
    since,
    step,
    table_metadata,
)
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.run_history import run_fact
from classfeed_dagster.orchestration.warehouse_columns import (
    THEIRS,
    data_team_breaks,
    source_breaks,
    table_columns,
    their_columns,
)
from classfeed_dagster.reconciliation.result import Reconciliation
from classfeed_dagster.repair.reconciliation_retry import another_attempt
from classfeed_dagster.runtime import NotBuiltError, Runtime
from classfeed_dagster.tags import (
    BUILD_ID_TAG,
    CODE_VERSION_TAG,
    CORRELATION_TAG,
    PARTITION_TAG,
    new_correlation_id,
    reconciliation_job_name,
)
from classfeed_dagster.warehouse.load import FACTS, load_delivery
from classfeed_dagster.warehouse.records import Side

SOURCE, DATA_TEAM = "source_reconciliation", "data_team_reconciliation"
WAREHOUSE_GROUP = "5_warehouse"
DATA_TEAM_OWNER = "team:data"
DIMENSIONS = ("DIM_DATE", "DIM_PORTFOLIO", "DIM_CASH_ACCOUNT", "DIM_SECURITY")
_LOOK_BACK = 10
# After attempts at one delivery, oldest first: one more now (True), later (None), or none (False)?


def assurance_definitions(parts: Iterable[FeedContext], *, running: bool) -> dg.Definitions:
    """Assets, checks, jobs and sensors of all feeds that can be reconciled: those whose documents are EPI pages.

    ``running``: the sensors are on by default.
    """
    reconciled = [part for part in parts if part.feed.format.name == "epi"]
    jobs = {part.feed.name: _job(part) for part in reconciled}
    return dg.Definitions(
        assets=[
            *([_theirs()] if reconciled else []),
            *(asset for part in reconciled for asset in (_source(part), _warehouse(part), _data_team(part))),
        ],
        asset_checks=[check for part in reconciled for check in (_source_check(part), _data_team_check(part))],
        jobs=list(jobs.values()),
        sensors=[_sensor(part, jobs[part.feed.name], running=running) for part in reconciled],
    )


def _work(
    part: FeedContext, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime
) -> PostDelivery:
    now = runtime.clock(context.run.tags)
    return PostDelivery(runtime, part.feed, part.audience, business_date(context), correlation_id(context), now)


def _theirs() -> dg.AssetSpec:
    """The data team's table: not ours to make, but what our metrics are compared with."""
    return dg.AssetSpec(
        THEIRS,
        description="The data team's metrics of what should be delivered, worked out by their own code from their own "
        "replica of bigsite. Theirs: compared with, never written.",
        group_name=WAREHOUSE_GROUP,
        kinds={"snowflake", "table"},
        owners=[DATA_TEAM_OWNER],
        metadata=table_metadata(their_columns()),
    )


def _source(part: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        part,
        SOURCE,
        [part.key("delivery")],
        {"postgres", "parquet"},
        "The delivered files against the landed snapshot and against bigsite, asked again by SQL that shares no code "
        "with the export: row by row, field by field. Its breaks are kept in the warehouse until they are gone.",
        source_breaks(part.feed.format, part.key("delivery")),
        PostDelivery.source,
    )


def _warehouse(part: FeedContext) -> dg.AssetsDefinition:
    names = sorted((*FACTS, *DIMENSIONS))
    shown = {name: table_columns(name, part.feed.format, part.key("delivery")) for name in names}
    columns = {name: table_metadata(shown[name]) for name in names}

    @dg.multi_asset(
        name=f"{part.feed.name}_warehouse",
        specs=[
            dg.AssetSpec(
                dg.AssetKey(["warehouse", part.feed.name, name.lower()]),
                deps=[part.key("delivery"), part.key(SOURCE)],
                group_name=WAREHOUSE_GROUP,
                kinds={"snowflake", "table"},
                owners=list(part.feed.owners),
                description=f"{name} of the star schema, from what was delivered: the date is replaced in one "
                "transaction, so a re-run or a new revision leaves no duplicate and no gap. Dimensions keep history. "
                f"Runbook: {RUNBOOK}.",
                metadata={
                    **columns[name],
                    **_lineage(shown[name]),
                    "dagster/table_name": name,
                    "runbook": runbook("source_agrees"),
                    **code_links(load_delivery),
                },
            )
            for name in names
        ],
        partitions_def=part.partitions,
    )
    def warehouse(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        started = time.monotonic()
        with step(context, f"{part.feed.name}/warehouse"):
            loaded = _work(part, context, runtime).load()
        seconds = since(started)
        for name in names:
            rows = {"dagster/row_count": loaded.rows[name]} if name in loaded.rows else {}
            yield dg.MaterializeResult(
                asset_key=dg.AssetKey(["warehouse", part.feed.name, name.lower()]),
                metadata={
                    **columns[name],
                    **rows,
                    "revisions": loaded.revisions,
                    "dagster/table_name": name,
                    "seconds": seconds,
                },
            )

    return warehouse


def _lineage(shown: Sequence[Shown]) -> dict[str, Any]:
    return {"where_columns_come_from": lineage_table(shown)} if any(column.made_of for column in shown) else {}


def _data_team(part: FeedContext) -> dg.AssetsDefinition:
    return _compared(
        part,
        DATA_TEAM,
        [part.key("delivery"), dg.AssetKey(["warehouse", part.feed.name, "fact_delivery"]), THEIRS],
        {"snowflake"},
        "Our metrics, worked out from the delivered files, against the data team's, worked out by their own code from "
        "their own replica: a date that is missing, late or computed again, portfolios on one side only, values off.",
        data_team_breaks(part.feed.format, part.key("delivery")),
        PostDelivery.data_team,
    )


def _compared(
    part: FeedContext,
    name: str,
    deps: list[dg.AssetKey],
    kinds: set[str],
    description: str,
    columns: Sequence[Shown],
    compare: Callable[[PostDelivery], Reconciliation],
) -> dg.AssetsDefinition:
    # The breaks of one comparison; the runbook's section is that of its check.
    @part.asset(
        name,
        deps,
        kinds,
        description,
        f"{name.removesuffix('_reconciliation')}-agrees".replace("_", "-"),
        columns,
        made_by=compare,
    )
    def breaks(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with step(context, f"{part.feed.name}/{name}"):
            work = _work(part, context, runtime)
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


def _source_check(part: FeedContext) -> dg.AssetChecksDefinition:
    return _check(
        part,
        SOURCE,
        Side.SOURCE,
        "source_agrees",
        dg.AssetCheckSeverity.ERROR,
        "Everything in the delivered files is in bigsite and everything due in bigsite is in the files, to the cent. "
        "If it fails: the report names the rows and, where the data shows one, the cause; the warehouse is not loaded.",
    )


def _data_team_check(part: FeedContext) -> dg.AssetChecksDefinition:
    return _check(
        part,
        DATA_TEAM,
        Side.DATA_TEAM,
        "data_team_agrees",
        dg.AssetCheckSeverity.WARN,
        "The data team's metrics for the date are those of the delivered files. If it fails: nothing of the delivery "
        "is in doubt by itself, since file and source were compared row by row; ask the data team with the report.",
    )


def _check(
    part: FeedContext, asset: str, side: Side, name: str, severity: dg.AssetCheckSeverity, description: str
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=part.key(asset),
        name=name,
        blocking=severity is dg.AssetCheckSeverity.ERROR,
        description=f"{description} Runbook: {runbook(name)}",
    )
    def check(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{part.feed.name}/{name}") as day:
            found = runtime.load_reference(f"{part.feed.name}/{side.value}_reconciliation", day, ReconciliationSummary)
        wrong = found.errors if side is Side.SOURCE else found.errors + found.warnings
        return dg.AssetCheckResult(
            check_name=name,
            asset_key=part.key(asset),
            passed=not wrong,
            severity=severity,
            description=f"{day.isoformat()}: {found.errors} error(s), {found.warnings} warning(s)",
            metadata={
                "business_date": day.isoformat(),
                "errors": found.errors,
                "warnings": found.warnings,
                "breaks": found.breaks,
                "report": runtime.store.location(found.report),
            },
        )

    return check


def _job(part: FeedContext) -> Any:  # Dagster doesn't export the type of an asset job that is not resolved yet
    warehouse = [dg.AssetKey(["warehouse", part.feed.name, name.lower()]) for name in (*FACTS, *DIMENSIONS)]
    return dg.define_asset_job(
        reconciliation_job_name(part.feed.name),
        selection=dg.AssetSelection.assets(part.key(SOURCE), *warehouse, part.key(DATA_TEAM)),
        description="Prove a delivered date against bigsite, load it into the warehouse, compare with the data team. "
        "Safe at any time and twice.",
        executor_def=dg.in_process_executor,
    )


def dates_to_reconcile(runtime: Runtime, feed: str, days: Sequence[dt.date]) -> list[tuple[dt.date, str]]:
    """Of some delivered dates those whose latest delivery has not been proven, with that delivery's build."""
    waiting: list[tuple[dt.date, str]] = []
    for day in days:
        latest = delivered_state(runtime.store, feed, day).latest
        if latest is None:
            continue
        try:
            known = runtime.load_reference(f"{feed}/{DATA_TEAM}", day, ReconciliationSummary)
        except NotBuiltError:
            waiting.append((day, latest.build_id))
        else:
            if known.build_id != latest.build_id:
                waiting.append((day, latest.build_id))
    return waiting


def _sensor(part: FeedContext, job: Any, *, running: bool) -> dg.SensorDefinition:
    # Level-triggered: looks at what is delivered and what is proven. Each attempt has a key of its own. While one is
    # under way again after a failure, or waits for it, later dates wait too: one at a time probes what may be down.
    @dg.sensor(
        name=f"{part.feed.name}_reconciliation_sensor",
        job=job,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Starts reconciliation and the warehouse load for every delivered date that lacks them.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        days = delivered_dates(runtime.store, part.feed.name)[-_LOOK_BACK:]
        asked = 0
        for day, build_id in dates_to_reconcile(runtime, part.feed.name, days):
            before = context.instance.get_run_records(
                dg.RunsFilter(job_name=reconciliation_job_name(part.feed.name), tags={PARTITION_TAG: day.isoformat()}),
                ascending=True,
            )
            if any(not record.dagster_run.is_finished for record in before):
                continue
            attempts = [one for one in before if one.dagster_run.tags.get(BUILD_ID_TAG) == build_id]
            now = runtime.settings.now or dt.datetime.now(dt.UTC)
            last = run_fact(context.instance, attempts[-1], now) if attempts else None
            verdict = another_attempt(last, len(attempts), str(job.name), day, runtime.settings, now)
            if verdict is None:
                break
            if not verdict:
                continue
            asked += 1
            yield dg.RunRequest(
                run_key=f"{build_id}-{len(attempts) + 1}",
                partition_key=day.isoformat(),
                tags={
                    CORRELATION_TAG: new_correlation_id(),
                    BUILD_ID_TAG: build_id,
                    CODE_VERSION_TAG: runtime.settings.code_version,
                },
            )
            if attempts:
                break
        if not asked:
            yield dg.SkipReason("every delivered date is proven, being proven, or waits for its next attempt")

    return sensor
