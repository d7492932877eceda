"""Domain assets: the consented portfolios and the four export domains of an audience."""

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import dagster as dg

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.charts import Number, bars
from classfeed_dagster.domains.build import (
    CONSENTED,
    DOMAINS,
    FRAMES,
    DomainReference,
    DomainShard,
    build_consented_portfolios,
    build_domain,
    build_domain_shard,
)
from classfeed_dagster.domains.columns import Frame
from classfeed_dagster.domains.landed_tables import TABLES
from classfeed_dagster.domains.measures import KIND
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import GROUP_DOMAINS, LANDING, domain_key, landing_key, runbook_value
from classfeed_dagster.orchestration.column_metadata import domain_columns, lineage_table, table_metadata
from classfeed_dagster.orchestration.fan_out import Results, Stage, fanned_out_asset
from classfeed_dagster.orchestration.metadata_values import numbers, picture, previews, without_zeros
from classfeed_dagster.orchestration.step_context import StepContext, idle_observation, since, step
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.schedules import RecipientSchedule

# Content, source, use, point in time, and typical problems of each asset.
_DESCRIPTIONS: Mapping[str, str] = {
    CONSENTED: "**Portfolios that share data with {recipient}** on the business date: new, current or removed since "
    "the previous date.\n\n*From* bigsite's landed consents. *For* every later asset, all of which use this one "
    "result. *As at* the cut-off, midnight in Sydney at the end of the business date. *Problems:* an unusual number "
    "of removals stops the run until a person has checked it (check consent_roll).",
    "account_details": (
        "**Each consented portfolio's account and its cash accounts**, as sent to {recipient}; a removed portfolio has "
        "its number and reference only.\n\n*From* bigsite's portfolios and cash accounts. *As at* the snapshot. "
        "*Problems:* a value outside the contract (HIN, ABN, BSB, status) holds the portfolio back."
    ),
    "account_balances": (
        "**Each cash account's ledger and available balance** at the business date.\n\n*From* bigsite's end of day. "
        "*For* {recipient}, which compares it with the sum of the cash movements. *As at* the business date. "
        "*Problems:* a balance that is missing or differs from the sum of its ledger holds the portfolio back."
    ),
    "investment_holdings": (
        "**Each portfolio's holdings** at the business date, on a traded basis, valued at the last close on or before "
        "it, with codes as on that date.\n\n*From* bigsite's end of day and prices. *For* {recipient}, which compares "
        "it with the sum of the movements. *Problems:* a holding that is missing, or whose units differ from the sum "
        "of its ledger, holds the portfolio back. A holding without a price is sent without a value."
    ),
    "movement_transactions": (
        "**Ledger movements**: for current portfolios the rows recorded in the date's window; for new ones the whole "
        "shared history, with opening records for earlier balances.\n\n*From* bigsite's four ledgers. *For* "
        "{recipient}, which loads each row once. *Problems:* a row that contradicts itself, or an unknown type, holds "
        "the portfolio back."
    ),
}


def domain_assets(
    audience: RecipientSchedule, name: str, partitions: dg.PartitionsDefinition[str], *, fan_out: bool = False
) -> list[dg.AssetsDefinition]:
    """Return the five assets of the audience ``name``. With ``fan_out``, large dates are fanned out within a run."""
    return [
        _domain_asset(audience, name, domain, partitions, fan_out=fan_out and domain != CONSENTED) for domain in DOMAINS
    ]


def _domain_asset(
    audience: RecipientSchedule, name: str, domain: str, partitions: dg.PartitionsDefinition[str], *, fan_out: bool
) -> dg.AssetsDefinition:
    key = domain_key(name, domain)
    deps: list[dg.AssetKey] = [landing_key(table) for table in TABLES[domain]]
    if domain != CONSENTED:
        deps.append(domain_key(name, CONSENTED))
    frames = FRAMES[domain]
    shown = domain_columns(domain, name)
    attributes: dict[str, Any] = {
        "partitions_def": partitions,
        "group_name": GROUP_DOMAINS,
        "description": _DESCRIPTIONS[domain].format(recipient=audience.recipient),
        "metadata": {
            **table_metadata(shown),
            "column_sources": lineage_table(shown),
            "runbook": runbook_value("data-rules"),
        },
    }

    def ahead(runtime: Runtime, day: dt.date, shard: int) -> DomainShard | None:
        return runtime.find_reference(_shard_reference(audience, domain, shard), day, DomainShard) if fan_out else None

    def build(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> Results:
        started = time.monotonic()
        with step(context, f"{name}/{domain}") as day:
            if not audience.is_due(day):
                idle_observation(context, key, audience.not_due(day))
                return
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            if domain == CONSENTED:
                reference = build_consented_portfolios(runtime.store, snapshot, audience)
            else:
                consented = runtime.load_reference(audience.reference(CONSENTED), day, DomainReference)
                reference = build_domain(
                    runtime.store,
                    snapshot,
                    audience,
                    domain,
                    consented,
                    code_version=runtime.settings.code_version,
                    ahead=partial(ahead, runtime, day),
                )
            runtime.save_reference(audience.reference(domain), day, reference)
            get_logger().info("built", rows=_rows(reference, frames), snapshot_id=reference.snapshot_id)
        seconds = since(started)
        metadata = _metadata(runtime, reference, frames)
        yield dg.MaterializeResult(metadata={**without_zeros(metadata), "seconds": seconds})

    if fan_out:
        return fanned_out_asset(key, deps, [_in_shards(audience, name, domain)], build, **attributes)

    # On a date that is not due nothing is materialized, and the downstream assets are skipped.
    asset: Callable[[Callable[..., Results]], dg.AssetsDefinition]
    asset = dg.asset(key=key, deps=deps, output_required=False, **attributes)
    return asset(build)


def _in_shards(audience: RecipientSchedule, name: str, domain: str) -> Stage:
    def shares(context: StepContext, runtime: Runtime) -> int:
        with step(context, f"{name}/{domain}") as day:
            if not audience.is_due(day):
                return 0
            shards = len(runtime.load_reference(LANDING, day, Snapshot).shards)
            return shards if shards > 1 else 0

    def work(context: StepContext, runtime: Runtime, shard: int) -> None:
        with step(context, f"{name}/{domain}") as day:
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            consented = runtime.load_reference(audience.reference(CONSENTED), day, DomainReference)
            if shard >= len(snapshot.shards):
                return  # another attempt has landed the date again, in fewer shards
            version = runtime.settings.code_version
            result = build_domain_shard(
                runtime.store, snapshot, audience, domain, consented, shard, code_version=version
            )
            runtime.save_reference(_shard_reference(audience, domain, shard), day, result)

    return Stage("shard", shares, work)


def _shard_reference(audience: RecipientSchedule, domain: str, shard: int) -> str:
    return f"{audience.reference(domain)}-shard-{shard:04d}"


def _rows(reference: DomainReference, frames: Sequence[Frame]) -> int:
    return sum(reference.frames[frame.name].rows for frame in frames)


def _metadata(runtime: Runtime, reference: DomainReference, frames: Sequence[Frame]) -> dict[str, Any]:
    first = reference.frames[frames[0].name]
    figures = {name: value for name, value in reference.measures.items() if KIND not in name}
    return {
        "dagster/row_count": _rows(reference, frames),
        "dagster/uri": runtime.store.location(first.key),
        "bytes": sum(table.bytes for table in reference.frames.values()),
        "findings": reference.frames["findings"].rows,
        "snapshot": reference.snapshot_id,
        **numbers(figures),
        **_pictures(reference),
        **_previews(runtime, reference, frames[:-1]),
    }


def _pictures(reference: DomainReference) -> dict[str, Any]:
    # Figures by kind, largest first: one image instead of a plot over partitions for each kind.
    kinds: dict[str, list[tuple[str, Number]]] = {}
    for name, value in reference.measures.items():
        figure, parted, kind = name.partition(KIND)
        if parted:
            kinds.setdefault(figure, []).append((kind, value if isinstance(value, int) else Decimal(value)))
    pictures: dict[str, Any] = {}
    for figure, values in sorted(kinds.items()):
        title = f"{figure.replace('_', ' ')} by type, {reference.business_date.isoformat()}"
        ordered = sorted(values, key=lambda entry: (-abs(Decimal(entry[1])), entry[0]))
        pictures[f"{figure}_by_type"] = picture(bars(title, ordered), title)
    return pictures


def _previews(runtime: Runtime, reference: DomainReference, frames: Sequence[Frame]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for frame in frames:
        name = "preview" if frame is frames[0] else f"preview_of_{frame.name}"
        personal = {column.name for column in frame.columns if column.personal}
        shown |= previews(runtime, name, reference.frames[frame.name], personal)
    return shown
