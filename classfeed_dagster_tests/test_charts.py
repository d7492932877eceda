"""Pictures: well-formed SVG whose figures are exact and whose bars keep the proportion."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest
from lxml import etree

from classfeed_dagster.charts import bars, columns, data_uri

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in etree.fromstring(svg.encode()).iter(f"{SVG}text")]


def sizes(svg: str, side: str) -> list[int]:
    drawn = [
        element for element in etree.fromstring(svg.encode()).iter(f"{SVG}rect") if element.get("fill") != "#ffffff"
    ]
    return [int(element.attrib[side]) for element in drawn]


def test_bars_name_each_value_exactly_and_in_proportion() -> None:
    svg = bars(
        "market <value>", [("ORDINARY & more", Decimal("1234567.89")), ("ETF", Decimal("-617283.945")), ("LIC", 0)]
    )
    assert texts(svg) == ["market <value>", "ORDINARY & more", "1,234,567.89", "ETF", "-617,283.945", "LIC", "0"]
    assert sizes(svg, "width") == [300, 150, 1]


def test_columns_over_dates_label_the_ends_and_the_largest() -> None:
    svg = columns("held back", [("2026-03-02", 0), ("2026-03-03", 4), ("2026-03-04", 2)])
    assert texts(svg) == ["held back, highest 4", "2026-03-02", "2026-03-04"]
    assert sizes(svg, "height") == [0, 110, 55]


@pytest.mark.parametrize(
    ("values", "labels"), [([], ["x, highest 0"]), ([("2026-03-02", 0)], ["x, highest 0", "2026-03-02"])]
)
def test_chart_without_values_is_empty(values: list[tuple[str, int]], labels: list[str]) -> None:
    assert texts(columns("x", values)) == labels
    assert texts(bars("x", [])) == ["x"]


def test_chart_is_embedded_in_markdown() -> None:
    svg = bars("x", [("a", 1)])
    kind, _, content = data_uri(svg).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == svg
