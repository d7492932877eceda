"""The dashboard shows every declared metric once, under its question, and nothing else."""

from __future__ import annotations

import json

from classfeed_dagster.operations.metrics import METRICS
from deploy.grafana.dashboard import TARGET, text


def test_the_committed_dashboard_is_what_the_code_makes() -> None:
    assert TARGET.read_text() == text(), "run python -m deploy.grafana.dashboard"


def test_every_metric_has_a_panel_and_panels_do_not_overlap() -> None:
    panels = json.loads(TARGET.read_text())["panels"]
    assert [panel["targets"][0]["metricName"] for panel in panels] == list(METRICS)
    assert [panel["title"] for panel in panels] == [metric.question for metric in METRICS.values()]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
