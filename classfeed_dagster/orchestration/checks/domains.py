"""Domain checks: one asset check per data rule, evaluated from the findings that the build stored."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from classfeed_dagster.domains.build import DOMAINS, DomainReference, read_frame
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.domains.rules import DataRule, RuleSeverity, rules_of
from classfeed_dagster.orchestration.asset_keys import domain_key, runbook
from classfeed_dagster.orchestration.metadata_values import check_result, markdown_table
from classfeed_dagster.orchestration.step_context import step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.wording import counted

SHOWN = 20
_SEVERITY = {RuleSeverity.QUARANTINE: dg.AssetCheckSeverity.ERROR, RuleSeverity.WARNING: dg.AssetCheckSeverity.WARN}


def domain_checks(
    audience: RecipientSchedule, name: str, partitions: dg.PartitionsDefinition[str]
) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the audience ``name``: one step a domain, one check a rule."""
    return [_checks_of(audience, name, domain, partitions) for domain in DOMAINS if rules_of(domain)]


def _checks_of(
    audience: RecipientSchedule, name: str, domain: str, partitions: dg.PartitionsDefinition[str]
) -> dg.AssetChecksDefinition:
    rules = rules_of(domain)
    asset = domain_key(name, domain)

    @dg.multi_asset_check(
        name=f"{name}__{domain}__rules",
        specs=[
            dg.AssetCheckSpec(
                rule.name,
                asset=asset,
                description=f"{rule.description}{runbook(rule.name)}",
                partitions_def=partitions,
            )
            for rule in rules
        ],
    )
    def check(
        context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.AssetCheckResult]:
        with step(context, f"{name}/{domain}/rules") as day:
            reference = runtime.load_reference(audience.reference(domain), day, DomainReference)
            findings = read_frame(runtime.store, reference, FINDINGS.name)
        for rule in rules:
            yield _result(rule, asset, findings.filter(pl.col("rule") == rule.name), day)

    return check


def _result(rule: DataRule, asset: dg.AssetKey, findings: pl.DataFrame, day: dt.date) -> dg.AssetCheckResult:
    shown = findings.head(SHOWN).select("portfolio_number", "subject", "detail").iter_rows()
    metadata: dict[str, Any] = {
        "findings": findings.height,
        "portfolios": findings["portfolio_number"].n_unique(),
    }
    if findings.height:
        metadata["offenders"] = markdown_table(["portfolio", "subject", "problem"], shown)
    summary = counted(findings.height, "finding") if findings.height else "no findings"
    severity = _SEVERITY[rule.severity]
    return check_result((asset, rule.name), day, findings.is_empty(), summary, metadata, severity)
