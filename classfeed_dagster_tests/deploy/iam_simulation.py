"""A small evaluator of IAM policies, for the table of what roles may and may not do.

Denied unless allowed; an explicit Deny wins. Knows the condition operators that our policies use and refuses others, so
that no condition is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Context = Mapping[str, str]


class UnknownConditionError(ValueError):
    """A policy uses a condition operator that the evaluator doesn't know, so nothing could be said of it."""


def allowed(
    statements: Iterable[Mapping[str, Any]], action: str, resource: str, context: Context | None = None
) -> bool:
    """Return True if the statements allow ``action`` on ``resource`` (ARN) in ``context`` (condition keys and values)."""
    applying = [statement["Effect"] for statement in statements if _applies(statement, action, resource, context or {})]
    return "Allow" in applying and "Deny" not in applying


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Context) -> bool:
    if not any(_like(pattern.lower(), action.lower()) for pattern in _list(statement["Action"])):
        return False
    if "NotResource" in statement:
        if any(_like(pattern, resource) for pattern in _list(statement["NotResource"])):
            return False
    elif not any(_like(pattern, resource) for pattern in _list(statement["Resource"])):
        return False
    conditions = statement.get("Condition", {})
    return all(
        _holds(operator, context.get(key), _list(values))
        for operator, keys in conditions.items()
        for key, values in keys.items()
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if operator == "Null":
        return (value is None) == (wanted == ["true"])
    if value is None:
        return operator.endswith("IfExists")
    operator = operator.removesuffix("IfExists")
    if operator in ("StringEquals", "ForAnyValue:StringEquals", "Bool"):
        return value in wanted
    if operator in ("StringLike", "ArnLike", "ArnEquals"):
        return any(_like(pattern, value) for pattern in wanted)
    raise UnknownConditionError(
        f"the condition operator {operator!r} is not evaluated here: teach _holds in {__name__} what it means, with a "
        "case in test_least_privilege.py that it allows and one that it denies"
    )


def _like(pattern: str, value: str) -> bool:
    parts = re.split(r"([*?])", pattern)
    expression = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
