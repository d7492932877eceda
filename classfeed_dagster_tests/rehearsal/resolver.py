"""Resolve the references of an environment's CloudFormation templates. What cannot be resolved is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from classfeed_dagster_tests.fixtures.templates import TEMPLATES

PARTS = ("access", "foundation", "application", "monitoring")
# Parts of an environment with Celery workers.
OPTIONAL_PARTS = ("broker", "workers")
_SUBSTITUTION = re.compile(r"\$\{([^}!]+)\}")


class UnresolvableError(Exception):
    """A reference in a template names nothing that the templates or the environment's parts provide."""


class Stacks:
    """Templates of one environment as one resolvable whole.

    Attributes:
        physical: what ``Ref`` and ``Fn::GetAtt`` of a resource give, by (part, logical id, attribute); attribute
            ``Ref`` for the resource itself. The rehearsal fills it while it creates the parts.
        parameters: values of the templates' parameters.
    """

    def __init__(self, env: str, parameters: Mapping[str, str]) -> None:
        self.env = env
        self.templates: dict[str, dict[str, Any]] = {
            part: json.loads((TEMPLATES / f"classfeed-{env}-{part}.json").read_text())
            for part in (*PARTS, *OPTIONAL_PARTS)
            if part in PARTS or (TEMPLATES / f"classfeed-{env}-{part}.json").exists()
        }
        self.parameters = dict(parameters)
        self.physical: dict[tuple[str, str, str], str] = {}

    def resources(self, part: str, kind: str) -> dict[str, dict[str, Any]]:
        """Return the properties of a part's resources of one type, by logical id."""
        result = self.templates.get(part, {"Resources": {}})["Resources"].items()
        return {name: break_.get("Properties", {}) for name, break_ in result if break_["Type"] == kind}

    def provide(self, part: str, logical: str, attribute: str, value: str) -> None:
        """Record what a reference to a created resource gives."""
        self.physical[part, logical, attribute] = value

    def resolve(self, part: str, node: Any) -> Any:
        """Return ``node`` with every reference replaced. UnresolvableError if one names nothing."""
        if isinstance(node, list):
            return [self.resolve(part, child) for child in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            match name:
                case "Ref":
                    return self._reference(part, argument)
                case "Fn::GetAtt":
                    logical, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                    return self._physical(part, logical, attribute)
                case "Fn::ImportValue":
                    return self._import(self.resolve(part, argument))
                case "Fn::Join":
                    separator, parts = argument
                    return separator.join(str(item) for item in self.resolve(part, parts))
                case "Fn::Sub":
                    return self._substitute(part, argument)
                case _ if name.startswith("Fn::"):
                    raise UnresolvableError(f"{part}: {name} is not supported")
        return {key: self.resolve(part, value) for key, value in node.items()}

    def _reference(self, part: str, name: str) -> str:
        if name in self.parameters:
            return self.parameters[name]
        if name in self.templates[part].get("Parameters", {}):
            raise UnresolvableError(f"{part}: parameter {name} has no value")
        return self._physical(part, name, "Ref")

    def _physical(self, part: str, logical: str, attribute: str) -> str:
        try:
            return self.physical[part, logical, attribute]
        except KeyError:
            raise UnresolvableError(f"{part}: nothing provides {attribute} of {logical}") from None

    def _import(self, name: str) -> Any:
        for part, template in self.templates.items():
            for output in template.get("Outputs", {}).values():
                if self.resolve(part, output.get("Export", {}).get("Name")) == name:
                    return self.resolve(part, output["Value"])
        raise UnresolvableError(f"no stack exports {name}")

    def _substitute(self, part: str, argument: Any) -> str:
        text, extra = argument if isinstance(argument, list) else (argument, {})

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in extra:
                return str(self.resolve(part, extra[name]))
            if "." in name:
                return self._physical(part, *name.split(".", 1))
            return self._reference(part, name)

        return _SUBSTITUTION.sub(value, text)
