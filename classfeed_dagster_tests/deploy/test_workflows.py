"""The pipeline's rules, walked through in the workflow files themselves."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from classfeed_dagster_tests.deploy.templates import ROOT
from deploy.durations import durations, summary

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads `on` as a truth value
    return loaded


WORKFLOWS = {path.name: load(path) for path in FILES}
JOBS = [(name, job, body) for name, flow in WORKFLOWS.items() for job, body in flow["jobs"].items()]
STEPS = [(f"{name}/{job}", step) for name, job, body in JOBS for step in body.get("steps", [])]


@pytest.mark.parametrize(("where", "step"), STEPS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is(where: str, step: dict[str, Any]) -> None:
    if "uses" in step:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        line = next(line for path in FILES for line in path.read_text().splitlines() if step["uses"] in line)
        assert re.search(r"# v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_permitted_by_default_and_runs_of_a_kind_wait_for_each_other(name: str) -> None:
    flow = WORKFLOWS[name]
    assert flow["permissions"] == {}
    assert "group" in flow["concurrency"]
    assert "pull_request_target" not in flow["on"]
    assert "workflow_run" not in flow["on"]


@pytest.mark.parametrize(("name", "job", "body"), JOBS)
def test_every_job_ends_and_says_what_it_may_do(name: str, job: str, body: dict[str, Any]) -> None:
    assert "permissions" in body
    assert "write-all" not in str(body["permissions"])
    assert "uses" in body or body["timeout-minutes"] <= 180
    writes = {scope for scope, level in body["permissions"].items() if level == "write"}
    assert writes <= {"id-token", "attestations"}


def test_no_secret_is_stored_passed_or_printed() -> None:
    for path in FILES:
        text = path.read_text()
        # Roles are taken by the job's own identity; there is no secret for a job to hand on.
        assert "secrets." not in text
        assert "secrets: inherit" not in text
        assert "aws-access-key-id" not in text
        assert "base64" not in text
        assert not re.search(r"\b(printenv|env \||set -x)", text)
    for _, _, body in JOBS:
        for value in (body.get("outputs") or {}).values():
            assert "digest" in value
    script = (ROOT / "deploy" / "release").read_text()
    assert "set -x" not in script
    assert not re.search(r"echo .*(secret|token|password)", script, re.IGNORECASE)


def test_what_an_event_says_never_becomes_part_of_a_script() -> None:
    for where, step in STEPS:
        assert "${{" not in step.get("run", ""), where


def test_one_image_is_built_and_every_environment_gets_its_digest() -> None:
    pushes = [where for where, step in STEPS if step.get("with", {}).get("push") is True]
    assert pushes == ["pipeline.yml/build"]
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    for job in ("dev", "staging", "production"):
        assert jobs[job]["with"]["digest"] == "${{ needs.build.outputs.digest }}"


def test_one_job_and_so_one_approval_an_environment() -> None:
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    deploying = {
        job: body["with"]["environment"] for job, body in jobs.items() if "deploy.yml" in str(body.get("uses"))
    }
    assert deploying == {"dev": "dev", "staging": "stg", "production": "prod"}
    assert "dev" in jobs["staging"]["needs"]
    assert "staging" in jobs["production"]["needs"]
    holding = [body["environment"] for body in WORKFLOWS["deploy.yml"]["jobs"].values() if "environment" in body]
    assert set(holding) == {"prod-notes", "${{ inputs.environment }}"}
    assert WORKFLOWS["deploy.yml"]["concurrency"] == {
        "group": "deploy-${{ inputs.environment }}",
        "cancel-in-progress": False,
    }


def test_a_release_is_verified_before_anything_changes_and_told_however_it_ends() -> None:
    steps = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["steps"]
    scripts = [step.get("run", "") for step in steps]
    verified = next(at for at, script in enumerate(scripts) if "attestation verify" in script)
    deployed = next(at for at, script in enumerate(scripts) if "release deploy" in script)
    assert verified < deployed
    assert steps[-1]["if"] == "always()"
    assert "say" in scripts[-1]


def test_pull_requests_get_no_role_and_changed_lines_are_covered() -> None:
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    assert jobs["build"]["if"] == "github.event_name == 'push'"
    assert "id-token" not in jobs["check"]["permissions"]
    assert any(
        "diff-cover" in step.get("run", "") and "--fail-under 90" in step["run"] for step in jobs["check"]["steps"]
    )


def test_caches_are_keyed_on_the_lock() -> None:
    for where, step in STEPS:
        if step.get("uses", "").startswith("actions/cache@"):
            assert "requirements.lock" in step["with"]["key"], where


def test_the_night_does_what_is_too_long_for_the_day() -> None:
    assert set(WORKFLOWS["nightly.yml"]["jobs"]) == {"torture", "mutation", "audit"}
    assert "schedule" in WORKFLOWS["nightly.yml"]["on"]


@pytest.mark.parametrize("script", ["deploy/release", "deploy/service", "deploy/health"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    shell = (ROOT / script).read_text().splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shell, "-n", str(ROOT / script)], check=True)


def test_a_release_refuses_what_is_no_digest() -> None:
    done = subprocess.run(
        [str(ROOT / "deploy" / "release"), "deploy", "dev", "latest"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "not a digest" in done.stderr


def test_durations_tell_waiting_from_working() -> None:
    def job(
        name: str, created: str, started: str, completed: str | None, conclusion: str = "success"
    ) -> dict[str, Any]:
        times = {"created_at": created, "started_at": started, "completed_at": completed}
        return {"run_id": 1, "name": name, "conclusion": conclusion} | {
            k: v and f"2026-03-04T{v}Z" for k, v in times.items()
        }

    pages = [
        {"jobs": [job("check", "00:00:00", "00:00:10", "00:05:10"), job("prod", "00:10:00", "01:10:00", "01:15:00")]},
        {
            "jobs": [
                job("late", "00:00:00", "00:00:00", None),
                job("none", "00:00:00", "00:00:00", "00:00:00", "skipped"),
            ]
        },
    ]
    found = durations(pages)
    assert [(one["job"], one["waited_seconds"], one["worked_seconds"]) for one in found] == [
        ("check", 10, 300),
        ("prod", 3600, 300),
    ]
    assert durations(pages[0]) == found
    many = [one | {"worked_seconds": seconds} for one in found[:1] for seconds in range(100, 121)]
    assert summary(many)["check"] == (21, 110, 119.0)
    assert summary([*found[:1], found[1] | {"outcome": "failure"}]) == {"check": (1, 300, 300.0)}
    assert json.dumps(found)
