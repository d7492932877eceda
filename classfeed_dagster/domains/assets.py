"""The domains in Dagster: consented portfolios and the four export domains of an audience."""

# No postponed annotations here: Dagster reads the decorated functions' annotations as objects.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.domains.audience import Audience, Cadence
from classfeed_dagster.domains.columns import Frame
from classfeed_dagster.domains.run import (
    CONSENTED,
    DOMAINS,
    FRAMES,
    TABLES,
    DomainReference,
    build_consented_portfolios,
    build_domain,
)
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.seam import (
    GROUP_DOMAINS,
    LANDING,
    TEAM,
    domain_key,
    idle_observation,
    landing_key,
    numbers,
    schema_metadata,
    step,
)

_DESCRIPTIONS: Mapping[str, str] = {
    CONSENTED: "Who shares data with {recipient} on the business date: new, current or removed since the date before. "
    "Worked out once; everything after uses this answer.",
    "account_details": "The account and cash accounts of each consented portfolio, as {recipient} is to see them.",
    "account_balances": "Each cash account's ledger and available balance at the business date, from bigsite's end "
    "of day.",
    "investment_holdings": "Holdings at the business date, valued at the last close, with codes as on that date.",
    "movement_transactions": "The ledger rows of the date's window for current portfolios; for new ones the whole "
    "shared history, and what stood before it as opening records.",
}


def audience_names(audiences: Iterable[Audience]) -> dict[str, str]:
    """A short name for each audience, by audience key: ``class``, ``bgl_weekly``; with the first date if ambiguous."""
    listed = list(audiences)
    short = {
        audience.key: audience.recipient.lower() + ("" if audience.cadence is Cadence.DAILY else f"_{audience.cadence}")
        for audience in listed
    }
    names = list(short.values())
    return {
        audience.key: short[audience.key]
        if names.count(short[audience.key]) == 1
        else f"{short[audience.key]}_{audience.first_business_date:%Y%m%d}"
        for audience in listed
    }


def domain_assets(audience: Audience, name: str, partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetsDefinition]:
    """The five assets of an audience called ``name``."""
    return [_domain_asset(audience, name, domain, partitions) for domain in DOMAINS]


def _domain_asset(
    audience: Audience, name: str, domain: str, partitions: dg.PartitionsDefinition[str]
) -> dg.AssetsDefinition:
    deps: list[dg.AssetKey] = [landing_key(table) for table in TABLES[domain]]
    if domain != CONSENTED:
        deps.append(domain_key(name, CONSENTED))
    frames = FRAMES[domain]

    @dg.asset(
        key=domain_key(name, domain),
        deps=deps,
        partitions_def=partitions,
        group_name=GROUP_DOMAINS,
        kinds={"polars", "parquet"},
        owners=[TEAM],
        description=_DESCRIPTIONS[domain].format(recipient=audience.recipient),
        metadata=schema_metadata(frames),
        output_required=False,  # no data on a date that the audience is not due on; what follows is skipped
    )
    def build(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with step(context, f"{name}/{domain}") as day:
            if not audience.is_due(day):
                idle_observation(context, context.asset_key, audience.not_due(day))
                return
            snapshot = runtime.load_reference(LANDING, day, Snapshot)
            if domain == CONSENTED:
                reference = build_consented_portfolios(runtime.store, snapshot, audience)
            else:
                consented = runtime.load_reference(audience.reference(CONSENTED), day, DomainReference)
                reference = build_domain(runtime.store, snapshot, audience, domain, consented)
            runtime.save_reference(audience.reference(domain), day, reference)
            get_logger().info("built", rows=_rows(reference, frames), snapshot_id=reference.snapshot_id)
        yield dg.MaterializeResult(metadata=_metadata(runtime, reference, frames))

    return build


def _rows(reference: DomainReference, frames: Sequence[Frame]) -> int:
    return sum(reference.frames[frame.name].rows for frame in frames)


def _metadata(runtime: Runtime, reference: DomainReference, frames: Sequence[Frame]) -> dict[str, Any]:
    first = reference.frames[frames[0].name]
    return {
        "dagster/row_count": _rows(reference, frames),
        "dagster/uri": runtime.store.location(first.key),
        "bytes": sum(table.bytes for table in reference.frames.values()),
        "findings": reference.frames["findings"].rows,
        "snapshot": reference.snapshot_id,
        **numbers(reference.measures),
    }
