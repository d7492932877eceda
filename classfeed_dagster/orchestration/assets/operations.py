"""Report assets: service levels, toil and notices of consents about to expire."""

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.feed_run.expiry_notices import notices_key, write_notices
from classfeed_dagster.feed_run.flags import is_live
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import GROUP_OPERATIONS, source_key
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import markdown_table
from classfeed_dagster.orchestration.run_history import launched_runs
from classfeed_dagster.orchestration.step_context import current_time, since
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels import toil
from classfeed_dagster.service_levels.service_levels import DAYS, Attainment, attainment, freshness, plot
from classfeed_dagster.trading_days import SYDNEY

_MONTHS_HEADER = (
    "month", "feed", "runs", "failed", "automatic repairs", "manual", "manual by reason", "min to repair", "late",
    )  # fmt: skip
_TOIL_DAYS = 75  # two whole months


def operation_assets(feed_contexts: Sequence[FeedContext]) -> list[dg.AssetsDefinition]:
    """Return the service levels, toil and expiry notices of all feeds."""
    return [_service_levels(feed_contexts), _toil(feed_contexts), _expiry_notices(feed_contexts)]


def _expiry_notices(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["operations", "consent_expiry"],
        deps=[source_key("data_sharing_consent"), source_key("portfolio")],
        group_name=GROUP_OPERATIONS,
        description="The portfolios whose sharing ends within a lead time (CLASSFEED_EXPIRY_NOTICE_DAYS), each once, "
        "as a daily list for the broker's systems: notices/consent-expiry/DATE.json, with numbers and no names.",
    )
    def consent_expiry(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.MaterializeResult[None]:
        started, settings = time.monotonic(), runtime.settings
        feeds = [feed_context.feed for feed_context in feed_contexts]
        recipients = sorted({feed.recipient for feed in feeds if is_live(feed, settings.env)})
        record = write_notices(runtime, recipients, settings.expiry_notice_leads, current_time(runtime))
        get_logger().info("consents about to expire", rows=len(record.notices))
        counts = {
            f"within_{lead}_days": sum(one.lead_days == lead for one in record.notices) for lead in record.lead_days
        }
        return dg.MaterializeResult(
            metadata={
                "notices": len(record.notices),
                **counts,
                "dagster/uri": runtime.store.location(notices_key(record.date)),
                "seconds": since(started),
            }
        )

    return consent_expiry


def _service_levels(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["operations", "service_levels"],
        deps=[feed_context.key("delivery") for feed_context in feed_contexts],
        group_name=GROUP_OPERATIONS,
        description=f"Each feed's business dates of the last {DAYS} days against target and deadline, and the share "
        "delivered in time, by business date.",
    )
    def service_levels(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.MaterializeResult[None]:
        started, now = time.monotonic(), current_time(runtime)
        metadata: dict[str, Any] = {}
        for feed_context in feed_contexts:
            metadata |= _attained(attainment(runtime.store, feed_context.feed, feed_context.audience, now))
            fresh = freshness(runtime.store, feed_context.feed, feed_context.audience, now)
            metadata[f"{feed_context.feed.name}_newest_delivered"] = fresh.newest
            metadata[f"{feed_context.feed.name}_dates_behind"] = fresh.behind  # plotted by the UI over time
        return dg.MaterializeResult(metadata={**metadata, "seconds": since(started)})

    return service_levels


def _attained(attained: Attainment) -> dict[str, Any]:
    rows = [
        (
            result.due.business_date.isoformat(),
            result.verdict,
            "" if result.delivered_at is None else f"{result.delivered_at.astimezone(SYDNEY):%Y-%m-%d %H:%M}",
        )
        for result in attained.judgments
    ]
    metadata: dict[str, Any] = {
        f"{attained.feed}_dates": len(rows),
        f"{attained.feed}_in_time": attained.in_time,
        f"{attained.feed}_by_date": markdown_table(["business date", "verdict", "delivered, Sydney"], rows),
        f"{attained.feed}_picture": dg.MetadataValue.md(plot(attained.judgments)),
    }
    if attained.percent is not None:
        metadata[f"{attained.feed}_percent"] = attained.percent  # plotted by the UI over time
    return metadata


def _toil(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["operations", "toil"],
        deps=[feed_context.key("delivery") for feed_context in feed_contexts],
        group_name=GROUP_OPERATIONS,
        description="Per month and feed: runs, automatic repairs, manual re-triggers (every run that a person "
        "launched, by reason), mean time to repair, late deliveries. The target is no manual re-trigger.",
    )
    def months(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        started, now = time.monotonic(), current_time(runtime)
        first = now - dt.timedelta(days=_TOIL_DAYS)
        months: list[toil.Month] = []
        for at, feed_context in enumerate(feed_contexts):
            judgments = attainment(runtime.store, feed_context.feed, feed_context.audience, now, _TOIL_DAYS).judgments
            runs = launched_runs(context.instance, feed_context.feed.name, first, shared=at == 0)
            months += toil.keep(
                runtime.store, feed_context.feed, toil.count(feed_context.feed.name, runs, judgments), first
            )
        this_month = f"{now.astimezone(SYDNEY):%Y-%m}"
        current = [month for month in months if month.month == this_month]
        return dg.MaterializeResult(
            metadata={
                "seconds": since(started),
                "manual_retriggers": sum(month.manual_retriggers for month in current),
                "automatic_repairs": sum(month.automatic_repairs for month in current),
                "late_deliveries": sum(month.late_deliveries for month in current),
                "months": markdown_table(
                    _MONTHS_HEADER,
                    [_row(month) for month in sorted(months, key=lambda each: (each.month, each.feed), reverse=True)],
                ),
            }
        )

    return months


def _row(month: toil.Month) -> tuple[object, ...]:
    seconds = month.mean_seconds_to_repair
    return (
        month.month,
        month.feed,
        month.runs,
        month.failed_runs,
        month.automatic_repairs,
        month.manual_retriggers,
        ", ".join(f"{count} {reason}" for reason, count in month.manual_by_reason.items()),
        "" if seconds is None else f"{seconds / 60:.0f}",
        month.late_deliveries,
    )
