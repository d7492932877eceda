"""The release script with a fake of AWS's command line: its order, its refusals and its results."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from classfeed_dagster_tests.fixtures.templates import ROOT

DIGEST, BEFORE = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
# Writes down what changes something; FAILING names commands whose task fails, UNFILLED a secret, UNASSIGNED a permission
# set, BROKEN a stack's change that fails, STATES other states of stacks, SLOW the waits for tasks that end too early.
_AWS = f"""#!/usr/bin/env python3
import json, os, re, sys
text = " ".join(sys.argv[1:])
def done(what, answer=""):
    with open(os.environ["CALLS"], "a") as file:
        file.write(what + "\\n")
    print(answer)
    sys.exit(0)
match sys.argv[1:3]:
    case ["ecr", "describe-images"]:
        sys.exit(0 if "{DIGEST}" in text else 254)
    case ["sts", _]: print("111122223333")
    case ["ecr", "batch-get-image"]: print(os.environ["MANIFEST"])
    case ["ecr", "wait"]: done("scan of " + re.findall(r"imageDigest=(\\S+)", text)[0])
    case ["ecr", "describe-image-scan-findings"]: print(os.environ.get("FINDINGS", "null"))
    case ["cloudformation", "describe-stacks"]:
        part = re.findall(r"--stack-name classfeed-\\w+-(\\w+)", text)[0]
        state = dict(one.split("=") for one in os.environ.get("STATES", "").split()).get(part, "UPDATE_COMPLETE")
        sys.exit(state.replace("-", " ")) if state in ("Throttling", "does-not-exist") else print(state)
    case ["cloudformation", "deploy"]:
        parameters = re.findall(r"(?:ImageDigest|MigrationDigest|Services)=\\S+", text)
        short = [one.replace("{DIGEST}", "new").replace("{BEFORE}", "old") for one in parameters]
        what = " ".join([re.findall(r"--stack-name classfeed-\\w+-(\\w+)", text)[0], *short])
        if os.environ.get("BROKEN", "none") in what:
            sys.exit(255)
        done(what + " without rollback" * ("--disable-rollback" in text))
    case ["secretsmanager", "list-secrets"]: print("classfeed/stg/bigsite classfeed/stg/slack")
    case ["secretsmanager", "get-secret-value"]:
        unfilled = os.environ.get("UNFILLED", "none")
        print('{{"set": "by hand"}}' if unfilled in text else '{{"token": "secret-value"}}')
    case ["iam", "list-roles"]:
        assert "/aws-reserved/sso.amazonaws.com/" in text, text
        names = [f"AWSReservedSSO_classfeed-{{env}}-{{name}}_0a1b2c3d4e5f" for env in ("dev", "stg", "prod")
                 for name in ("analyst", "support", "oncall")]
        print(json.dumps([name for name in names if os.environ.get("UNASSIGNED", "none") not in name]))
    case ["ecs", "describe-services"]: print("subnet-1", "sg-" + re.findall(r"--services (\\S+)", text)[0])
    case ["ecs", "run-task"]:
        command = ", ".join(re.findall(r'"command": \\[(.*?)\\]', text)).replace('"', "").replace(",", " ")
        component = re.findall(r"--task-definition classfeed-\\w+-(\\w+)", text)[0]
        beside = re.findall(r"securityGroups=\\[sg-(\\w+)\\]", text)[0]
        where = f" beside {{beside}}" if beside != "daemon" else ""
        done(f"run {{command}} as {{component}}{{where}}", f"arn:{{command}}".replace(" ", "_"))
    case ["ecs", "wait"] if "tasks-stopped" in text:
        with open(os.environ["CALLS"] + "-waits", "a") as file:
            file.write(".")
            sys.exit(255 if file.tell() <= int(os.environ.get("SLOW", "0")) else 0)
    case ["ecs", "describe-tasks"] if os.path.getsize(os.environ["CALLS"] + "-waits") <= int(os.environ.get("SLOW", "0")):
        print("None")
    case ["ecs", "describe-tasks"]:
        failing = os.environ.get("FAILING", "none")
        print(1 if failing in text else 0)
    case ["ssm", "get-parameter"]: print(os.environ.get("RUNNING", "")) if os.environ.get("RUNNING") else sys.exit(254)
    case ["ssm", "put-parameter"]: done("record")
"""

Release = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Run the script; return its exit code, what it wrote, and what was changed in order."""
    program = tmp_path / "aws"
    program.write_text(_AWS)
    program.chmod(0o755)

    def run(command: str, **variables: str) -> tuple[int, str, list[str]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "CALLS": str(calls), "OVERRIDE": "the test",
            "REGISTRY": "111122223333.dkr", "CERTIFICATE_ARN": "arn:aws:acm:certificate", **variables,
        }  # fmt: skip
        script = [str(ROOT / "deploy" / "release"), *shlex.split(command)]
        process = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert "secret-value" not in process.stdout + process.stderr
        return process.returncode, process.stderr, calls.read_text().splitlines()

    return run


def test_bootstrap_unfilled_secret_stops_before_the_application(release: Release) -> None:
    code, text, changed = release(f"bootstrap stg {DIGEST}", UNFILLED="classfeed/stg/slack")
    assert (code, changed) == (3, ["access", "foundation"])
    assert text.splitlines()[-1] == "classfeed/stg/slack"


@pytest.mark.parametrize("name", ["classfeed-stg-analyst", "classfeed-stg-support", "classfeed-stg-oncall"])
def test_bootstrap_without_a_permission_set_changes_nothing(release: Release, name: str) -> None:
    code, text, changed = release(f"bootstrap stg {DIGEST}", UNASSIGNED=name)
    assert (code, changed) == (3, [])
    assert text.splitlines()[1:] == [name, "nothing was changed"]


def test_bootstrap_starts_services_after_migration_and_preflight(release: Release) -> None:
    code, text, changed = release(f"bootstrap stg {DIGEST}")
    assert code == 0, text
    assert changed == [
        "access", "foundation", "application ImageDigest=new MigrationDigest=new Services=off",
        "run migrate as migrate", "run classfeed preflight as migrate", "run classfeed preflight as code beside code",
        "run classfeed preflight as worker", "run classfeed preflight as door beside door", "run classfeed preflight as watchdog",
        "application ImageDigest=new MigrationDigest=new Services=on", "monitoring", "run smoke as migrate beside viewer", "record",
    ]  # fmt: skip


def test_bootstrap_with_workers_starts_broker_and_workers(release: Release) -> None:
    code, text, changed = release(f"bootstrap dev {DIGEST}")
    assert code == 0, text
    assert changed[2:5] == [
        "broker", "application ImageDigest=new MigrationDigest=new Services=off", "workers ImageDigest=new Services=off",
    ]  # fmt: skip
    assert "run classfeed preflight as steps" in changed


@pytest.mark.parametrize("failing", ["migrate", "preflight"])
def test_bootstrap_failing_leaves_the_services_off(release: Release, failing: str) -> None:
    code, text, changed = release(f"bootstrap stg {DIGEST}", FAILING=failing)
    assert code == 1
    assert "failed" in text
    assert not [change for change in changed if "Services=on" in change or change == "record"]


@pytest.mark.parametrize("command", ["bootstrap", "deploy"])
@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        ("stg sha256:short", {}, "not a digest: sha256:short"),
        (f"stg sha256:{'c' * 64}", {}, "nothing was changed"),
        (f"nowhere {DIGEST}", {}, "no such environment: nowhere"),
        (f"stg {DIGEST}", {"CERTIFICATE_ARN": ""}, "CERTIFICATE_ARN is not set"),
        (f"stg {DIGEST}", {"REGISTRY": ""}, "REGISTRY is not set"),
    ],
)
def test_release_bad_input_is_refused_before_a_change(
    release: Release, command: str, arguments: str, variables: dict[str, str], reason: str
) -> None:
    code, text, changed = release(f"{command} {arguments}", RUNNING=BEFORE, **variables)
    assert (code, changed) == (2, [])
    assert reason in text


def test_deploy_migrates_before_it_renews_the_services(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE)
    assert code == 0, text
    assert changed == [
        "access", "foundation", "application ImageDigest=old MigrationDigest=new Services=on", "run migrate as migrate",
        "application ImageDigest=new MigrationDigest=new Services=on", "monitoring", "run smoke as migrate beside viewer", "record",
    ]  # fmt: skip


def test_deploy_failed_migration_keeps_the_old_services(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE, FAILING="migrate")
    assert code == 1
    assert f"the services still run {BEFORE}" in text
    assert "application ImageDigest=new" not in " ".join(changed)


def test_deploy_failed_smoke_goes_back_and_records_nothing(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE, FAILING="smoke")
    assert code == 1
    assert f"going back to {BEFORE}" in text
    assert changed[-2:] == [
        "application ImageDigest=old MigrationDigest=old Services=on",
        "run smoke as migrate beside viewer",
    ]


def test_deploy_where_nothing_runs_names_the_bootstrap(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}")
    assert (code, changed) == (2, [])
    assert "deploy/release bootstrap" in text


def test_deploy_waits_for_a_migration_longer_than_one_wait(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE, SLOW="2")
    assert code == 0, text
    assert changed[-1] == "record"


@pytest.mark.parametrize(
    ("environment", "broken"),
    [
        ("stg", "application ImageDigest=new MigrationDigest=new"),
        ("stg", "monitoring"),
        ("dev", "workers ImageDigest=new"),
    ],
)
def test_deploy_failed_stack_change_goes_back_to_the_old_image(release: Release, environment: str, broken: str) -> None:
    code, text, changed = release(f"deploy {environment} {DIGEST}", RUNNING=BEFORE, BROKEN=broken)
    assert code == 1
    assert f"going back to {BEFORE}" in text
    assert "application ImageDigest=old MigrationDigest=old Services=on" in changed
    assert changed[-1] == "run smoke as migrate beside viewer"


def test_deploy_failed_first_stack_change_stops_before_the_migration(release: Release) -> None:
    code, _, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE, BROKEN="application ImageDigest=old")
    assert (code, changed) == (255, ["access", "foundation"])


@pytest.mark.parametrize("state", ["does-not-exist", "REVIEW_IN_PROGRESS", "CREATE_FAILED", "UPDATE_FAILED"])
def test_bootstrap_continues_a_stack_whose_creation_failed(release: Release, state: str) -> None:
    code, text, changed = release(f"bootstrap stg {DIGEST}", STATES=f"foundation={state}")
    assert code == 0, text
    assert changed[:2] == ["access", "foundation without rollback"]


def test_deploy_unreadable_stack_state_stops_the_release(release: Release) -> None:
    code, text, changed = release(f"deploy stg {DIGEST}", RUNNING=BEFORE, STATES="foundation=Throttling")
    assert (code, changed) == (1, ["access"])
    assert "Throttling" in text


INDEX = {
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [
        {"digest": "sha256:image", "platform": {"architecture": "amd64", "os": "linux"}},
        {"digest": "sha256:provenance", "platform": {"architecture": "unknown", "os": "unknown"}},
    ],
}


@pytest.mark.parametrize(
    ("manifest", "scanned"), [(INDEX, "sha256:image"), ({"config": {}, "layers": []}, DIGEST)], ids=["index", "image"]
)
def test_scan_reads_the_findings_of_the_image_itself(release: Release, manifest: object, scanned: str) -> None:
    code, text, changed = release(f"scan {DIGEST}", MANIFEST=json.dumps(manifest))
    assert code == 0, text
    assert changed == [f"scan of {scanned}"]
    code, _, _ = release(f"scan {DIGEST}", MANIFEST=json.dumps(manifest), FINDINGS='{"HIGH": 1}')
    assert code == 1
