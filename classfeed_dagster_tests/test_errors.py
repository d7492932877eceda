"""The tree of the package's exceptions: drawn as it is, complete, and every class with a cause of its own."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import classfeed_dagster
from classfeed_dagster import errors
from classfeed_dagster.errors import CauseKind, ClassfeedError, ExitCode, exception_classes

PACKAGE = Path(classfeed_dagster.__file__).parent


def drawn() -> dict[str, str | None]:
    """Return the tree at the top of ``errors``: class and base class."""
    path: list[str] = []
    tree: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─\s]*)([A-Z]\w*Error)\b", line)
        if match is None or ("─" not in match[1] and match[1]):
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        tree[match[2]] = path[depth - 1] if depth else None
    return tree


def test_documented_tree_equals_the_classes() -> None:
    declared = {
        name: None if value is ClassfeedError else value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ClassfeedError)
    }
    assert drawn() == declared


def test_documented_kinds_and_exit_codes_equal_the_classes() -> None:
    words = {"configuration", "data", "not ready", "transient", "overtaken", "code"}
    for name, kind, code in re.findall(r"([A-Z]\w*Error) +([a-z ]+?) +(\d)\b", errors.__doc__ or ""):
        own = exception_classes()[name]
        assert kind in words
        assert (kind in own.kind.value, own.exit_code) == (True, ExitCode(int(code))), name


def test_package_exceptions_derive_from_the_tree() -> None:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(["classfeed_dagster", *path.relative_to(PACKAGE).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                value = getattr(importlib.import_module(module), node.name, None)
                if isinstance(value, type) and issubclass(value, BaseException):
                    assert issubclass(value, ClassfeedError), f"{module}.{node.name}"
                    names.append(node.name)
    assert len(names) == len(set(names)), "two exceptions share a name"
    assert set(names) - {"ClassfeedError"} == set(exception_classes())


def test_exception_has_a_cause() -> None:
    assert [name for name, own in exception_classes().items() if own.kind is CauseKind.UNKNOWN] == []


def test_listed_modules_declare_an_exception() -> None:
    assert {own.__module__.removeprefix("classfeed_dagster.") for own in exception_classes().values()} == set(
        errors.DECLARED_IN
    )


def test_second_class_of_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="both declare StoreError"):
        type("StoreError", (ClassfeedError,), {"__module__": "classfeed_dagster.runtime"})


def test_module_that_is_not_listed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"add the module to errors\.DECLARED_IN"):
        type("SomeError", (ClassfeedError,), {"__module__": "classfeed_dagster.schedules"})


def test_exit_codes_have_a_meaning() -> None:
    assert len({code.meaning for code in ExitCode}) == len(ExitCode)
