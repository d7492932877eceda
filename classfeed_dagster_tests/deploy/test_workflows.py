"""The pipeline's rules, walked through in the workflow files themselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy.durations import durations
from deploy.lock import INFRASTRUCTURE, pins
from deploy.note import LIMIT, text

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads `on` as a truth value
    return loaded


WORKFLOWS = {path.name: load(path) for path in FILES}
JOBS = [(name, job, body) for name, flow in WORKFLOWS.items() for job, body in flow["jobs"].items()]
STEPS = [(f"{name}/{job}", step) for name, job, body in JOBS for step in body.get("steps", [])]


@pytest.mark.parametrize(("where", "step"), STEPS, ids=lambda value: value if isinstance(value, str) else "")
def test_action_is_pinned_by_commit_and_states_its_version(where: str, step: dict[str, Any]) -> None:
    if "uses" in step:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        line = next(line for path in FILES for line in path.read_text().splitlines() if step["uses"] in line)
        assert re.search(r"# v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_permits_nothing_by_default_and_queues_its_runs(name: str) -> None:
    flow = WORKFLOWS[name]
    assert flow["permissions"] == {}
    assert "group" in flow["concurrency"]
    assert "pull_request_target" not in flow["on"]
    assert "workflow_run" not in flow["on"]


@pytest.mark.parametrize(("name", "job", "body"), JOBS)
def test_jobs_have_timeouts_and_permissions(name: str, job: str, body: dict[str, Any]) -> None:
    assert "permissions" in body
    assert "write-all" not in str(body["permissions"])
    assert "uses" in body or body["timeout-minutes"] <= 180
    writes = {scope for scope, level in body["permissions"].items() if level == "write"}
    assert writes <= {"id-token", "attestations"}


def test_secrets_are_never_stored_passed_or_printed() -> None:
    for path in FILES:
        text = path.read_text()
        # Jobs assume roles by their own identity; they have no secret to pass on.
        assert "secrets." not in text
        assert "secrets: inherit" not in text
        assert "aws-access-key-id" not in text
        assert "base64" not in text
        assert not re.search(r"\b(printenv|env \||set -x)", text)
    for _, _, body in JOBS:
        for value in (body.get("outputs") or {}).values():
            assert re.search(r"outputs\.(digest|percent) }}$", value)
    script = (ROOT / "deploy" / "release").read_text()
    assert "set -x" not in script
    assert not re.search(r"echo .*(secret|token|password)", script, re.IGNORECASE)


def test_event_text_never_enters_a_script() -> None:
    for where, step in STEPS:
        assert "${{" not in step.get("run", ""), where


def test_image_is_built_once_and_deployed_by_digest() -> None:
    pushes = [where for where, step in STEPS if step.get("with", {}).get("push") is True]
    assert pushes == ["pipeline.yml/build"]
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    for job in ("dev", "staging", "production"):
        assert jobs[job]["with"]["digest"] == "${{ needs.build.outputs.digest }}"


def test_environment_has_one_job_and_one_approval() -> None:
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


def test_release_is_verified_before_changes_and_always_reported() -> None:
    steps = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["steps"]
    scripts = [step.get("run", "") for step in steps]
    verified = next(at for at, script in enumerate(scripts) if "release verify" in script)
    deployed = next(at for at, script in enumerate(scripts) if "release deploy" in script)
    assert verified < deployed
    assert steps[-1]["if"] == "always()"
    assert "say" in scripts[-1]
    # Slack hears of the beginning, the wait, and the end with how long it took and what changed.
    assert any(script == "deploy/release say started" for script in scripts)
    assert {"STARTED_AT", "RELEASED_BEFORE", "OUTCOME"} <= set(steps[-1]["env"])
    waiting = WORKFLOWS["deploy.yml"]["jobs"]["waiting"]
    assert waiting["steps"][-1]["run"] == 'deploy/release say "waiting for approval"'
    assert waiting["if"] == "inputs.environment == 'prod'"
    for job in ("deploy", "waiting"):
        assert WORKFLOWS["deploy.yml"]["jobs"][job]["steps"][0]["with"]["fetch-depth"] == 0  # the change list


def test_environment_deploys_only_signed_images() -> None:
    steps = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["steps"]
    names = [step.get("uses", "").split("@")[0] or step.get("run", "") for step in steps]
    signed = names.index("actions/attest")
    assert any("release deploy" in name for name in names[:signed])
    kind = steps[signed]["with"]["predicate-type"]
    assert steps[signed]["with"]["subject-digest"] == "${{ inputs.digest }}"
    script = (ROOT / "deploy" / "release").read_text()
    assert f'--predicate-type "{kind.split("$")[0]}$before"' in script
    assert "stg) before=dev ;; prod) before=stg" in script


def test_pull_requests_get_no_role_and_changed_lines_are_covered() -> None:
    jobs = WORKFLOWS["pipeline.yml"]["jobs"]
    assert jobs["build"]["if"] == "github.event_name == 'push'"
    assert "id-token" not in jobs["check"]["permissions"]
    scripts = [step.get("run", "") for step in jobs["check"]["steps"]]
    assert any("diff-cover" in script and "--fail-under 90" in script for script in scripts)
    assert {"make lint", "make coverage", "make lint-deploy"} <= set(scripts)
    # What a step runs from the tools' environment is locked there.
    assert "diff-cover" in pins(INFRASTRUCTURE.path)


def test_caches_are_keyed_on_the_lock() -> None:
    for where, step in STEPS:
        if step.get("uses", "").startswith("actions/cache@"):
            assert re.search(r"hashFiles\('[^)]*(requirements|infrastructure)\.lock'", step["with"]["key"]), where


def test_nightly_workflow_runs_the_long_tests() -> None:
    jobs = WORKFLOWS["nightly.yml"]["jobs"]
    long = {"audit", "bench", "history", "mutation", "nightly", "production", "properties", "test", "torture"}
    assert set(jobs) == {*long, "numbers", "tell"}
    tell = jobs["tell"]
    # A job that exceeds its time counts as cancelled, not as failed.
    assert tell["if"].startswith("always() && ")
    assert all(f"contains(needs.*.result, '{result}')" in tell["if"] for result in ("failure", "cancelled"))
    assert set(tell["needs"]) == {*long, "numbers"}
    assert all(f"needs.{name}.result != 'success'" in tell["steps"][-1]["env"]["FAILED_JOBS"] for name in tell["needs"])
    assert tell["steps"][-1]["run"] == "deploy/release alarm"
    makefile = (ROOT / "Makefile").read_text()
    for name, body in ((name, jobs[name]) for name in long):
        # The project's own commands, which anybody can run.
        assert any(step.get("run", "").startswith(f"make {name}") for step in body["steps"]), name
        assert re.search(rf"^{name}:", makefile, re.MULTILINE)
    assert "schedule" in WORKFLOWS["nightly.yml"]["on"]


def test_numbers_are_kept_for_good_by_a_role_that_only_creates_them() -> None:
    for workflow, job in (("pipeline.yml", "durations"), ("nightly.yml", "numbers")):
        body = WORKFLOWS[workflow]["jobs"][job]
        assert body["environment"] == "prod-notes"
        assert body["steps"][-1]["run"] == "deploy/release keep"
        assert body["if"].startswith("always()")
    assert "upload-artifact" not in (ROOT / ".github" / "workflows" / "pipeline.yml").read_text()


@pytest.mark.parametrize("script", ["deploy/release", "deploy/service", "deploy/health", "deploy/smoke"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    source = (ROOT / script).read_text()
    shell = source.splitlines()[0].split("/")[-1].split()[-1]
    if shell == "python3":
        compile(source, script, "exec")
    else:
        subprocess.run([shell, "-n", str(ROOT / script)], check=True)


def test_release_refuses_an_invalid_digest() -> None:
    process = subprocess.run(
        [str(ROOT / "deploy" / "release"), "deploy", "dev", "latest"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert "not a digest" in process.stderr


def test_note_states_release_place_and_duration_without_mentions() -> None:
    environ = {
        "WHAT": "done", "TOOK": "after 312 s", "ENVIRONMENT": "prod", "DIGEST": "sha256:0", "BY": "pat",
        "CHANGES": "- Mend <!channel> & more",
    }  # fmt: skip
    assert text(environ).splitlines() == [
        "classfeed prod: done after 312 s", "sha256:0", "by pat", "- Mend &lt;!channel&gt; &amp; more",
    ]  # fmt: skip
    assert text({"WHAT": "started", "ENVIRONMENT": "dev", "DIGEST": "d"}) == "classfeed dev: started\nd\n- nothing new"
    assert len(text(environ | {"CHANGES": "x" * 10_000})) == LIMIT


def test_change_list_begins_at_the_running_release(tmp_path: Path) -> None:
    """The release script with fakes of AWS's command line and a history of three commits."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
        process = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return process.stdout.strip()

    (tmp_path / "deploy").mkdir()
    for name in ("release", "note.py"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy" / name)
    git("init", "-q")
    commits = []
    for subject in ("One", "Two", "Three"):
        git("commit", "-q", "--allow-empty", "-m", subject)
        commits.append(git("rev-parse", "HEAD"))
    fake = tmp_path / "bin" / "aws"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f"  *describe-images*before*) echo {commits[0]} ;;\n  *describe-images*) echo {commits[2]} ;;\n"
        "  *get-parameter*) echo sha256:before ;;\n  *) exit 1 ;;\nesac\n"
    )
    fake.chmod(0o755)
    environ = {
        "PATH": f"{fake.parent}:/usr/bin:/bin",
        "ENVIRONMENT": "prod",
        "DIGEST": "sha256:after",
        "REGISTRY": "1.dkr",
    }

    def changes(**more: str) -> list[str]:
        process = subprocess.run(
            [str(tmp_path / "deploy" / "release"), "changes"],
            env=environ | more,
            capture_output=True,
            text=True,
            check=True,
        )
        return process.stdout.splitlines()

    assert changes() == ["- Three", "- Two"]
    # When the job ends the environment runs the new one: what it ran before was remembered.
    assert changes(RELEASED_BEFORE="sha256:before") == ["- Three", "- Two"]
    # An image whose commit is unknown here: the latest ones, rather than nothing.
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert changes() == ["- Three", "- Two", "- One"]


def test_durations_separate_waiting_from_working() -> None:
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
    result = durations(pages)
    assert [(break_["job"], break_["waited_seconds"], break_["worked_seconds"]) for break_ in result] == [
        ("check", 10, 300),
        ("prod", 3600, 300),
    ]
    assert durations(pages[0]) == result


@pytest.mark.parametrize(
    ("variables", "author"),
    [({"BY": "pat"}, "by pat"), ({"BY": "pat", "APPROVED_BY": "kim"}, "by kim"), ({}, None)],
)
def test_release_note_names_who_did_it(tmp_path: Path, variables: dict[str, str], author: str | None) -> None:
    """The release script itself, with a webhook that listens here."""
    received: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "deploy").mkdir()
    for name in ("release", "note.py"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy" / name)
    fake = tmp_path / "aws"
    url = json.dumps({"url": f"http://127.0.0.1:{server.server_port}/"})
    fake.write_text(f"#!/bin/sh\ncase \"$*\" in *get-secret-value*) echo '{url}' ;; *) exit 1 ;; esac\n")
    fake.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", "ENVIRONMENT": "prod",
               "DIGEST": "sha256:after", "REGISTRY": "1.dkr"}  # fmt: skip
    script = str(tmp_path / "deploy" / "release")
    try:
        subprocess.run([script, "say", "done"], env=environ | variables, capture_output=True, text=True, check=True)
        alarm = {"WORKFLOW": "nightly", "RUN_URL": "https://github/run/1", "FAILED_JOBS": "torture audit"}
        subprocess.run([script, "alarm"], env=environ | alarm, capture_output=True, text=True, check=True)
    finally:
        server.shutdown()
        server.server_close()
    note, red = received
    assert [line for line in note.splitlines() if line.startswith("by ")] == ([author] if author else [])
    assert red.startswith("classfeed nightly: is red: torture audit")
    assert "https://github/run/1" in red
