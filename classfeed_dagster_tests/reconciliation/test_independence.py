"""Reconciliation proves the exporter right only while it shares nothing with it: an import rule, enforced here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import classfeed_dagster
from classfeed_dagster.reconciliation import records

ROOM = Path(classfeed_dagster.__file__).parent / "reconciliation"
EXPORTER = (
    "classfeed_dagster.bigsite",
    "classfeed_dagster.domains",
    "classfeed_dagster.documents",
    "classfeed_dagster.delivery",
)
# What proves the daily delivery. The comparison with the retired applications (parity*, legacy_files) is another job.
JUDGE = (
    "asking", "compare", "data_team", "delivered", "expected_sql", "explain", "figures", "judging", "landing", "metrics",
    "movements_sql", "page", "records", "report", "result", "rules", "sides", "source",
)  # fmt: skip
# Of the warehouse only what keeps breaks: its load uses the exporter's reader.
KEEPING = (
    "classfeed_dagster.warehouse.records",
    "classfeed_dagster.warehouse.breaks",
    "classfeed_dagster.warehouse.database",
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def reachable(module: str, seen: set[str]) -> set[str]:
    """Every module of the project that a module imports, directly or not."""
    path = Path(classfeed_dagster.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if module in seen or not path.is_file():
        return seen
    seen.add(module)
    for name in imports(path):
        if name.startswith("classfeed_dagster."):
            reachable(name, seen)
    return seen


@pytest.mark.parametrize("name", JUDGE)
def test_the_judge_reaches_nothing_of_the_exporter(name: str) -> None:
    reached = reachable(f"classfeed_dagster.reconciliation.{name}", set())
    assert f"classfeed_dagster.reconciliation.{name}" in reached
    shared = {one for one in reached if one.startswith(EXPORTER)}
    assert not shared
    assert {one for one in reached if one.startswith("classfeed_dagster.warehouse.")} <= set(KEEPING)


def test_the_schema_that_the_judge_reads_is_the_recipients() -> None:
    """Every element of the contract's five record types, and no other, under its own name and in its own type."""
    from lxml import etree

    xs = "{http://www.w3.org/2001/XMLSchema}"
    schema = etree.parse(ROOM.parent / "documents" / "epi_data_response.xsd")
    types = {"Account": records.ACCOUNTS, "AccountBalance": records.BALANCES, "InvestmentHolding": records.HOLDINGS,
             "MovementTransaction": records.MOVEMENTS}  # fmt: skip
    kinds = {"Money": "MONEY", "CalendarDate": "DATE", "Instant": "INSTANT"}
    for name, kind in types.items():
        complex_type = schema.find(f"{xs}complexType[@name='{name}']")
        declared = {
            element.get("name"): element.get("type") for element in complex_type.iter(f"{xs}element")
            if element.get("name") != "CashAccount" and not any(up.get("name") == "CashAccount" for up in element.iterancestors())
        } | {f"@{attribute.get('name')}": attribute.get("type") for attribute in complex_type.iter(f"{xs}attribute")}  # fmt: skip
        ours = {element: field.kind.name for element, field in kind.columns}
        assert ours.keys() == declared.keys()
        for element, found in ours.items():
            wanted = kinds.get(declared[element] or "", "TEXT")
            assert found == wanted or (declared[element] == "Decimal6" and found in ("UNITS", "RATE")), element
    cash = schema.find(f".//{xs}element[@name='CashAccount']")
    inner = {element.get("name") for element in cash.iter(f"{xs}element")} - {"CashAccount"}
    assert inner | {"PortfolioNumber"} == {element for element, _ in records.CASH_ACCOUNTS.columns}
