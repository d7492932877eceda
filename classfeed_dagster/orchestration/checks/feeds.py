"""Checks that gate a delivery: consent rollforward, portfolios held back, the written document."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import polars as pl

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.delivery.checks import CheckResult, held_back_share
from classfeed_dagster.domains.build import CONSENTED, DomainReference, read_consent_roll
from classfeed_dagster.domains.rules import LEDGER_RULES
from classfeed_dagster.feed_run.delivery_checks import check_consent_rollforward
from classfeed_dagster.feed_run.exclusion import CHECK as ONE_LIVE_FEED
from classfeed_dagster.feed_run.exclusion import exclude_each_other
from classfeed_dagster.feed_run.volumes import unusual_volumes
from classfeed_dagster.orchestration.asset_keys import LANDING, domain_key, runbook
from classfeed_dagster.orchestration.assets.feeds import unexplained_table
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import check_result, markdown_table
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.parity.comparison import read_report, scorecard
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.wording import counted

_SHOWN = 20
_LIVE_GATE = (
    "A feed that replaces an old app goes live after `CLASSFEED_PARITY_CLEAN_DATES` clean dates of parity in a row, or "
    "with a recorded override. If it fails: switch the feed back to `shadow` and correct the differences that "
    "the asset `parity` lists, or record an override with its reason (docs/cutover.md)."
)
_ONE_LIVE_FEED = (
    "No two feeds send the recipient the same movement: this one excludes {others} per portfolio. If it fails: both "
    "are live for the same portfolios. Switch one of them to `shadow`, or take the portfolios out of it with the "
    "switch `portfolios`, then run the date again."
)
_DOCUMENT_CHECKS: Mapping[str, str] = {
    "document_valid": "Every page is the file that was built, obeys the recipient's schema and contains exactly the "
    "planned portfolios. If it fails: the offender names element and line. Deploy a corrected mapping or writer, and "
    "the date is retried.",
    "everyone_consented": "Every portfolio in the document has active consent by a new query of bigsite. If it fails: "
    "a consent ended a moment ago, and the date runs again within `CLASSFEED_SOURCE_PROBE_SECONDS` without the "
    "portfolio. If it fails twice for one portfolio, page the owners.",
    "control_totals_agree": "Totals recomputed from the written bytes equal the stated totals and the source frames. "
    "If it fails: a fault in the code lost or changed a record. Call the owners; do not deliver by other means.",
}


def consent_check(
    audience: RecipientSchedule, name: str, partitions: dg.PartitionsDefinition[str]
) -> dg.AssetChecksDefinition:
    """Return the blocking check of the consent rollforward and of an unusual number of removals."""
    asset = domain_key(name, CONSENTED)

    @dg.asset_check(
        asset=asset,
        name="consent_roll",
        blocking=True,
        partitions_def=partitions,
        description="Previous portfolios + new - removed = current, and at most `CLASSFEED_MAX_REMOVED_SHARE` are "
        "removed at once. If it fails: a wrong sum is a fault in the code, so call the owners. For many removals, ask "
        "client services whether these customers left. If so, run `classfeed approve-removals --date D --reason R`: "
        "the date runs again. If not, have bigsite's consents corrected, and run the date with a fresh snapshot. "
        f"{runbook('consent_roll')}",
    )
    def consent_roll(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{name}/consent_roll") as day:
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            consented = runtime.load_reference(audience.reference(CONSENTED), day, DomainReference)
            roll = read_consent_roll(runtime.store, snapshot, audience, consented)
            evaluation = check_consent_rollforward(
                runtime.store, audience, day, roll, runtime.settings.max_removed_share
            )
        counts = {"previous": roll.previous, "new": roll.new, "removed": roll.removed, "current": roll.current}
        return _result(asset, evaluation, day, counts)

    return consent_roll


def feed_checks(feed_context: FeedContext) -> list[dg.AssetChecksDefinition]:
    """Return the feed's own checks: on its quarantine, its document and its parity."""
    checks = [_held_back_share(feed_context), _ledger_checks(feed_context), _document_checks(feed_context)]
    return [*checks, _parity(feed_context)] if feed_context.feed.legacy else checks


def _required(feed_context: FeedContext) -> dict[str, str]:
    # The blocking checks of the feed's document, with their descriptions.
    checks = dict(_DOCUMENT_CHECKS)
    if feed_context.feed.legacy:
        checks["live_gate"] = _LIVE_GATE
    if others := sorted(other.name for other in feed_context.feeds if exclude_each_other(feed_context.feed, other)):
        checks[ONE_LIVE_FEED] = _ONE_LIVE_FEED.format(others=" and ".join(others))
    return checks


def _held_back_share(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    asset = feed_context.key("quarantine")

    @dg.asset_check(
        asset=asset,
        name="held_back_share",
        blocking=True,
        partitions_def=feed_context.partitions,
        description="At most `CLASSFEED_MAX_HELD_BACK_SHARE` of the portfolios break a rule. If it fails: one common "
        "fault is likely. See which rule is broken most often, and whether bigsite's end of day completed. After the "
        "correction the date runs again. Do not raise the limit. "
        f"{runbook('held_back_share')}",
    )
    def check(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{feed_context.feed.name}/held_back_share") as day:
            work = feed_context.work(context, runtime)
            if work.idle is not None:
                return _idle(asset, "held_back_share", work.idle)
            plan = work.plan(work.consent()[1])
            evaluation = held_back_share(plan, runtime.settings.max_held_back_share)
        return _result(asset, evaluation, day, {"breaking": plan.breaking, "consented": plan.consented})

    return check


def _ledger_checks(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    asset = feed_context.key("quarantine")

    @dg.multi_asset_check(
        name=f"{feed_context.feed.name}__ledger",
        specs=[
            dg.AssetCheckSpec(
                rule.name,
                asset=asset,
                description=f"{rule.description}{runbook(rule.name)}",
                partitions_def=feed_context.partitions,
            )
            for rule in LEDGER_RULES
        ],
    )
    def check(
        context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.AssetCheckResult]:
        with step(context, f"{feed_context.feed.name}/ledger") as day:
            work = feed_context.work(context, runtime)
            if work.idle is not None:
                yield from (_idle(asset, rule.name, work.idle) for rule in LEDGER_RULES)
                return
            view = work.ledger_view()
            findings = view.frame()
        for rule in LEDGER_RULES:
            rows = findings.filter(pl.col("rule") == rule.name)
            offenders = tuple(rows.select("portfolio_number", "detail").head(_SHOWN).rows())
            numbers = rows["portfolio_number"].n_unique()
            evaluation = CheckResult(
                rule.name, rows.is_empty(), f"violated by {counted(numbers, 'portfolio')}", offenders, rows.height
            )
            yield _result(asset, evaluation, day, {"portfolios": numbers, "late_rows": len(view.late)})

    return check


def _document_checks(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    asset = feed_context.key("document")
    required = _required(feed_context)

    @dg.multi_asset_check(
        name=f"{feed_context.feed.name}__gate",
        specs=[
            *(
                dg.AssetCheckSpec(
                    name,
                    asset=asset,
                    blocking=True,
                    description=f"{description}{runbook(name)}",
                    partitions_def=feed_context.partitions,
                )
                for name, description in required.items()
            ),
            dg.AssetCheckSpec(
                "volumes",
                asset=asset,
                description="Records of each kind are within a fifth to five times the median of recent dates. If it "
                "fails: new portfolios, holidays and dividend seasons explain most cases. Otherwise compare the "
                "landing's row counts over time. "
                f"{runbook('volumes')}",
                partitions_def=feed_context.partitions,
            ),
        ],
    )
    def gate(
        context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.AssetCheckResult]:
        with step(context, f"{feed_context.feed.name}/gate") as day:
            work = feed_context.work(context, runtime)
            if work.idle is not None:
                yield from (_idle(asset, name, work.idle) for name in [*required, "volumes"])
                return
            build = work.build()
            evaluations = {evaluation.check: evaluation for evaluation in work.evaluate_checks(build)}
            unusual = unusual_volumes(work.store, feed_context.feed.name, feed_context.audience, build)
        counts = {"pages": len(build.pages), "portfolios": len(build.portfolios), "build": build.build_id}
        for name in required:
            yield _result(asset, evaluations[name], day, counts)
        yield _result(asset, unusual, day, counts, severity=dg.AssetCheckSeverity.WARN)

    return gate


def _parity(feed_context: FeedContext) -> dg.AssetChecksDefinition:
    asset = feed_context.key("parity")

    @dg.asset_check(
        asset=asset,
        name="parity",
        partitions_def=feed_context.partitions,
        description="A named rule explains every difference between this feed and the old app. If it fails: the count "
        "of clean dates restarts. Correct the feed or, if the old app is wrong, add a dated rule with its evidence to "
        "`parity/explanations.py`. Then run `classfeed parity --date D --feed F`. "
        f"{runbook('parity')}",
    )
    def check(context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
        with step(context, f"{feed_context.feed.name}/parity_check") as day:
            report = read_report(runtime.store, feed_context.feed.name, day)
            score = scorecard(runtime.store, feed_context.feed.name, feed_context.audience, day)
        return dg.AssetCheckResult(
            check_name="parity",
            asset_key=asset,
            passed=report is not None and report.clean,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{day.isoformat()}: {dict(score.dates)[day]}; "
            f"{counted(score.clean_run, 'clean date')} in a row",
            metadata={
                "business_date": day.isoformat(),
                "clean_dates_in_a_row": score.clean_run,
                "clean_dates_required": runtime.settings.parity_clean_dates,
                **({} if report is None else {"unexplained_differences": unexplained_table(report)}),
            },
        )

    return check


def _idle(asset: dg.AssetKey, name: str, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, asset_key=asset, passed=True, description=f"not evaluated: {reason}")


def _result(
    asset: dg.AssetKey,
    evaluation: CheckResult,
    day: dt.date,
    counts: Mapping[str, Any],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    metadata = {"total_offenders": evaluation.total_offenders, **counts}
    if evaluation.offenders:
        metadata["offenders"] = markdown_table(["subject", "problem"], evaluation.offenders)
    return check_result((asset, evaluation.check), day, evaluation.passed, evaluation.summary, metadata, severity)
