"""Assets of a feed, from its declaration: quarantine, document, delivery and parity."""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster import charts
from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.chain_integrity import require_reached
from classfeed_dagster.delivery.manifest import HeldBack
from classfeed_dagster.delivery.plan import DeliveryPlan
from classfeed_dagster.delivery.publish import PublishOutcome
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.errors import NotInOrderError
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.findings import FindingsReference, find_in_shard
from classfeed_dagster.feed_run.sharding import fan_out, fan_out_pages, merge, render_shard, write_pages
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import feed_group
from classfeed_dagster.orchestration.column_metadata import table_metadata
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import markdown_table, numbers, object_link, picture
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.parity.comparison import ParityReport
from classfeed_dagster.parity.run import ParityResult, compare_date
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import quarantine_prefix
from classfeed_dagster.tags import CORRELATION_TAG
from classfeed_dagster.transmission.send import receipts, require_receipts

_POLL_SECONDS = 2.0
_WAIT_SECONDS = 600  # of a delivery for the business date before it
_RECENT_EVENTS = 20  # searched for the newest position in the chain, and a date's receipts
CHAIN_POSITION, _RECEIPTS = "chain_position", "receipts"
_SHOWN = 20
_RECENT_DATES = 30  # in the chart of portfolios held back
_Results = Iterator[dg.MaterializeResult[None]]


def feed_assets(feed_context: FeedContext) -> list[dg.AssetsDefinition]:
    """Return the feed's assets in order of the data flow, with the comparison if it replaces an old app."""
    assets = [_quarantine(feed_context), _document(feed_context), _delivery(feed_context)]
    if feed_context.feed.sends_to is not None:
        assets.append(_transmission(feed_context))
    return [*assets, _parity(feed_context)] if feed_context.feed.legacy else assets


def legacy_assets(feed_context: FeedContext) -> list[dg.AssetSpec]:
    """Return the old app's files as an external asset that the feed is compared with."""
    if not feed_context.feed.legacy:
        return []
    return [
        dg.AssetSpec(
            dg.AssetKey(["legacy", feed_context.feed.name]),
            description=f"The old app's {feed_context.feed.name} files, stored under "
            f"legacy/{feed_context.feed.name}/DATE/. Compared with the new feed until it takes over.",
            group_name=feed_group(feed_context.feed.name),
            metadata=table_metadata(feed_context.shown("legacy")),
        )
    ]


def _quarantine(feed_context: FeedContext) -> dg.AssetsDefinition:
    @feed_context.asset(
        "quarantine",
        feed_context.domain_keys,
        "Portfolios held back on this date, with the reason: a violated rule, an earlier date that is pending, or an "
        "ended consent. Each has a record in the object store and is released automatically once the source is "
        "corrected.",
        "held-back-portfolios",
        stages=[feed_context.stage("shard", lambda day: day.shards, find_in_shard, "quarantine")],
    )
    def quarantine(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{feed_context.feed.name}/quarantine") as day:
            work = feed_context.work(context, runtime)
            if feed_context.is_idle(context, work, "quarantine"):
                return
            plan, findings = work.hold_back()
            get_logger().info("held back", held_back=len(plan.held_back), portfolios=plan.consented)
            folder = runtime.store.location(quarantine_prefix(feed_context.feed.name, day).rstrip("/"))
            lacking = _lacking(work, plan.held_back)
            over_time = _held_back_over_time(
                work.store, feed_context.feed.name, feed_context.audience, day, len(lacking)
            )
        shown: dict[str, Any] = {"held_back_over_time": picture(over_time, "portfolios held back, by date")}
        if plan.held_back:  # no record, no folder
            shown["dagster/uri"] = folder
        yield dg.MaterializeResult(metadata={**_quarantine_metadata(plan, lacking, findings), **shown})

    return quarantine


def _lacking(work: FeedRun, held_back: Sequence[HeldBack]) -> list[HeldBack]:
    # Held back, and delivered by no revision of the date.
    if not held_back:
        return []
    delivered = delivered_state(work.store, work.feed.name, work.day).portfolios
    return [entry for entry in held_back if entry.number not in delivered]


def _quarantine_metadata(
    plan: DeliveryPlan, lacking: Sequence[HeldBack], findings: FindingsReference
) -> dict[str, Any]:
    kinds = [entry.kind for entry in lacking]
    return {
        "held_back": len(kinds),
        "breaking_a_rule": kinds.count("RULE"),
        "waiting_for_an_earlier_date": kinds.count("WAITING"),
        "consent_ended": kinds.count("CONSENT_ENDED"),
        "delivered_but_excluded_now": len(plan.held_back) - len(lacking),
        "consented": plan.consented,
        "held_back_portfolios": markdown_table(
            ["portfolio", "reason"], [(entry.number, entry.reason) for entry in lacking[:_SHOWN]]
        ),
        "findings_by_rule": markdown_table(["rule", "findings"], findings.by_rule.items()),
    }


def _held_back_over_time(store: ObjectStore, feed: str, audience: RecipientSchedule, day: dt.date, today: int) -> str:
    # Portfolios that each date's first delivery left out, up to ``day`` with ``today`` held back. The chart ends at the
    # first date without a delivery.
    values = [(day.isoformat(), today)]
    before = audience.previous(day)
    while before is not None and len(values) < _RECENT_DATES:
        first = delivered_state(store, feed, before).first
        if first is None:
            break
        values.append((before.isoformat(), len(first.held_back)))
        before = audience.previous(before)
    return charts.columns(f"{feed}: portfolios held back", values[::-1])


def _document(feed_context: FeedContext) -> dg.AssetsDefinition:
    @feed_context.asset(
        "document",
        [feed_context.key("quarantine"), *feed_context.domain_keys],
        f"{feed_context.feed.title}: the staged pages for the date, with only the portfolios that differ from earlier "
        "deliveries. Its checks read these bytes; without their results nothing is delivered.",
        "checks",
        stages=[
            feed_context.stage("shard", fan_out, render_shard, "document"),
            feed_context.stage("lot", fan_out_pages, write_pages, "document"),
        ],
    )
    def document(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{feed_context.feed.name}/document"):
            work = feed_context.work(context, runtime)
            if feed_context.is_idle(context, work, "document"):
                return
            build = (merge(work) if feed_context.fan_out else None) or work.stage()
            get_logger().info("staged", pages=len(build.pages), portfolios=len(build.portfolios))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(build.build_id),
            metadata=_build_metadata(work, build),
        )

    return document


def _build_metadata(work: FeedRun, build: Build) -> dict[str, Any]:
    totals, lacking = build.totals, len(_lacking(work, build.held_back))
    sums = {
        f"{name}_{currency}": getattr(sums_of, name)
        for currency, sums_of in totals.currencies.items()
        for name in ("ledger_balance", "market_value", "cash_credits", "cash_debits", "net_amount")
    }
    metadata: dict[str, Any] = {
        "build": build.build_id,
        "revision": build.revision,
        "pages": len(build.pages),
        "portfolios": len(build.portfolios),
        "unchanged_portfolios": build.unchanged,
        "held_back": lacking,
        "delivered_but_excluded_now": len(build.held_back) - lacking,
        "mode": str(build.flags["mode"]),
        "bytes": sum(page.bytes for page in build.pages),
        "document_bytes": sum(page.document_bytes for page in build.pages),
        **{f"records_{name}": count for name, count in sorted(totals.counts.items()) if count},
        **numbers(sums),
    }
    if build.pages:
        metadata["dagster/uri"] = work.runtime.store.location(build.pages[0].key)
    return metadata


def _delivery(feed_context: FeedContext) -> dg.AssetsDefinition:
    @feed_context.asset(
        "delivery",
        [feed_context.key("document")],
        f"The delivery to {feed_context.audience.recipient} for the date: pages first, the manifest last, nothing ever "
        "overwritten. Refused unless every blocking check passed for exactly these bytes. Consent is queried again at "
        "the last moment. In shadow it is written to a place that the recipient does not read.",
        "outcomes-of-a-run",
    )
    def delivery(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{feed_context.feed.name}/delivery"):
            work = feed_context.work(context, runtime)
            if feed_context.is_idle(context, work, "delivery"):
                return
            require_reached(work.store, feed_context.feed.name, _highest_known(context, CHAIN_POSITION))
            outcome = work.publish(_waiting(context))
            get_logger().info("delivery", outcome=outcome.kind, mode=work.flags.mode.value)
        yield dg.MaterializeResult(metadata=_delivery_metadata(work, outcome))

    return delivery


def _transmission(feed_context: FeedContext) -> dg.AssetsDefinition:
    destination = feed_context.feed.sends_to
    where = "" if destination is None else destination.location

    @feed_context.asset(
        "transmission",
        [feed_context.key("delivery")],
        f"The delivered files at {where}, each with a receipt. Dates are sent in order, each file once. Deliveries in "
        "shadow are not sent.",
        "not-sent",
    )
    def transmission(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{feed_context.feed.name}/transmission") as day:
            work = feed_context.work(context, runtime)
            if feed_context.is_idle(context, work, "transmission"):
                return
            known = _highest_known(context, _RECEIPTS, [day.isoformat()])
            require_receipts(runtime.store, feed_context.feed.name, day, known)
            new = work.send() if feed_context.feed.sends_on(day) else ()
            every = receipts(runtime.store, feed_context.feed.name, day)
            get_logger().info("sent", new=len(new), receipts=len(every))
        rows = [
            (each.message_id, each.name, each.bytes, each.answer, each.sent_at.isoformat()) for each in every[:_SHOWN]
        ]
        yield dg.MaterializeResult(
            metadata={
                "destination": where,
                "sent_now": len(new),
                _RECEIPTS: len(every),
                "files": markdown_table(["message", "name", "bytes", "answer", "sent at"], rows),
            }
        )

    return transmission


def _highest_known(context: dg.AssetExecutionContext, name: str, partitions: Sequence[str] | None = None) -> int:
    # The highest value in Dagster's own events: a store restored from a backup may be behind it.
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=_RECENT_EVENTS
    ).records
    values = [
        record.asset_materialization.metadata[name].value
        for record in records
        if record.asset_materialization and name in record.asset_materialization.metadata
    ]
    return max((int(str(value)) for value in values), default=0)


def _waiting(context: dg.AssetExecutionContext) -> Callable[[NotInOrderError], bool]:
    # Wait for the previous date only while a run of this job for it is queued or running, and only until the deadline.
    deadline = time.monotonic() + _WAIT_SECONDS
    active = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]

    def wait(error: NotInOrderError) -> bool:
        previous_runs = dg.RunsFilter(
            job_name=context.run.job_name, statuses=active, tags={"dagster/partition": error.previous.isoformat()}
        )
        if time.monotonic() > deadline or not context.instance.get_runs(previous_runs, limit=1):
            return False
        time.sleep(_POLL_SECONDS)
        return True

    return wait


def _delivery_metadata(work: FeedRun, outcome: PublishOutcome) -> dict[str, Any]:
    metadata: dict[str, Any] = {"outcome": outcome.kind, "mode": work.flags.mode.value}
    if outcome.manifest is not None and outcome.manifest_key is not None:
        manifest = outcome.manifest
        metadata |= {
            "revision": manifest.revision,
            CHAIN_POSITION: manifest.chain_position,
            "pages": len(manifest.pages),
            "portfolios": len(manifest.portfolios),
            "held_back": len(_lacking(work, manifest.held_back)),
            "bytes": sum(page.bytes for page in manifest.pages),
            "dagster/uri": work.store.location(outcome.manifest_key),
            "manifest": object_link(work.store.location(outcome.manifest_key)),
            CORRELATION_TAG: manifest.correlation_id,
        }
    return metadata


def _parity(feed_context: FeedContext) -> dg.AssetsDefinition:
    @feed_context.asset(
        "parity",
        [feed_context.key("delivery"), dg.AssetKey(["legacy", feed_context.feed.name])],
        "Comparison of the feed with the old app, line by line and field by field. A named rule explains a "
        "difference, or it counts as unexplained. Consecutive clean dates let the feed go live.",
    )
    def parity(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{feed_context.feed.name}/parity") as day:
            comparison = compare_date(runtime.store, feed_context.feed, feed_context.audience, day)
            get_logger().info(
                "compared", unexplained=comparison.report.unexplained, clean_run=comparison.score.clean_run
            )
        yield dg.MaterializeResult(metadata=_parity_metadata(runtime, comparison))

    return parity


def unexplained_table(report: ParityReport) -> dg.MarkdownMetadataValue:
    """Return the first differences that no rule explains. The report has no personal data."""
    unexplained = [difference for difference in report.differences if difference.explanation is None][:_SHOWN]
    return markdown_table(
        ["line", "portfolio", "key", "kind", "field", "old", "new"],
        [
            (
                difference.line,
                difference.portfolio_number,
                difference.key,
                difference.kind,
                difference.field or "",
                difference.old or "",
                difference.new or "",
            )
            for difference in unexplained
        ],
    )


def _parity_metadata(runtime: Runtime, comparison: ParityResult) -> dict[str, Any]:
    report, score = comparison.report, comparison.score
    return {
        "clean_dates_in_a_row": score.clean_run,
        "clean_dates_required": runtime.settings.parity_clean_dates,
        "run_broken_by": score.broken_by or "nothing",
        "old_lines": report.old_lines,
        "new_lines": report.new_lines,
        "equal_lines": report.equal_lines,
        "explained": sum(report.explained.values()),
        "unexplained": report.unexplained,
        "explained_by_rule": markdown_table(["rule", "differences"], report.explained.items()),
        "unexplained_differences": unexplained_table(report),
        "scorecard": markdown_table(["date", "verdict"], [(day.isoformat(), text) for day, text in score.dates]),
        "dagster/uri": runtime.store.location(comparison.key),
    }
