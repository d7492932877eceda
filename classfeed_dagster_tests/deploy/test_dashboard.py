"""The dashboard shows every declared metric once, under its question, with the line that an objective draws."""

from __future__ import annotations

import json
import re

from classfeed_dagster.service_levels.metrics import METRICS
from classfeed_dagster.service_levels.objectives import OBJECTIVES
from classfeed_dagster_tests.deploy.templates import ROOT
from deploy.grafana.dashboard import TARGET, text


def test_committed_dashboard_equals_the_generated() -> None:
    assert TARGET.read_text() == text(), "run python -m deploy.grafana.dashboard"


def test_metrics_have_panels_without_overlap() -> None:
    panels = json.loads(TARGET.read_text())["panels"]
    assert [panel["targets"][0]["metricName"] for panel in panels] == list(METRICS)
    assert [panel["title"] for panel in panels] == [metric.question for metric in METRICS.values()]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_dashboard_answers_the_feeds_questions() -> None:
    expected = {
        "documents", "portfolios", "rows", "bytes", "held_back", "breaks", "stage_seconds", "repair_attempts",
        "newest_delivery_age_seconds",
    }  # fmt: skip
    assert expected <= set(METRICS)


def test_objective_is_a_threshold_and_a_runbook_link() -> None:
    panels = {panel["targets"][0]["metricName"]: panel for panel in json.loads(TARGET.read_text())["panels"]}
    watched = {objective.metric for objective in OBJECTIVES}
    for name, panel in panels.items():
        assert ("thresholds" in panel["fieldConfig"]["defaults"]) is (name in watched)
    for objective in OBJECTIVES:
        panel = panels[objective.metric]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == objective.above
        assert f"docs/runbook.md#{objective.name}" in panel["description"]


def test_stages_are_separate_lines_and_gauges_are_not_summed() -> None:
    panels = {
        panel["targets"][0]["metricName"]: panel["targets"][0] for panel in json.loads(TARGET.read_text())["panels"]
    }
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
