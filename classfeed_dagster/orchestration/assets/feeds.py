"""A feed in Dagster: who is held back, the document, its delivery. Made from the feed's declaration."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

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
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.held_back_chart import held_back_over_time
from classfeed_dagster.orchestration.metadata_values import markdown_table, numbers, picture
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.parity.report import ParityReport
from classfeed_dagster.parity.run import ParityResult, compare_date
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.stored_records import quarantine_prefix
from classfeed_dagster.tags import CORRELATION_TAG
from classfeed_dagster.transmission.send import receipts

_POLL_SECONDS = 2.0
_RECENT_DELIVERIES = 20  # events looked at for the newest place in the chain
CHAIN_POSITION = "chain_position"
_SHOWN = 20
_Results = Iterator[dg.MaterializeResult[None]]


def feed_assets(parts: FeedContext) -> list[dg.AssetsDefinition]:
    """The feed's assets, in the order of the data's way; with an old app's beside it, the comparison."""
    assets = [_quarantine(parts), _document(parts), _delivery(parts)]
    if parts.feed.sends_to is not None:
        assets.append(_transmission(parts))
    return [*assets, _parity(parts)] if parts.feed.legacy else assets


def legacy_assets(parts: FeedContext) -> list[dg.AssetSpec]:
    """What the old app writes: not ours to make, but what the feed is compared with."""
    if not parts.feed.legacy:
        return []
    return [
        dg.AssetSpec(
            dg.AssetKey(["legacy", parts.feed.name]),
            description=f"The old app's {parts.feed.name} files, put under legacy/{parts.feed.name}/<business date>/. "
            "Compared with the new feed until it takes over.",
            group_name=feed_group(parts.feed.name),
            metadata=parts.columns("legacy"),
        )
    ]


def _quarantine(parts: FeedContext) -> dg.AssetsDefinition:
    @parts.asset(
        "quarantine",
        parts.domain_keys,
        "Who is held back on this date, and why: portfolios that break a rule, wait for an earlier date, or whose "
        "consent ended. Each has a record in the object store; it is released by itself once the source is mended.",
        "held-back",
        stages=[parts.stage("shard", lambda day: day.shards, find_in_shard, "quarantine")],
    )
    def quarantine(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/quarantine") as day:
            work = parts.work(context, runtime)
            if parts.is_idle(context, work, "quarantine"):
                return
            plan, found = work.hold_back()
            get_logger().info("held back", held_back=len(plan.held_back), portfolios=plan.consented)
            folder = runtime.store.location(quarantine_prefix(parts.feed.name, day).rstrip("/"))
            delivered = delivered_state(work.store, parts.feed.name, day).portfolios.keys()
            lacking = [entry for entry in plan.held_back if entry.number not in delivered]
            over_time = held_back_over_time(work.store, parts.feed.name, parts.audience, day, len(lacking))
        shown: dict[str, Any] = {
            "dagster/uri": folder,
            "held_back_over_time": picture(over_time, "portfolios held back, by date"),
        }
        yield dg.MaterializeResult(metadata={**_quarantine_metadata(plan, lacking, found), **shown})

    return quarantine


def _quarantine_metadata(plan: DeliveryPlan, lacking: Sequence[HeldBack], found: FindingsReference) -> dict[str, Any]:
    # ``lacking``: held back now, and delivered by no revision of the date.
    kinds = [held.kind for held in lacking]
    return {
        "held_back": len(kinds),
        "breaking_a_rule": kinds.count("RULE"),
        "waiting_for_an_earlier_date": kinds.count("WAITING"),
        "consent_ended": kinds.count("CONSENT_ENDED"),
        "delivered_but_excluded_now": len(plan.held_back) - len(lacking),
        "consented": plan.consented,
        "held_back_portfolios": markdown_table(
            ["portfolio", "why"], [(held.number, held.reason) for held in lacking[:_SHOWN]]
        ),
        "findings_by_rule": markdown_table(["rule", "findings"], found.by_rule.items()),
    }


def _document(parts: FeedContext) -> dg.AssetsDefinition:
    @parts.asset(
        "document",
        [parts.key("quarantine"), *parts.domain_keys],
        f"{parts.feed.title}: the staged pages for the date, holding only what differs from what was delivered "
        "before. Its checks read these bytes; nothing leaves without their verdicts.",
        "the-gate",
        stages=[
            parts.stage("shard", fan_out, render_shard, "document"),
            parts.stage("lot", fan_out_pages, write_pages, "document"),
        ],
    )
    def document(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/document"):
            work = parts.work(context, runtime)
            if parts.is_idle(context, work, "document"):
                return
            build = (merge(work) if parts.fan_out else None) or work.stage()
            get_logger().info("staged", pages=len(build.pages), portfolios=len(build.portfolios))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(build.build_id),
            metadata={**parts.columns("document"), **_build_metadata(runtime, build)},
        )

    return document


def _build_metadata(runtime: Runtime, build: Build) -> dict[str, Any]:
    totals = build.totals
    sums = {
        f"{name}_{currency}": getattr(of, name)
        for currency, of in totals.currencies.items()
        for name in ("ledger_balance", "market_value", "cash_credits", "cash_debits", "net_amount")
    }
    metadata: dict[str, Any] = {
        "build": build.build_id,
        "revision": build.revision,
        "pages": len(build.pages),
        "portfolios": len(build.portfolios),
        "unchanged_portfolios": build.unchanged,
        "held_back": len(build.held_back),
        "mode": str(build.flags["mode"]),
        "bytes": sum(page.bytes for page in build.pages),
        "document_bytes": sum(page.document_bytes for page in build.pages),
        **{f"records_{name}": count for name, count in sorted(totals.counts.items())},
        **numbers(sums),
    }
    if build.pages:
        metadata["dagster/uri"] = runtime.store.location(build.pages[0].key)
    return metadata


def _delivery(parts: FeedContext) -> dg.AssetsDefinition:
    @parts.asset(
        "delivery",
        [parts.key("document")],
        f"What {parts.audience.recipient} was given for the date: pages first, the manifest last, nothing ever "
        "overwritten. Refuses unless every blocking check passed for exactly these bytes, and asks for consent "
        "again at the last moment. In shadow it goes where the recipient doesn't look.",
        "outcomes-of-a-run",
    )
    def delivery(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/delivery"):
            work = parts.work(context, runtime)
            if parts.is_idle(context, work, "delivery"):
                return
            require_reached(work.store, parts.feed.name, _known_position(context))
            outcome = work.publish(_waiting(context, runtime.settings.delivery_wait_seconds))
            get_logger().info("delivery", outcome=outcome.kind, mode=work.flags.mode.value)
        yield dg.MaterializeResult(metadata={**parts.columns("delivery"), **_delivery_metadata(work, outcome)})

    return delivery


def _transmission(parts: FeedContext) -> dg.AssetsDefinition:
    destination = parts.feed.sends_to
    where = "" if destination is None else destination.location

    @parts.asset(
        "transmission",
        [parts.key("delivery")],
        f"The delivered files at {where}, each with a receipt. Dates are sent in order, each file once. Deliveries in "
        "shadow are not sent.",
        "not-sent",
    )
    def transmission(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/transmission") as day:
            work = parts.work(context, runtime)
            if parts.is_idle(context, work, "transmission"):
                return
            new = work.send() if parts.feed.sends_on(day) else ()
            every = receipts(runtime.store, parts.feed.name, day)
            get_logger().info("sent", new=len(new), receipts=len(every))
        rows = [(one.message_id, one.name, one.bytes, one.answer, one.sent_at.isoformat()) for one in every[:_SHOWN]]
        yield dg.MaterializeResult(
            metadata={
                **parts.columns("transmission"),
                "destination": where,
                "sent_now": len(new),
                "receipts": len(every),
                "files": markdown_table(["message", "name", "bytes", "answer", "sent at"], rows),
            }
        )

    return transmission


def _known_position(context: dg.AssetExecutionContext) -> int:
    # The newest place in the chain that Dagster's own events know: a store restored from a backup may lack it.
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key), limit=_RECENT_DELIVERIES
    ).records
    positions = [
        record.asset_materialization.metadata[CHAIN_POSITION].value
        for record in records
        if record.asset_materialization and CHAIN_POSITION in record.asset_materialization.metadata
    ]
    return max((int(str(position)) for position in positions), default=0)


def _waiting(context: dg.AssetExecutionContext, seconds: int) -> Callable[[NotInOrderError], bool]:
    # Wait for the date before only while a run of this job for it is queued or running, and not for ever.
    deadline = time.monotonic() + seconds
    active = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]

    def wait(error: NotInOrderError) -> bool:
        waited_for = dg.RunsFilter(
            job_name=context.run.job_name, statuses=active, tags={"dagster/partition": error.previous.isoformat()}
        )
        if time.monotonic() > deadline or not context.instance.get_runs(waited_for, limit=1):
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
            "held_back": len(manifest.held_back),
            "bytes": sum(page.bytes for page in manifest.pages),
            "dagster/uri": work.store.location(outcome.manifest_key),
            CORRELATION_TAG: manifest.correlation_id,
        }
    return metadata


def _parity(parts: FeedContext) -> dg.AssetsDefinition:
    @parts.asset(
        "parity",
        [parts.key("delivery"), dg.AssetKey(["legacy", parts.feed.name])],
        "Does the feed say what the old app said? Line by line and field by field; differences are explained by a "
        "named rule, or they aren't. Clean dates in a row let the feed go live.",
    )
    def parity(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/parity") as day:
            found = compare_date(runtime.store, parts.feed, parts.audience, day)
            get_logger().info("compared", unexplained=found.report.unexplained, clean_run=found.score.clean_run)
        yield dg.MaterializeResult(metadata=_parity_metadata(runtime, found))

    return parity


def unexplained_table(report: ParityReport) -> dg.MarkdownMetadataValue:
    """The first differences that no rule explains. No personal data: the report has none."""
    unexplained = [one for one in report.differences if one.explanation is None][:_SHOWN]
    return markdown_table(
        ["line", "portfolio", "key", "kind", "field", "old", "new"],
        [
            (one.line, one.portfolio_number, one.key, one.kind, one.field or "", one.old or "", one.new or "")
            for one in unexplained
        ],
    )


def _parity_metadata(runtime: Runtime, found: ParityResult) -> dict[str, Any]:
    report, score = found.report, found.score
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
        "dagster/uri": runtime.store.location(found.key),
    }
