"""A feed in Dagster: who is held back, the document, its delivery. Made from the feed's declaration."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from classfeed_dagster.delivery.build import Build
from classfeed_dagster.delivery.errors import NotInOrderError
from classfeed_dagster.delivery.plan import DeliveryPlan
from classfeed_dagster.delivery.publish import Outcome
from classfeed_dagster.delivery.records import quarantine_prefix
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.domains.run import CONSENTED
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.feeds.parity import Compared, compare_date
from classfeed_dagster.feeds.pictures import held_back_over_time
from classfeed_dagster.feeds.steps import FeedDay, FindingsReference
from classfeed_dagster.logs import get_logger
from classfeed_dagster.reconciliation.parity_report import ParityReport
from classfeed_dagster.runtime import CORRELATION_TAG, Runtime
from classfeed_dagster.seam import (
    RUNBOOK,
    Shown,
    business_date,
    code_of,
    correlation_id,
    document_columns,
    domain_key,
    idle_observation,
    lineage_table,
    markdown_table,
    numbers,
    picture,
    same_columns,
    step,
    table_metadata,
)

_POLL_SECONDS = 2.0
_SHOWN = 20
_Results = Iterator[dg.MaterializeResult[None]]
_Decorator = Callable[[Callable[..., _Results]], dg.AssetsDefinition]


@dataclass(frozen=True, slots=True)
class FeedParts:
    """A feed with what its assets need to know: its audience, the audience's name, the partitions, all feeds."""

    feed: Feed
    audience: Audience
    audience_name: str
    partitions: dg.PartitionsDefinition[str]
    feeds: tuple[Feed, ...]

    def key(self, name: str) -> dg.AssetKey:
        """The asset ``name`` of the feed."""
        return dg.AssetKey([self.feed.name, name])

    @property
    def domain_keys(self) -> list[dg.AssetKey]:
        """The domains that the feed's format carries; the consented portfolios come first."""
        return [domain_key(self.audience_name, domain) for domain in (CONSENTED, *self.feed.domains)]

    def work(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime) -> FeedDay:
        """This feed on the context's business date."""
        now = runtime.clock(context.run.tags)
        day = business_date(context)
        return FeedDay(runtime, self.feed, self.audience, day, correlation_id(context), now, self.feeds)

    def shown(self, name: str) -> list[Shown]:
        """The columns of the feed's asset ``name``, and where each comes from."""
        document = document_columns(self.feed.format, self.audience_name)
        of = {"document": document, "delivery": same_columns(document, self.key("document"))}
        return of.get(name, [])

    def columns(self, name: str) -> dict[str, Any]:
        """The same as metadata, of the asset's definition and of its materializations."""
        shown = self.shown(name)
        return table_metadata(shown) if shown else {}

    def asset(
        self, name: str, deps: list[dg.AssetKey], kinds: set[str], description: str, section: str = ""
    ) -> _Decorator:
        """The decorator that all of the feed's assets share; ``section`` of the runbook says what to do."""
        shown = self.shown(name)
        lineage = {"where_columns_come_from": lineage_table(shown)} if shown else {}
        return dg.asset(
            key=self.key(name),
            deps=deps,
            partitions_def=self.partitions,
            group_name=f"4_{self.feed.name}",
            kinds=kinds,
            owners=list(self.feed.owners),
            description=f"{description} Runbook: {RUNBOOK}.",
            metadata={**self.columns(name), **lineage, "runbook": f"{RUNBOOK}#{section}", "code": code_of(FeedDay)},
            # On a date on which the feed has nothing to do there is nothing to materialize; what follows is skipped.
            output_required=False,
        )

    def is_idle(self, context: dg.AssetExecutionContext, work: FeedDay) -> bool:
        """True if the feed has nothing to do; says so on the asset and in the log."""
        if work.idle is None:
            return False
        get_logger().info("nothing to do", why=work.idle)
        idle_observation(context, context.asset_key, work.idle)
        return True


def feed_assets(parts: FeedParts) -> list[dg.AssetsDefinition]:
    """The feed's assets, in the order of the data's way; with an old app's beside it, the comparison."""
    assets = [_quarantine(parts), _document(parts), _delivery(parts)]
    return [*assets, _parity(parts)] if parts.feed.legacy else assets


def legacy_assets(parts: FeedParts) -> list[dg.AssetSpec]:
    """What the old app writes: not ours to make, but what the feed is compared with."""
    if not parts.feed.legacy:
        return []
    return [
        dg.AssetSpec(
            dg.AssetKey(["legacy", parts.feed.name]),
            description=f"The old app's {parts.feed.name} files, put under legacy/{parts.feed.name}/<business date>/. "
            "Compared with the new feed until it takes over.",
            group_name=f"4_{parts.feed.name}",
            kinds={"csv"},
            owners=list(parts.feed.owners),
        )
    ]


def _quarantine(parts: FeedParts) -> dg.AssetsDefinition:
    @parts.asset(
        "quarantine",
        parts.domain_keys,
        {"json"},
        "Who is held back on this date, and why: portfolios that break a rule, wait for an earlier date, or whose "
        "consent ended. Each has a record in the object store; it is released by itself once the source is mended.",
        "held-back",
    )
    def quarantine(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/quarantine") as day:
            work = parts.work(context, runtime)
            if parts.is_idle(context, work):
                return
            plan, found = work.hold_back()
            get_logger().info("held back", held_back=len(plan.held_back), portfolios=plan.consented)
            folder = runtime.store.location(quarantine_prefix(parts.feed.name, day).rstrip("/"))
            over_time = held_back_over_time(work.store, parts.feed.name, parts.audience, day, len(plan.held_back))
        shown: dict[str, Any] = {
            "dagster/uri": folder,
            "held_back_over_time": picture(over_time, "portfolios held back, by date"),
        }
        yield dg.MaterializeResult(metadata={**_quarantine_metadata(plan, found), **shown})

    return quarantine


def _quarantine_metadata(plan: DeliveryPlan, found: FindingsReference) -> dict[str, Any]:
    kinds = [held.kind for held in plan.held_back]
    return {
        "held_back": len(kinds),
        "breaking_a_rule": kinds.count("RULE"),
        "waiting_for_an_earlier_date": kinds.count("WAITING"),
        "consent_ended": kinds.count("CONSENT_ENDED"),
        "consented": plan.consented,
        "held_back_portfolios": markdown_table(
            ["portfolio", "why"], [(held.number, held.reason) for held in plan.held_back[:_SHOWN]]
        ),
        "findings_by_rule": markdown_table(["rule", "findings"], found.by_rule.items()),
    }


def _document(parts: FeedParts) -> dg.AssetsDefinition:
    @parts.asset(
        "document",
        [parts.key("quarantine"), *parts.domain_keys],
        {parts.feed.format.extension.lstrip("."), "s3"},
        f"{parts.feed.title}: the staged pages for the date, holding only what differs from what was delivered "
        "before. Its checks read these bytes; nothing leaves without their verdicts.",
        "the-gate",
    )
    def document(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/document"):
            work = parts.work(context, runtime)
            if parts.is_idle(context, work):
                return
            build = work.stage()
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


def _delivery(parts: FeedParts) -> dg.AssetsDefinition:
    @parts.asset(
        "delivery",
        [parts.key("document")],
        {"s3"},
        f"What {parts.audience.recipient} was given for the date: pages first, the manifest last, nothing ever "
        "overwritten. Refuses unless every blocking check passed for exactly these bytes, and asks for consent "
        "again at the last moment. In shadow it goes where the recipient doesn't look.",
        "outcomes-of-a-run",
    )
    def delivery(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> _Results:
        with step(context, f"{parts.feed.name}/delivery"):
            work = parts.work(context, runtime)
            if parts.is_idle(context, work):
                return
            outcome = work.publish(_waiting(context, runtime.settings.delivery_wait_seconds))
            get_logger().info("delivery", outcome=outcome.kind, mode=work.flags.mode.value)
        yield dg.MaterializeResult(metadata={**parts.columns("delivery"), **_delivery_metadata(work, outcome)})

    return delivery


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


def _delivery_metadata(work: FeedDay, outcome: Outcome) -> dict[str, Any]:
    metadata: dict[str, Any] = {"outcome": outcome.kind, "mode": work.flags.mode.value}
    if outcome.manifest is not None and outcome.manifest_key is not None:
        manifest = outcome.manifest
        metadata |= {
            "revision": manifest.revision,
            "pages": len(manifest.pages),
            "portfolios": len(manifest.portfolios),
            "held_back": len(manifest.held_back),
            "bytes": sum(page.bytes for page in manifest.pages),
            "dagster/uri": work.store.location(outcome.manifest_key),
            CORRELATION_TAG: manifest.correlation_id,
        }
    return metadata


def _parity(parts: FeedParts) -> dg.AssetsDefinition:
    @parts.asset(
        "parity",
        [parts.key("delivery"), dg.AssetKey(["legacy", parts.feed.name])],
        {"json"},
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


def _parity_metadata(runtime: Runtime, found: Compared) -> dict[str, Any]:
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
