"""Checks of a feed's punctuality and freshness."""

from typing import Any

import dagster as dg

from classfeed_dagster.orchestration.asset_keys import runbook
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import check_result, without_zeros
from classfeed_dagster.orchestration.step_context import current_time, step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.service_levels import (
    DAYS,
    Punctuality,
    freshness,
    judge_date,
)


def on_time_check(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    """Return the check that the business date was first delivered by its deadline."""
    asset = feed_context.key("delivery")

    @dg.asset_check(
        asset=asset,
        name="on_time",
        partitions_def=feed_context.partitions,
        description="The business date was first delivered by its deadline in Sydney. If it fails: no action. The "
        f"morning's alert names the cause. A backfill of an old date warns too.{runbook('on_time')}",
    )
    def on_time(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{feed_context.feed.name}/on_time") as day:
            punctuality = judge_date(runtime.store, feed_context.feed, day)
        metadata: dict[str, Any] = {
            "deadline": punctuality.due.deadline_at.isoformat(),
            "verdict": punctuality.verdict.value,
        }
        if punctuality.delivered_at is not None:
            metadata["delivered_at"] = punctuality.delivered_at.isoformat()
        passed = punctuality.verdict in (Punctuality.ON_TARGET, Punctuality.IN_TIME)
        return check_result((asset, "on_time"), day, passed, str(punctuality.verdict), metadata)

    return on_time


def fresh_check(parts: FeedContext) -> dg.AssetChecksDefinition:
    """Return the check that every business date past its deadline is delivered, of the last thirty that are due."""
    asset = parts.key("delivery")

    @dg.asset_check(
        asset=asset,
        name="fresh",
        description=f"Every one of the last {DAYS} business dates whose deadline has passed is delivered. If it fails: "
        f"see the alert of the late date.{runbook('fresh')}",
    )
    def fresh(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        now = runtime.clock(context.run.tags) or current_time(runtime)
        state = freshness(runtime.store, parts.feed, parts.audience, now)
        return dg.AssetCheckResult(
            check_name="fresh",
            asset_key=asset,
            passed=not state.behind,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"newest date delivered: {state.newest}; dates past their deadline, of the last {DAYS}: "
            f"{state.behind}",
            metadata=without_zeros({"newest_delivered": state.newest, "dates_behind": state.behind}),
        )

    return fresh
