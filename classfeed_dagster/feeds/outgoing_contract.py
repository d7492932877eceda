"""A feed's contract with its recipient, as an Open Data Contract Standard document and as a page.

Derived from the declaration: the schema from the format's fields, the service level from the hours, the owners. The
version is declared with the feed. A contract that changes without the version of its change policy is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import yaml
from open_data_contract_standard.model import (
    CustomProperty,
    Description,
    OpenDataContractStandard,
    SchemaObject,
    SchemaProperty,
    ServiceLevelAgreementProperty,
    Team,
    TeamMember,
)

from classfeed_dagster.documents.lineage import filling, is_personal
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds.feed import Feed

CHANGE_POLICY = (
    "A field that is removed, renamed, retyped or no longer always present raises the major version, after 90 days' "
    "notice. A further field raises the minor version, after 14 days' notice. Other changes raise the patch version."
)


class ContractVersionError(ConfigurationError):
    """Error: a feed's contract changed without the version that its change policy demands."""


def contract_of(feed: Feed) -> OpenDataContractStandard:
    """Return the contract of a feed."""
    fields = [
        SchemaProperty(
            name=column.name,
            logicalType=_LOGICAL.get(column.kind, "string"),
            physicalType=column.kind,
            required=not column.optional,
            classification="personal" if is_personal(column) else "restricted",
            description="; ".join(dict.fromkeys(source.description for _, source in filling(column))) or None,
        )
        for column in feed.format.columns
    ]
    level = feed.service_level
    return OpenDataContractStandard(
        version=feed.contract_version,
        kind="DataContract",
        apiVersion="v3.1.0",
        id=f"classfeed:{feed.name}",
        name=feed.title,
        status="active" if feed.mode.value == "live" else "draft",
        domain=feed.recipient,
        description=Description(
            purpose=f"{feed.title}, for {feed.recipient}.",
            limitations="Portfolios with active consent only. A portfolio that breaks a rule is held back.",
            usage=CHANGE_POLICY,
        ),
        schema=[SchemaObject(name=feed.format.name, physicalType=feed.format.extension.lstrip("."), properties=fields)],
        team=Team(name="owners", members=[TeamMember(username=owner, role="owner") for owner in feed.owners]),
        slaProperties=[
            ServiceLevelAgreementProperty(property="frequency", value=feed.cadence.value),
            ServiceLevelAgreementProperty(
                property="timeOfAvailability",
                value=f"{level.target:%H:%M}",
                description="target, next morning",
            ),
            ServiceLevelAgreementProperty(
                property="deadline", value=f"{level.deadline:%H:%M}", description="Sydney time, next business morning"
            ),
        ],
        customProperties=[
            CustomProperty(property="recipient", value=feed.recipient),
            CustomProperty(property="filePerPage", value=feed.format.page_rule.value),
        ],
    )


_LOGICAL = {"MONEY": "number", "DECIMAL6": "number", "UNITS": "number", "DATE": "date", "INSTANT": "timestamp"}


def to_yaml(contract: OpenDataContractStandard) -> str:
    """Return a contract as YAML."""
    content = contract.model_dump(by_alias=True, exclude_none=True, mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def recipient_page(contract: OpenDataContractStandard) -> Iterator[str]:
    """Yield the lines of the recipient's page."""
    about = contract.description or Description()
    members = contract.team.members if isinstance(contract.team, Team) else ()
    owners = ", ".join(str(member.username) for member in members or ())
    yield f"# {contract.name}"
    yield ""
    yield f"Contract `{contract.id}`, version {contract.version}, {contract.status}. Owner: {owners}."
    yield ""
    yield f"{about.limitations}"
    yield ""
    level = {str(one.property): one.value for one in contract.slaProperties or ()}
    yield (
        f"{str(level['frequency']).capitalize()}, by {level['timeOfAvailability']} and at the latest by "
        f"{level['deadline']} Sydney time on the next business morning."
    )
    yield ""
    yield f"{about.usage}"
    yield ""
    yield "A question mark: the field may be absent."
    for record, fields in groupby(sorted_fields(contract), lambda entry: entry[0].rpartition("/")[0]):
        yield ""
        if record:
            yield f"## {record}"
            yield ""
        for name, field in fields:
            optional = "" if field.required else "?"
            yield f"- `{name.rpartition('/')[2]}` {field.physicalType}{optional}: {field.description or ''}"


def sorted_fields(contract: OpenDataContractStandard) -> list[tuple[str, SchemaProperty]]:
    """Return the fields by name, in document order."""
    tables = contract.schema_ or ()
    return [(str(field.name), field) for table in tables for field in table.properties or ()]


def require_version(before: OpenDataContractStandard, after: OpenDataContractStandard) -> None:
    """Raise ContractVersionError if ``after`` changes ``before`` without the version of the change policy."""
    old, new = dict(sorted_fields(before)), dict(sorted_fields(after))
    broken = sorted(
        name
        for name, field in old.items()
        if name not in new
        or new[name].physicalType != field.physicalType
        or (field.required and not new[name].required)
    )
    added = sorted(new.keys() - old.keys())
    was, now = _numbers(before), _numbers(after)
    if broken and now[0] <= was[0]:
        raise ContractVersionError(f"{after.id}: {', '.join(broken)} changed or removed: raise the major version")
    if added and now[:2] <= was[:2]:
        raise ContractVersionError(f"{after.id}: {', '.join(added)} added: raise the minor version")
    if now < was:
        raise ContractVersionError(f"{after.id}: version {after.version} is below {before.version}")


def _numbers(contract: OpenDataContractStandard) -> tuple[int, ...]:
    return tuple(int(part) for part in str(contract.version).split("."))
