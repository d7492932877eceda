"""Run events of OpenLineage: sent by the extra's sensor, and refused in one sentence without the extra."""

import json
import sys
from pathlib import Path

import dagster as dg
import pytest

from classfeed_dagster.extras import ExecutorError
from classfeed_dagster.orchestration.sensors.traces import run_event_sensors
from classfeed_dagster.settings import Settings


def test_run_events_without_a_collector_are_not_sent() -> None:
    assert run_event_sensors(Settings()) == []


def test_run_events_without_the_extra_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_openlineage", None)
    with pytest.raises(ExecutorError, match=r"pip install 'classfeed-dagster\[openlineage\]'"):
        run_event_sensors(Settings(openlineage_url="http://127.0.0.1:1"))


@pytest.mark.filterwarnings("ignore")  # the extra reads the event log by methods that Dagster 2.0 removes
def test_run_events_of_an_asset_are_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events = tmp_path / "events"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(events))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    for name in [name for name in sys.modules if name.startswith("dagster_openlineage")]:
        monkeypatch.delitem(sys.modules, name)  # it makes its client while it is imported

    @dg.asset
    def delivered() -> None: ...

    (sensor,) = run_event_sensors(Settings(openlineage_url="http://127.0.0.1:1"))
    repository = dg.Definitions([delivered], sensors=[sensor]).get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([delivered], instance=instance)
        with dg.build_sensor_context(instance=instance, repository_def=repository) as context:
            sensor.evaluate_tick(context)
    sent = [json.loads(line) for line in events.read_text().splitlines()]
    assert ("COMPLETE", "delivered") in {(record["eventType"], record["job"]["name"]) for record in sent}
