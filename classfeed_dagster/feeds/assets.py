"""A feed in Dagster: who is held back, the document, its delivery. Made from the feed's declaration."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

import time
from collections.abc import Callable
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
from classfeed_dagster.feeds.steps import FeedDay, FindingsReference
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import CORRELATION_TAG, Runtime
from classfeed_dagster.seam import RUNBOOK, business_date, correlation_id, domain_key, markdown_table, numbers, step

_POLL_SECONDS = 2.0
_SHOWN = 20
_Decorator = Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]


@dataclass(frozen=True, slots=True)
class FeedParts:
    """A feed with what its assets need to know: its audience, the audience's name, the partitions."""

    feed: Feed
    audience: Audience
    audience_name: str
    partitions: dg.PartitionsDefinition[str]

    def key(self, name: str) -> dg.AssetKey:
        """The asset ``name`` of the feed."""
        return dg.AssetKey([self.feed.name, name])

    @property
    def domain_keys(self) -> list[dg.AssetKey]:
        """The domains that the feed's format carries; the consented portfolios come first."""
        return [domain_key(self.audience_name, domain) for domain in (CONSENTED, *self.feed.format.domains)]

    def work(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime) -> FeedDay:
        """This feed on the context's business date."""
        now = runtime.clock(context.run.tags)
        return FeedDay(runtime, self.feed, self.audience, business_date(context), correlation_id(context), now)

    def asset(self, name: str, deps: list[dg.AssetKey], kinds: set[str], description: str) -> _Decorator:
        """The decorator that all of the feed's assets share."""
        return dg.asset(
            key=self.key(name),
            deps=deps,
            partitions_def=self.partitions,
            group_name=f"4_{self.feed.name}",
            kinds=kinds,
            owners=list(self.feed.owners),
            description=f"{description} Runbook: {RUNBOOK}.",
        )


def feed_assets(parts: FeedParts) -> list[dg.AssetsDefinition]:
    """The feed's three assets, in the order of the data's way."""
    return [_quarantine(parts), _document(parts), _delivery(parts)]


def _quarantine(parts: FeedParts) -> dg.AssetsDefinition:
    @parts.asset(
        "quarantine",
        parts.domain_keys,
        {"json"},
        "Who is held back on this date, and why: portfolios that break a rule, wait for an earlier date, or whose "
        "consent ended. Each has a record in the object store; it is released by itself once the source is mended.",
    )
    def quarantine(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        with step(context, f"{parts.feed.name}/quarantine") as day:
            plan, found = parts.work(context, runtime).hold_back()
            get_logger().info("held back", held_back=len(plan.held_back), portfolios=plan.consented)
            folder = runtime.store.location(quarantine_prefix(parts.feed.name, day).rstrip("/"))
        return dg.MaterializeResult(metadata={**_quarantine_metadata(plan, found), "dagster/uri": folder})

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
    )
    def document(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        with step(context, f"{parts.feed.name}/document"):
            build = parts.work(context, runtime).stage()
            get_logger().info("staged", pages=len(build.pages), portfolios=len(build.portfolios))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(build.build_id), metadata=_build_metadata(runtime, build)
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
        "again at the last moment.",
    )
    def delivery(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        with step(context, f"{parts.feed.name}/delivery"):
            outcome = parts.work(context, runtime).publish(_waiting(context, runtime.settings.delivery_wait_seconds))
            get_logger().info("delivery", outcome=outcome.kind)
        return dg.MaterializeResult(metadata=_delivery_metadata(runtime, outcome))

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


def _delivery_metadata(runtime: Runtime, outcome: Outcome) -> dict[str, Any]:
    metadata: dict[str, Any] = {"outcome": outcome.kind}
    if outcome.manifest is not None and outcome.manifest_key is not None:
        manifest = outcome.manifest
        metadata |= {
            "revision": manifest.revision,
            "pages": len(manifest.pages),
            "portfolios": len(manifest.portfolios),
            "held_back": len(manifest.held_back),
            "bytes": sum(page.bytes for page in manifest.pages),
            "dagster/uri": runtime.store.location(outcome.manifest_key),
            CORRELATION_TAG: manifest.correlation_id,
        }
    return metadata
