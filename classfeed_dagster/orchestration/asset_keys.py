"""Asset keys, groups, owners and runbook links of every layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

import dagster as dg

from classfeed_dagster.orchestration.local_pages import RUNBOOK, docs_page
from classfeed_dagster.schedules import Cadence, RecipientSchedule

TEAM = "team:data-feeds"
SOURCE_TEAM = "team:bigsite"
DATA_TEAM = "team:data"

GROUP_SOURCE = "bigsite"
GROUP_LANDING = "landing"
GROUP_DOMAINS = "domains"
GROUP_WAREHOUSE = "warehouse"
GROUP_OPERATIONS = "operations"
GROUP_OWNER = "owner"
GROUP_SIMULATION = "simulation"
LANDING = "landing"
SCHEMA_ASSET = dg.AssetKey(["bigsite", "schema"])
SIMULATED_CUSTOMERS = dg.AssetKey(["simulation", "customers"])
SIMULATION_CLEANING = dg.AssetKey(["simulation", "cleaning"])
SIMULATED_RECIPIENTS = dg.AssetKey(["simulation", "recipients"])
SOURCE_RECONCILIATION: Final = "source_reconciliation"
DATA_TEAM_RECONCILIATION: Final = "data_team_reconciliation"
FeedAsset = Literal[
    "quarantine",
    "document",
    "delivery",
    "transmission",
    "acknowledgement",
    "parity",
    "source_reconciliation",
    "data_team_reconciliation",
]
FEED_ASSETS: frozenset[str] = frozenset(get_args(FeedAsset))


def source_key(table: str) -> dg.AssetKey:
    """Return the key of the external asset of one of bigsite's tables."""
    return dg.AssetKey(["bigsite", table])


def landing_key(table: str) -> dg.AssetKey:
    """Return the key of one landed table."""
    return dg.AssetKey([LANDING, table])


def domain_key(audience_name: str, domain: str) -> dg.AssetKey:
    """Return the key of one domain of an audience."""
    return dg.AssetKey([audience_name, domain])


def warehouse_key(feed: str, table: str) -> dg.AssetKey:
    """Return the key of one table of the star schema."""
    return dg.AssetKey(["warehouse", feed, table.lower()])


def feed_group(feed: str) -> str:
    """Return the group of a feed's own assets."""
    return feed


def runbook(name: str) -> str:
    """Return the runbook's section about a check, as the last paragraph of its description."""
    place = f"{RUNBOOK}#{name.replace('_', '-')}"
    link = docs_page(place)
    return f"\n\nRunbook: {place if link is None else f'[{place}]({link})'}"


def runbook_value(section: str) -> str | dg.UrlMetadataValue:
    """Return the runbook's section as metadata: a link, or its place if nothing serves it."""
    place = f"{RUNBOOK}#{section}"
    link = docs_page(place)
    return place if link is None else dg.MetadataValue.url(link)


def audience_names(audiences: Iterable[RecipientSchedule]) -> dict[str, str]:
    """Return a short name per audience key: ``class``, ``bgl_weekly``; an ambiguous one ends with the first date."""
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
