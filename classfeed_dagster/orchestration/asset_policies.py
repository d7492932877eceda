"""Metadata common to a whole layer, applied once over all asset specs: owners, kinds, tags, code links, code version.

An asset's own module declares its inputs, description and columns. The rest follows from its group.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

import classfeed_dagster
from classfeed_dagster.bigsite.snapshot import snapshot_for
from classfeed_dagster.domains.build import CONSENTED, build_consented_portfolios, build_domain
from classfeed_dagster.feed_run.feed_run import FeedRun
from classfeed_dagster.feed_run.post_delivery import PostDelivery
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.asset_keys import (
    DATA_TEAM,
    DATA_TEAM_RECONCILIATION,
    GROUP_DOMAINS,
    GROUP_LANDING,
    GROUP_OPERATIONS,
    GROUP_OWNER,
    GROUP_SIMULATION,
    GROUP_SOURCE,
    GROUP_WAREHOUSE,
    SCHEMA_ASSET,
    SOURCE_RECONCILIATION,
    SOURCE_TEAM,
    TEAM,
)
from classfeed_dagster.orchestration.column_metadata import PERSONAL
from classfeed_dagster.orchestration.metadata_values import code_links
from classfeed_dagster.warehouse.load import load_delivery

_Source = Callable[..., object]


@dataclass(frozen=True, slots=True)
class AssetPolicy:
    """Attributes of the assets of one layer.

    Attributes:
        owners: teams.
        kinds: technologies shown in the UI.
        tier: ``critical`` if its failure delays a delivery, otherwise ``supporting``.
        source_function: function whose code computes the asset; None for an external asset.
        packages: packages of this project whose code determines the asset's content.
    """

    owners: tuple[str, ...]
    kinds: frozenset[str]
    tier: str
    source_function: _Source | None = None
    packages: tuple[str, ...] = ()


_DOMAIN_CODE = ("bigsite", "domains")
_DOCUMENT_CODE = (*_DOMAIN_CODE, "documents", "delivery", "feed_run", "feeds")
_RECONCILIATION_CODE = ("reconciliation", "warehouse")


def apply_policies(definitions: dg.Definitions, feeds: Sequence[Feed]) -> dg.Definitions:
    """Return the definitions with every asset's owners, kinds, tags, code links and code version."""
    by_name = {feed.name: feed for feed in feeds}

    def applied(spec: dg.AssetSpec) -> dg.AssetSpec:
        policy = _policy(spec, by_name)
        links = {} if policy.source_function is None else code_links(policy.source_function)
        return spec.replace_attributes(
            description=_plain_first(spec.description),
            owners=list(policy.owners),
            kinds=set(policy.kinds),
            tags={**spec.tags, **_tags(spec, policy)},
            metadata={**spec.metadata, **links},
            code_version=_version(policy.packages) if policy.packages else None,
        )

    with preview_features():
        return definitions.map_resolved_asset_specs(func=applied)


def _plain_first(description: str | None) -> str | None:
    # Lists show the first paragraph as it is, without rendering its Markdown.
    if description is None:
        return None
    first, blank, rest = description.partition("\n\n")
    return first.replace("**", "").replace("`", "") + blank + rest


@contextmanager
def preview_features() -> Iterator[None]:
    """Suppress the warning for features that Dagster 1.13.27 marks as a preview. All such uses are in such blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


def _policy(spec: dg.AssetSpec, feeds: Mapping[str, Feed]) -> AssetPolicy:
    group, name = spec.group_name or "", spec.key.path[-1]
    feed = feeds.get(group) or feeds.get(spec.key.path[1] if group == GROUP_WAREHOUSE else "")
    owners = (TEAM,) if feed is None else tuple(feed.owners)
    if spec.key == SCHEMA_ASSET:
        return AssetPolicy((TEAM,), frozenset({"postgres", "json"}), "critical", None, ("source_contract",))
    if spec.key.path[0] == "data_team":
        return AssetPolicy((DATA_TEAM,), frozenset({"snowflake", "table"}), "supporting")
    if spec.key.path[0] == "legacy":
        return AssetPolicy(owners, frozenset({"csv"}), "supporting")
    if spec.key.path[0] == "recipient":
        return AssetPolicy(owners, frozenset({"file"}), "supporting")
    if group in feeds:
        return _feed_policy(feeds[group], name, owners)
    simulated = {"postgres", "python"} if name == "customers" else {"postgres"}
    domain_function = build_consented_portfolios if name == CONSENTED else build_domain
    return {
        GROUP_SOURCE: AssetPolicy((SOURCE_TEAM,), frozenset({"postgres"}), "critical"),
        GROUP_LANDING: AssetPolicy(
            owners, frozenset({"postgres", "parquet", "s3"}), "critical", snapshot_for, ("bigsite",)
        ),
        GROUP_DOMAINS: AssetPolicy(
            owners, frozenset({"python", "polars", "parquet"}), "critical", domain_function, _DOMAIN_CODE
        ),
        GROUP_WAREHOUSE: AssetPolicy(
            owners, frozenset({"snowflake", "table"}), "supporting", load_delivery, ("warehouse",)
        ),
        GROUP_OPERATIONS: AssetPolicy(owners, frozenset({"json"}), "supporting"),
        GROUP_OWNER: AssetPolicy(owners, frozenset({"json"}), "supporting"),
        GROUP_SIMULATION: AssetPolicy(owners, frozenset(simulated), "supporting"),
    }[group]


def _feed_policy(feed: Feed, name: str, owners: tuple[str, ...]) -> AssetPolicy:
    kinds: Mapping[str, set[str]] = {
        "quarantine": {"json"},
        "document": {feed.format.extension.lstrip("."), "s3"},
        "delivery": {"s3"},
        "transmission": {"json"},
        "acknowledgement": {"json", "snowflake"},
        "parity": {"json"},
        SOURCE_RECONCILIATION: {"postgres", "parquet"},
        DATA_TEAM_RECONCILIATION: {"snowflake"},
    }
    functions: Mapping[str, _Source] = {
        SOURCE_RECONCILIATION: PostDelivery.source,
        DATA_TEAM_RECONCILIATION: PostDelivery.data_team,
    }
    critical = name in ("quarantine", "document", "delivery", "transmission")
    packages = {"parity": ("parity",), "transmission": ("transmission",), "acknowledgement": ("acknowledgements",)}
    code = packages.get(name, _DOCUMENT_CODE if critical else _RECONCILIATION_CODE)
    tier = "critical" if critical else "supporting"
    return AssetPolicy(owners, frozenset(kinds[name]), tier, functions.get(name, FeedRun), code)


def _tags(spec: dg.AssetSpec, policy: AssetPolicy) -> dict[str, str]:
    schema = spec.metadata.get("dagster/column_schema")
    columns = schema.columns if isinstance(schema, dg.TableSchema) else ()
    personal = any(PERSONAL in column.tags for column in columns)
    return {
        "classfeed/tier": policy.tier,
        "classfeed/domain": spec.key.path[-1] if spec.group_name == GROUP_DOMAINS else spec.group_name or "",
        "classfeed/personal_data": "yes" if personal else "no",
    }


@functools.cache
def _version(packages: tuple[str, ...]) -> str:
    # Changes exactly when code that determines the content changes, not with every deployment.
    root = Path(classfeed_dagster.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
