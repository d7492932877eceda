"""Simulated customers in Dagster: a daily asset that lets them live, and one that cleans up after them.

Not there at all where CLASSFEED_ENV is prod; and whatever runs it, the world itself refuses production.
"""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from classfeed_dagster import charts, trading_days
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.column_metadata import TEAM, markdown_table, since, step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.simulation.day import DaySummary
from classfeed_dagster.simulation.environment import Advance, advance, expire
from classfeed_dagster.tags import CORRELATION_TAG, new_correlation_id

CUSTOMERS = dg.AssetKey(["simulation", "customers"])
CLEANING = dg.AssetKey(["simulation", "cleaning"])
SIMULATION_JOB, CLEANING_JOB = "simulation_job", "simulation_cleaning_job"
_GROUP = "0_simulation"
_PLOTTED_DAYS = 20
# What is plotted, and the counts that it adds up.
_PLOTTED = {
    "trades a day": ("buys", "sells"),
    "movements of money a day": ("deposit", "withdrawal", "income", "settlement"),
    "corrections a day": ("reversed trades", "reversed incomes", "reversed movements", "late rows"),
}


def simulation_definitions(settings: Settings, partitions: dg.PartitionsDefinition[str]) -> dg.Definitions:
    """The assets, jobs and schedules; the schedules are on in dev and staging, and off on a laptop."""
    if settings.env is Environment.PROD:
        return dg.Definitions()
    running = settings.env is not Environment.LOCAL
    return dg.Definitions(
        assets=[_customers(partitions), _cleaning()],
        jobs=[
            dg.define_asset_job(
                SIMULATION_JOB,
                selection=dg.AssetSelection.assets(CUSTOMERS),
                description="One business date of simulated customers in this environment's bigsite. Days that were "
                "missed are caught up in order; a day that is there is not written again.",
                executor_def=dg.in_process_executor,
            ),
            dg.define_asset_job(
                CLEANING_JOB,
                selection=dg.AssetSelection.assets(CLEANING),
                description="Deletes simulated rows that expired; real rows are never touched.",
                executor_def=dg.in_process_executor,
            ),
        ],
        schedules=[_nightly(settings.first_business_date, running=running), _weekly(running=running)],
    )


def _customers(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=CUSTOMERS,
        partitions_def=partitions,
        group_name=_GROUP,
        kinds={"postgres", "python"},
        owners=[TEAM],
        description="Invented customers live one business date in this environment's bigsite: they save, trade, "
        "consent, revoke and leave; companies pay dividends and split; the broker corrects itself; the end of day "
        "runs. Same seed, same date: the same rows. Writes straight into bigsite's tables, which the feeds then read "
        "like real ones. Refuses production.",
    )
    def customers(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        started = time.monotonic()
        with step(context, "simulation/customers") as day:
            done = advance(runtime.engine, runtime.settings, day)
            get_logger().info("customers lived", rows=sum(sum(one.rows.values()) for one in done.written))
        return dg.MaterializeResult(metadata={**_metadata(done, day), "seconds": since(started)})

    return customers


def _metadata(done: Advance, day: dt.date) -> dict[str, Any]:
    summary = done.summary
    written: dict[str, int] = {}
    for one in done.written:
        for table, rows in one.rows.items():
            written[table] = written.get(table, 0) + rows
    return {
        "plot": dg.MetadataValue.md(_plot(done.world.recent(day, _PLOTTED_DAYS))),
        "what_customers_did": markdown_table(["what", "how often"], summary.counts.items()),
        "trades": summary.counts.get("buys", 0) + summary.counts.get("sells", 0),
        "consents_granted": summary.counts.get("consents granted", 0),
        "consents_revoked": summary.counts.get("consents revoked", 0),
        "sharing_with_class": len(done.world.sharing(day)),
        "world": done.world.description,
        "days_written": len(done.written),
        "rows_written": sum(written.values()),
        "rows_by_table": markdown_table(["table", "rows added now"], sorted(written.items())),
    }


def _plot(days: Sequence[DaySummary]) -> str:
    # Markdown images that carry their own bytes, which is what the UI shows.
    images = []
    for title, counts in _PLOTTED.items():
        values = [(day.day.isoformat(), sum(day.counts.get(name, 0) for name in counts)) for day in days]
        images.append(f"![{title}]({charts.data_uri(charts.columns(title, values))})")
    return "\n\n".join(images)


def _cleaning() -> dg.AssetsDefinition:
    @dg.asset(
        key=CLEANING,
        group_name=_GROUP,
        kinds={"postgres"},
        owners=[TEAM],
        description="Simulated rows expire sooner than real ones: old end-of-day rows and prices, and whole portfolios "
        "that closed, are deleted after CLASSFEED_SIMULATION_KEEP_DAYS. Real rows are never touched.",
    )
    def cleaning(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
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


def _nightly(first: dt.date, *, running: bool) -> dg.ScheduleDefinition:
    # After the end of day has run (at most 110 minutes after midnight), before any feed's morning; and not at an hour
    # that a change of clock skips or repeats.
    @dg.schedule(
        name="simulation_nightly",
        job_name=SIMULATION_JOB,
        cron_schedule="30 3 * * *",
        execution_timezone=trading_days.SYDNEY.key,
        description="The night after each ASX business day, before the feeds: customers live that day.",
        default_status=_status(running=running),
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(trading_days.SYDNEY).date() - dt.timedelta(days=1)
        if not trading_days.is_business_day(day):
            return dg.SkipReason(f"{day.isoformat()} was not an ASX business day")
        if day < first:
            return dg.SkipReason(f"{day.isoformat()} is before the first business date, {first.isoformat()}")
        return dg.RunRequest(
            run_key=f"simulation-{day.isoformat()}",
            partition_key=day.isoformat(),
            tags={CORRELATION_TAG: new_correlation_id()},
        )

    return nightly


def _weekly(*, running: bool) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="simulation_cleaning_weekly",
        job_name=CLEANING_JOB,
        cron_schedule="0 5 * * 0",
        execution_timezone=trading_days.SYDNEY.key,
        description="Sundays: simulated rows that expired go.",
        default_status=_status(running=running),
    )


def _status(*, running: bool) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
