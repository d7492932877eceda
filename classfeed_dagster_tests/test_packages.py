"""The order of the packages: docs/architecture.md shows what the import contracts in pyproject.toml enforce."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from importlinter import cli as import_linter

import classfeed_dagster

PACKAGE = Path(classfeed_dagster.__file__).parent
ROOT = PACKAGE.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [tuple(layer.split(" | ")) for contract in CONTRACTS for layer in contract.get("layers", ())]
# What may import Dagster: orchestration and the entry point, and lazily the commands and the local services.
MAY_IMPORT_DAGSTER = {"orchestration", "definitions", "cli", "local"}


def names() -> set[str]:
    paths = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in paths} - {"__init__"}


def diagram() -> list[tuple[str, ...]]:
    """Return the layers of the package diagram in docs/architecture.md, from the top."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page[page.index("## Packages") :]
    chart = re.search(r"```mermaid\n(.*?)```", section, re.DOTALL)
    assert chart is not None
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', chart[1]))
    arrows = re.findall(r"^ +(\w+)(?:\[.*?\])? --> (\w+)", chart[1], re.MULTILINE)
    assert all(below == above for (_, below), (above, _) in pairwise(arrows)), "the diagram is not one line"
    nodes = [above for above, _ in arrows] + [arrows[-1][1]]
    return [tuple(labels.get(node, node).split(", ")) for node in nodes]


def test_diagram_shows_the_layers_of_the_contract() -> None:
    assert diagram() == LAYERS


def test_contract_orders_every_package_and_module() -> None:
    assert {name for layer in LAYERS for name in layer} == names()


def test_contracts_have_no_exceptions() -> None:
    assert [contract for contract in CONTRACTS if "ignore_imports" in contract] == []


def test_dagster_contract_covers_every_other_package() -> None:
    (contract,) = [item for item in CONTRACTS if "dagster" in item.get("forbidden_modules", ())]
    sources = {module.removeprefix("classfeed_dagster.").removesuffix(".**") for module in contract["source_modules"]}
    assert sources == names() - MAY_IMPORT_DAGSTER


def test_contracts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert import_linter.lint_imports(no_cache=True) == import_linter.EXIT_STATUS_SUCCESS


def test_cli_import_leaves_dagster_out() -> None:
    program = "import sys, classfeed_dagster.cli.app; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path
