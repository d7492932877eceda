"""Runs of the command line belong to the same code location as runs of the UI."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from classfeed_dagster.orchestration.code_location import remote_job_origin, runs_with_origin
from classfeed_dagster_tests.fixtures.desk import Desk

ROOT = Path(__file__).parents[2]
MONDAY = "2026-03-02"


def test_run_in_process_has_the_location_of_its_job(desk: Desk) -> None:
    desk.bigsite.save()
    report = desk.run(MONDAY)
    run = desk.instance.get_run_by_id(report.run_id)
    assert run is not None
    assert run.remote_job_origin == remote_job_origin("class_super_job")
    # The filter that the UI's job and overview pages use.
    selected = dg.RunsFilter(job_name="class_super_job", tags={".dagster/repository": "__repository__@classfeed"})
    assert [run.run_id for run in desk.instance.get_runs(selected)] == [report.run_id]


def test_instance_is_restored_after_the_block() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(RuntimeError), runs_with_origin(instance, "a_job"):
            raise RuntimeError
        assert "create_run_for_job" not in vars(instance)


@pytest.mark.parametrize("file", ["workspace.yaml", "deploy/workspace.yaml"])
def test_workspaces_name_the_same_location(file: str) -> None:
    (entry,) = yaml.safe_load((ROOT / file).read_text())["load_from"]
    (target,) = entry.values()
    assert target["location_name"] == remote_job_origin("x").location_name
