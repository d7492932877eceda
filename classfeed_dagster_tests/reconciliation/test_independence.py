"""The schema that reconciliation reads by. That it imports nothing of the exporter is a contract in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import classfeed_dagster
from classfeed_dagster.reconciliation import records

SCHEMA = Path(classfeed_dagster.__file__).parent / "documents" / "epi_data_response.xsd"


def test_judge_reads_the_recipients_schema() -> None:
    """Every element of the contract's five record types, and no other, under its own name and in its own type."""
    from lxml import etree

    xs = "{http://www.w3.org/2001/XMLSchema}"
    schema = etree.parse(SCHEMA)
    types = {"Account": records.ACCOUNTS, "AccountBalance": records.BALANCES, "InvestmentHolding": records.HOLDINGS,
             "MovementTransaction": records.MOVEMENTS}  # fmt: skip
    kinds = {"Money": "MONEY", "CalendarDate": "DATE", "Instant": "INSTANT"}
    for name, kind in types.items():
        complex_type = schema.find(f"{xs}complexType[@name='{name}']")
        assert complex_type is not None
        declared = {
            element.get("name"): element.get("type") for element in complex_type.iter(f"{xs}element")
            if element.get("name") != "CashAccount" and not any(up.get("name") == "CashAccount" for up in element.iterancestors())
        } | {f"@{attribute.get('name')}": attribute.get("type") for attribute in complex_type.iter(f"{xs}attribute")}  # fmt: skip
        ours = {element: field.kind.name for element, field in kind.columns}
        assert ours.keys() == declared.keys()
        for element, our in ours.items():
            expected = kinds.get(declared[element] or "", "TEXT")
            assert our == expected or (declared[element] == "Decimal6" and our in ("UNITS", "RATE")), element
    cash = schema.find(f".//{xs}element[@name='CashAccount']")
    assert cash is not None
    inner = {element.get("name") for element in cash.iter(f"{xs}element")} - {"CashAccount"}
    assert inner | {"PortfolioNumber"} == {element for element, _ in records.CASH_ACCOUNTS.columns}
