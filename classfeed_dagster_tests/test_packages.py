"""The house's order: a room imports only from rooms above it, and never another room's seam to Dagster."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import classfeed_dagster

PACKAGE = Path(classfeed_dagster.__file__).parent
# From the top. The files beside the rooms come first; the command line and the definitions last.
ORDER = [
    "memory", "settings", "trading_days", "store", "logs", "charts", "runtime", "bigsite", "domains", "documents", "seam", "fan_out", "delivery",
    "warehouse", "reconciliation", "feeds", "operations", "simulation", "definitions", "cli",
]  # fmt: skip
SEAMS = {"assets", "checks", "sensors"}
# What the seam's shared part, and the runtime, must know of the rooms below them.
ALLOWED = {
    ("runtime", "bigsite"),
    ("domains", "seam"),
    ("domains", "fan_out"),
    ("bigsite", "seam"),
    ("bigsite", "domains"),
    ("feeds", "operations"),
}


def room(module: str) -> str:
    first = module.split(".")[1] if "." in module else module
    return "cli" if first.startswith("cli") else first


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("classfeed_dagster."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("classfeed_dagster."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_upwards(path: Path) -> None:
    here = ".".join(["classfeed_dagster", *path.relative_to(PACKAGE).with_suffix("").parts])
    mine = room(here)
    for module in imports(path):
        other = room(module)
        assert ORDER.index(other) <= ORDER.index(mine) or (mine, other) in ALLOWED, f"{here} imports {module}"
        if module.rpartition(".")[2] in SEAMS and mine != "definitions":
            assert other == mine, f"{here} imports another room's seam, {module}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_begins_by_saying_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path
