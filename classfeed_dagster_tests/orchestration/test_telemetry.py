"""OpenTelemetry: traces, metrics and log lines as a collector reads them; nothing without one."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import structlog

from classfeed_dagster import logs, telemetry
from classfeed_dagster.extras import MissingExtraError
from classfeed_dagster.orchestration.default_status import DefaultStatus
from classfeed_dagster.orchestration.sensors.traces import spans_of, tracing_sensors
from classfeed_dagster.settings import Settings
from classfeed_dagster.tags import CORRELATION_TAG, PARTITION_TAG
from classfeed_dagster_tests.fixtures.collector import Collector, running_collector

CORRELATION = "0123456789abcdef0123456789abcdef"
_PROCESS = """
import datetime as dt
from classfeed_dagster import logs, telemetry
from classfeed_dagster.service_levels.metrics import emit
from classfeed_dagster.settings import get_settings
import structlog

logs.configure("json")
telemetry.start(get_settings())
for tick in range(2):
    values = {"documents": 3, "held_back": 5 - tick, "date_seconds": 1.5}
    emit(values, env="dev", feed="class_super", at=dt.datetime.now(dt.UTC), correlation_id="c")
emit({"stage_seconds": 2.5}, env="dev", feed="class_super", at=dt.datetime.now(dt.UTC), stage="document")
log = logs.get_logger().bind(correlation_id="%s", run_id="r")
log.info("landed", rows=10, outcome="DELIVERED", tax_file_number="123 456 782")
"""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    before = structlog.get_config()
    monkeypatch.setattr(telemetry, "_started", [])
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector
        telemetry.stop()
    structlog.configure(**before)


def _process(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)


@dg.op
def works() -> None: ...


@dg.op
def fails() -> None:
    raise RuntimeError("the reason names nobody")


@dg.job(tags={CORRELATION_TAG: CORRELATION, PARTITION_TAG: "2026-03-02"})
def two_steps() -> None:
    works()
    fails()


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> Any:
    (sensor,) = tracing_sensors(Settings(), DefaultStatus(running=True))
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


def test_telemetry_without_a_collector_imports_and_defines_nothing() -> None:
    code = "import sys, classfeed_dagster.definitions as d; names = {one.name for one in d.defs.sensors}\n"
    process = _process(
        f"{code}print('traces' in names, [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert process.stdout.strip() == "False []"


def test_collector_named_without_the_extra_names_it(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'classfeed-dagster\[opentelemetry\]'"):
        telemetry.start(Settings())


def test_metrics_and_lines_are_sent_when_the_process_ends(collector: Collector) -> None:
    process = _process(_PROCESS % CORRELATION)
    assert process.stdout.count('"CloudWatchMetrics"') == 3
    assert collector.metrics == {
        ("classfeed.documents", "dev,class_super"): 6,  # counted
        ("classfeed.held_back", "dev,class_super"): 4,  # the last state
        ("classfeed.date_seconds", "dev,class_super"): 1.5,
        ("classfeed.stage_seconds", "dev,class_super,document"): 2.5,
    }
    (line,) = collector.lines
    assert line == {
        "body": "landed", "level": "info", "trace": CORRELATION, "span": telemetry.span_id("r"), "correlation_id": CORRELATION,
        "run_id": "r", "rows": "10", "outcome": "DELIVERED", "dropped_fields": "['tax_file_number']",
    }  # fmt: skip


def test_stop_sends_what_remains_and_ends_the_threads(collector: Collector) -> None:
    telemetry.start(Settings())
    telemetry.measure("documents", 3, {"feed": "class_super"}, unit="1", description="documents", added_up=True)
    telemetry.stop()
    assert set(collector.metrics.values()) == {3}
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("Otel")] == []


def test_unreachable_collector_fails_no_process(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert _process(_PROCESS % CORRELATION).stdout.count('"CloudWatchMetrics"') == 3


def test_run_and_its_steps_are_one_trace_of_the_correlation_id(collector: Collector) -> None:
    telemetry.start(Settings())
    with dg.DagsterInstance.ephemeral() as instance:
        run = two_steps.execute_in_process(instance=instance, raise_on_error=False)
        (record,) = instance.get_run_records()
        telemetry.send_spans(list(spans_of(instance, record)))
    root, *steps = collector.spans
    assert {span["trace"] for span in collector.spans} == {CORRELATION}
    assert (root["name"], root["parent"], root["failed"]) == ("two_steps", "", True)
    assert {(step["name"], step["failed"]) for step in steps} == {("works", False), ("fails", True)}
    assert {step["parent"] for step in steps} == {root["span"]} == {telemetry.span_id(run.run_id)}
    assert root["classfeed.correlation_id"] == CORRELATION
    assert root["classfeed.business_date"] == "2026-03-02"
    assert (root["service.name"], root["deployment.environment.name"]) == ("classfeed", "local")
    assert "the reason" not in str(collector.spans)
    assert all(step["seconds"] <= root["seconds"] + 1 for step in steps)


def test_traces_sensor_sends_each_ended_run_once(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classfeed_dagster.orchestration.sensors.traces._SETTLED", -dt.timedelta(seconds=1))
    monkeypatch.setattr("classfeed_dagster.orchestration.sensors.traces._RUNS", 1)
    telemetry.start(Settings())
    with dg.DagsterInstance.ephemeral() as instance:
        two_steps.execute_in_process(instance=instance, raise_on_error=False)
        cursor = _tick(instance, "2026-01-01T00:00:00+00:00").cursor
        assert len(collector.spans) == 3
        two_steps.execute_in_process(instance=instance, raise_on_error=False)
        cursor = _tick(instance, cursor).cursor
        assert len({span["dagster.run_id"] for span in collector.spans}) == 2
        _tick(instance, cursor)
    assert len(collector.spans) == 6


def test_traces_sensor_repeats_what_a_collector_refused(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classfeed_dagster.orchestration.sensors.traces._SETTLED", -dt.timedelta(seconds=1))
    telemetry.start(Settings())
    collector.refuse = True
    with dg.DagsterInstance.ephemeral() as instance:
        two_steps.execute_in_process(instance=instance, raise_on_error=False)
        with pytest.raises(telemetry.CollectorError, match="did not accept 3 spans"):
            _tick(instance, "2026-01-01T00:00:00+00:00")
        collector.refuse = False
        _tick(instance, "2026-01-01T00:00:00+00:00")
    assert len(collector.spans) == 3


@pytest.mark.parametrize("cursor", [None, "edited by a person", "2026-01-01T00:00:00"])
def test_traces_sensor_begins_with_the_runs_that_end_from_now_on(collector: Collector, cursor: str | None) -> None:
    telemetry.start(Settings())
    with dg.DagsterInstance.ephemeral() as instance:
        two_steps.execute_in_process(instance=instance, raise_on_error=False)
        assert _tick(instance, cursor).cursor
    assert collector.spans == []


def test_other_correlation_id_has_a_trace_of_its_own() -> None:
    assert telemetry.trace_id(CORRELATION) == CORRELATION
    assert telemetry.trace_id("rerun of May") != telemetry.trace_id("rerun of June")
    assert len(telemetry.trace_id("rerun of May")) == 32


def test_logs_without_a_collector_stay_as_configured(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.start(Settings())
    logs.configure("json")
    logs.get_logger().info("landed", rows=1)
    assert '"rows": 1' in capsys.readouterr().err
