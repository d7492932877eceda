"""The dashboard shows every declared metric once, under its question, with the line that an objective draws."""

from __future__ import annotations

import json
import re

from classfeed_dagster.service_levels.metrics import METRICS, NUMBERS
from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy.grafana.dashboard import TARGET, text
from deploy.objectives import OBJECTIVES

ALL = json.loads(TARGET.read_text())["panels"]
PANELS = {panel["targets"][0]["metricName"]: panel for panel in ALL if panel["type"] != "row"}


def test_committed_dashboard_equals_the_generated() -> None:
    assert TARGET.read_text() == text(), "run python -m deploy.grafana.dashboard"


def test_metrics_have_panels_without_overlap() -> None:
    assert list(PANELS) == list(METRICS)
    assert [panel["title"] for panel in PANELS.values()] == [metric.question for metric in METRICS.values()]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in ALL
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in ALL}) == len(ALL)


def test_owners_row_has_targets_and_one_point_a_day() -> None:
    (row,) = (panel for panel in ALL if panel["type"] == "row")
    assert [panel["targets"][0]["metricName"] for panel in ALL[ALL.index(row) + 1 :]] == list(NUMBERS)
    for name, number in NUMBERS.items():
        target, defaults = PANELS[name]["targets"][0], PANELS[name]["fieldConfig"]["defaults"]
        assert target["period"] == "86400"
        assert target["dimensions"]["feed"] == (["$feed"] if METRICS[name].by_feed else ["project"])
        if number.target is None:
            assert "thresholds" not in defaults
        else:
            assert defaults["thresholds"]["steps"][-1] == {
                "color": "green" if number.at_least else "red",
                "value": float(number.target),
            }


def test_dashboard_answers_the_feeds_questions() -> None:
    expected = {
        "documents", "portfolios", "rows", "bytes", "held_back", "breaks", "stage_seconds", "repair_attempts",
        "newest_delivery_age_seconds",
    }  # fmt: skip
    assert expected <= set(METRICS)


def test_objective_is_a_threshold_and_a_runbook_link() -> None:
    watched = {objective.metric for objective in OBJECTIVES}
    for name in METRICS.keys() - NUMBERS.keys():
        assert ("thresholds" in PANELS[name]["fieldConfig"]["defaults"]) is (name in watched)
    for objective in OBJECTIVES:
        panel = PANELS[objective.metric]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == objective.above
        assert f"docs/runbook.md#{objective.name}" in panel["description"]


def test_stages_are_separate_lines_and_gauges_are_not_summed() -> None:
    panels = {name: panel["targets"][0] for name, panel in PANELS.items()}
    assert panels["stage_seconds"]["dimensions"]["stage"] == ["*"]
    assert "stage" not in panels["documents"]["dimensions"]
    assert panels["documents"]["statistic"] == "Sum"
    assert {panels[objective.metric]["statistic"] for objective in OBJECTIVES} == {"Maximum"}


def test_docs_list_the_service_levels() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()
    for item in OBJECTIVES:
        row = f"| [{item.name}](runbook.md#{item.name}) | {item.objective} | `{item.metric}` > {item.above} |"
        assert row in text, row
    rows = re.findall(r"^\| \[([\w-]+)\]\(runbook\.md#", text, re.MULTILINE)
    assert rows == [objective.name for objective in OBJECTIVES]
