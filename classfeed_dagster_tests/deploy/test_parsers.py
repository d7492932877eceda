"""Parsers of foreign input are configured against attacks: checked over the source, not a list of files.

What hostile documents do to the readers that exist is tried in ``torture/hostile.py``, with forty kinds of them and
thousands of random ones.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator

import pytest

from classfeed_dagster_tests.fixtures.templates import ROOT

CONSTRUCTORS = {"XMLParser", "XMLPullParser", "iterparse"}
WITH_A_PARSER = {"parse", "fromstring", "XML", "fromstringlist"}
# Parsers of the standard library that expand entities, and loaders that make objects of what they read.
FORBIDDEN = {"xml.dom", "xml.sax", "xml.etree", "xml.parsers", "lxml.html", "lxml.objectify", "pickle", "marshal", "shelve",
             "tarfile", "plistlib", "dill", "joblib", "cloudpickle"}  # fmt: skip
SOURCES = sorted(path for folder in ("classfeed_dagster", "deploy") for path in (ROOT / folder).rglob("*.py"))


def faults(source: str) -> Iterator[str]:
    """Return the unsafe calls, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = {f"{module}.{item.name}" if module else item.name for item in node.names} | {module}
            if any(name == bad or name.startswith(f"{bad}.") for name in names for bad in FORBIDDEN):
                yield f"{node.lineno}: imports {', '.join(sorted(names - {''}))}"
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        options = {
            keyword.arg: keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)
        }
        if node.func.attr in CONSTRUCTORS and owner == "etree":
            if options.get("resolve_entities") is not False or options.get("no_network") is not True:
                yield f"{node.lineno}: {node.func.attr} expands entities or opens addresses"
            if {"huge_tree", "load_dtd", "dtd_validation", "attribute_defaults"} & {
                name for name, value in options.items() if value is not False
            }:
                yield f"{node.lineno}: {node.func.attr} gives up libxml2's limits or reads a DTD"
        if node.func.attr in WITH_A_PARSER and owner == "etree" and len(node.args) < 2 and "parser" not in options:
            yield f"{node.lineno}: etree.{node.func.attr} without a parser takes lxml's default, which expands entities"
        loader = any(isinstance(arg, ast.Attribute) and arg.attr.endswith("SafeLoader") for arg in node.args)
        if owner == "yaml" and node.func.attr in ("load", "load_all", "unsafe_load", "full_load") and not loader:
            yield f"{node.lineno}: yaml.{node.func.attr} makes objects: use safe_load"


def test_parsers_are_configured_against_attacks() -> None:
    assert [f"{path.relative_to(ROOT)}:{fault}" for path in SOURCES for fault in faults(path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "etree.fromstring(data)",
        "etree.XMLParser()",
        "etree.XMLParser(resolve_entities=False)",
        "etree.iterparse(file, resolve_entities=True, no_network=True)",
        "etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)",
        "import xml.etree.ElementTree as ET",
        "from xml.dom import minidom",
        "import pickle",
        "yaml.load(text)",
    ],
)
def test_parser_walk_finds_planted_calls(line: str) -> None:
    assert list(faults(line))


def test_parser_search_finds_parsers_and_linter_rules_are_on() -> None:
    text = "".join(path.read_text() for path in SOURCES)
    assert text.count("etree.XMLParser(") + text.count("etree.iterparse(") >= 3
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]  # flake8-bandit: unsafe loaders, shells, temporary files, hard-coded secrets
    assert not [rule for rule in lint["ignore"] if rule.startswith("S")]
    assert all("classfeed_dagster/" not in pattern for pattern in lint["per-file-ignores"])
