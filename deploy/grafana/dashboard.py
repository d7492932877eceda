"""The Grafana dashboard, made from the declared metrics and objectives: ``python -m deploy.grafana.dashboard``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from classfeed_dagster.service_levels.metrics import DIMENSIONS, METRICS, NAMESPACE, STAGE, ServiceMetric
from classfeed_dagster.service_levels.objectives import OBJECTIVES

TARGET = Path(__file__).with_name("classfeed.json")
_WIDTH, _HEIGHT = 12, 8
_UNITS = {"Count": "short", "Bytes": "bytes", "Seconds": "s"}


def panel(number: int, metric: ServiceMetric) -> dict[str, Any]:
    """Return one time series, titled by its question, with a red line at an objective's threshold."""
    limits = [objective for objective in OBJECTIVES if objective.metric == metric.name]
    defaults: dict[str, Any] = {"unit": _UNITS[metric.unit]}
    if limits:
        steps = [
            {"color": "green", "value": None},
            *({"color": "red", "value": objective.above} for objective in limits),
        ]
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}},
        }
    described = [f"{NAMESPACE}: {metric.name}"]
    described += [f"Objective: {objective.objective}. docs/runbook.md#{objective.name}" for objective in limits]
    dimensions = {name: [f"${name}"] for name in DIMENSIONS}
    if metric.by_stage:
        dimensions[STAGE] = ["*"]  # a line a stage
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": metric.question,
        "description": "\n".join(described),
        "datasource": {"type": "cloudwatch", "uid": "${datasource}"},
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": "A",
                "namespace": NAMESPACE,
                "metricName": metric.name,
                "dimensions": dimensions,
                "statistic": "Sum" if metric.added_up else "Maximum",
                "period": "300",
                "region": "ap-southeast-2",
                "matchExact": True,
                "metricEditorMode": 0,
                "metricQueryType": 0,
                "queryMode": "Metrics",
            }
        ],
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    return {
        "uid": "classfeed",
        "title": "classfeed",
        "description": "Deliveries, punctuality, durations and held-back portfolios of every feed.",
        "schemaVersion": 39,
        "timezone": "Australia/Sydney",
        "time": {"from": "now-14d", "to": "now"},
        "refresh": "5m",
        "tags": ["classfeed"],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "cloudwatch"},
                *(
                    {
                        "name": name,
                        "type": "query",
                        "datasource": {"type": "cloudwatch", "uid": "${datasource}"},
                        "query": f"dimension_values(ap-southeast-2, {NAMESPACE}, documents, {name})",
                        "refresh": 1,
                    }
                    for name in DIMENSIONS
                ),
            ]
        },
        "panels": [panel(number, metric) for number, metric in enumerate(METRICS.values())],
    }


def text() -> str:
    """Return the dashboard in its committed form."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
