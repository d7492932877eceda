"""The Grafana dashboard, made from the declared metrics and objectives: ``python -m deploy.grafana.dashboard``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from classfeed_dagster.service_levels.metrics import (
    DIMENSIONS,
    METRICS,
    NAMESPACE,
    NUMBERS,
    PROJECT,
    STAGE,
    ServiceMetric,
)
from deploy.objectives import OBJECTIVES

TARGET = Path(__file__).with_name("classfeed.json")
_WIDTH, _HEIGHT = 12, 8
_UNITS = {"Count": "short", "Bytes": "bytes", "Seconds": "s", "Percent": "percent", "None": "short"}
_TICK, _DAY = "300", "86400"  # period of a metric in seconds: written every minute, or once a day


def panel(number: int, metric: ServiceMetric, place: int, top: int) -> dict[str, Any]:
    """Return one time series, titled by its question, with a line at an objective's threshold or the owner's target.

    ``place``: position among the panels below ``top``.
    """
    limits = [objective for objective in OBJECTIVES if objective.metric == metric.name]
    defaults: dict[str, Any] = {"unit": _UNITS[metric.unit]}
    if steps := _steps(metric):
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}},
        }
    described = [f"{NAMESPACE}: {metric.name}"]
    described += [f"Objective: {objective.objective}. docs/runbook.md#{objective.name}" for objective in limits]
    if metric.of_owner:
        described.append(f"The owner's numbers: {NUMBERS[metric.name].about}.")
    dimensions = {name: [f"${name}"] for name in DIMENSIONS}
    if not metric.by_feed:
        dimensions["feed"] = [PROJECT]
    if metric.by_stage:
        dimensions[STAGE] = ["*"]  # a line a stage
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": metric.question,
        "description": "\n".join(described),
        "datasource": {"type": "cloudwatch", "uid": "${datasource}"},
        "gridPos": {"x": place % 2 * _WIDTH, "y": top + place // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": "A",
                "namespace": NAMESPACE,
                "metricName": metric.name,
                "dimensions": dimensions,
                "statistic": "Sum" if metric.added_up else "Maximum",
                "period": _DAY if metric.of_owner else _TICK,
                "region": "ap-southeast-2",
                "matchExact": True,
                "metricEditorMode": 0,
                "metricQueryType": 0,
                "queryMode": "Metrics",
            }
        ],
    }


def _steps(metric: ServiceMetric) -> list[dict[str, Any]]:
    above = [objective.above for objective in OBJECTIVES if objective.metric == metric.name]
    number = NUMBERS.get(metric.name)
    if number is not None and number.target is not None:
        low, high = ("red", "green") if number.at_least else ("green", "red")
        return [{"color": low, "value": None}, {"color": high, "value": float(number.target)}]
    return [{"color": "green", "value": None}, *({"color": "red", "value": value} for value in above)] if above else []


def panels() -> list[dict[str, Any]]:
    """Return all panels: those of the feeds, then the row of the owner's numbers."""
    feeds = [metric for metric in METRICS.values() if not metric.of_owner]
    owners = [metric for metric in METRICS.values() if metric.of_owner]
    top = (len(feeds) + 1) // 2 * _HEIGHT
    row = {
        "id": len(METRICS) + 1, "type": "row", "title": "The owner's numbers", "collapsed": False, "panels": [],
        "gridPos": {"x": 0, "y": top, "w": 2 * _WIDTH, "h": 1},
    }  # fmt: skip
    return [
        *(panel(at, metric, at, 0) for at, metric in enumerate(feeds)),
        row,
        *(panel(len(feeds) + at, metric, at, top + 1) for at, metric in enumerate(owners)),
    ]


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
        "panels": panels(),
    }


def text() -> str:
    """Return the dashboard in its committed form."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
