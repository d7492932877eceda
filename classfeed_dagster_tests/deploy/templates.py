"""The committed templates as the tests read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TEMPLATES = ROOT / "deploy" / "templates"
ENVIRONMENTS = ("dev", "stg", "prod")


@lru_cache
def template(name: str) -> dict[str, Any]:
    """Read one committed template, as ``prod-foundation`` or ``registry``."""
    loaded: dict[str, Any] = json.loads((TEMPLATES / f"classfeed-{name}.json").read_text())
    return loaded


def resources(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of a template's resources of a kind, by logical id."""
    result = template(name)["Resources"].items()
    return {key: value.get("Properties", {}) for key, value in result if value["Type"] == kind}


def only(name: str, kind: str, **having: Any) -> dict[str, Any]:
    """Return the only resource of a kind with the given properties."""
    matches = [
        resource
        for resource in resources(name, kind).values()
        if all(resource.get(key) == value for key, value in having.items())
    ]
    assert len(matches) == 1, f"{len(matches)} of {kind} with {having} in {name}"
    return matches[0]


def role(env: str, name: str) -> dict[str, Any]:
    """Return a role of an environment."""
    return only(f"{env}-access", "AWS::IAM::Role", RoleName=f"classfeed-{env}-{name}")


def statements(properties: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a role's own policies."""
    return [item for policy in properties["Policies"] for item in policy["PolicyDocument"]["Statement"]]


def every_role() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the roles of the templates with their names."""
    for path in sorted(TEMPLATES.glob("*.json")):
        for properties in resources(path.stem.removeprefix("classfeed-"), "AWS::IAM::Role").values():
            if "Policies" in properties and "RoleName" in properties:
                yield properties["RoleName"], properties
