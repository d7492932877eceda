"""The figures for CloudWatch are what its format asks for, and no others than the declared ones."""

from __future__ import annotations

import datetime as dt
import io
import json

import pytest

from classfeed_dagster.service_levels import metrics
from classfeed_dagster.service_levels.metrics import METRICS, UnknownMetricError, emit, line

AT = dt.datetime(2026, 3, 5, 20, 0, tzinfo=dt.UTC)


def test_line_is_in_the_embedded_metric_format() -> None:
    record = json.loads(
        line({"documents": 2, "bytes": 1234}, env="prod", feed="class_super", at=AT, correlation_id="c1")
    )
    (directive,) = record["_aws"]["CloudWatchMetrics"]
    assert record["_aws"]["Timestamp"] == 1772740800000
    assert directive == {
        "Namespace": "classfeed",
        "Dimensions": [["env", "feed"]],
        "Metrics": [{"Name": "bytes", "Unit": "Bytes"}, {"Name": "documents", "Unit": "Count"}],
    }
    for names in directive["Dimensions"]:
        assert all(isinstance(record[name], str) for name in names)
    assert all(isinstance(record[metric["Name"]], int) for metric in directive["Metrics"])
    assert record["correlation_id"] == "c1"


def test_metric_units_are_known_to_cloudwatch() -> None:
    assert {metric.unit for metric in METRICS.values()} <= {"Count", "Bytes", "Seconds", "Percent", "None"}
    assert {metric.unit for metric in METRICS.values()} == set(metrics._UCUM)


@pytest.mark.parametrize("values", [{}, {"portfolio_SW1": 1}, {"stage_seconds": 1}])
def test_undeclared_metric_or_one_without_its_stage_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(UnknownMetricError):
        line(values, env="dev", feed="class_super", at=AT)


def test_stage_is_a_dimension_of_its_seconds_only() -> None:
    record = json.loads(line({"stage_seconds": 1.5}, env="dev", feed="class_super", at=AT, stage="landing"))
    assert record["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["env", "feed", "stage"]]
    assert record["stage"] == "landing"
    with pytest.raises(UnknownMetricError):
        line({"documents": 1}, env="dev", feed="class_super", at=AT, stage="landing")


def test_emit_writes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    target = io.StringIO()
    emit({"held_back": 3}, env="dev", feed="class_super", at=AT, to=target)
    emit({"held_back": 3}, env="dev", feed="class_super", at=AT)
    assert target.getvalue() == capsys.readouterr().out
    assert target.getvalue().count("\n") == 1
    assert "correlation_id" not in target.getvalue()
