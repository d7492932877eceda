"""The setup's lock files: the demo has the tested versions, every file has a hash, and tools stay out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.lock import PROJECT_LOCK, pins

ROOT = Path(__file__).parent.parent
DEMO_LOCK = ROOT / "requirements-demo.lock"
SETUP = (ROOT / "scripts" / "setup").read_text()
EXTRAS_OF_DEMO = ("embedded", "setup")


def required(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {re.sub(r"[-_.]+", "-", Requirement(line).name).lower() for line in lines}


def test_demo_lock_has_only_tested_versions() -> None:
    tested = pins(PROJECT_LOCK)
    assert {name: version for name, version in pins(DEMO_LOCK).items() if tested.get(name) != version} == {}


def test_demo_lock_has_every_requirement_and_no_development_tool() -> None:
    locked = set(pins(DEMO_LOCK))
    assert required(*EXTRAS_OF_DEMO) <= locked, "run make lock"
    assert not {"pytest", "mypy", "moto", "kubernetes", "ruff", "celery"} & locked


@pytest.mark.parametrize("lock", [PROJECT_LOCK, DEMO_LOCK], ids=lambda lock: lock.name)
def test_lock_line_has_a_hash(lock: Path) -> None:
    entries = re.split(r"^(?=[\w.,\[\]-]+==)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_setup_installs_with_hashes_and_names_no_registry() -> None:
    assert "http" not in SETUP
    installs = [line for line in SETUP.splitlines() if " -r " in line]
    assert len(installs) == 3
    assert all("--require-hashes --no-deps" in line for line in installs)


def test_nightly_runs_every_example_of_the_properties() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^properties:.*\n\t@CLASSFEED_TEST_EXAMPLES=random .*-m hypothesis$", makefile, re.MULTILINE)
    assert "- run: make properties" in (ROOT / ".github" / "workflows" / "nightly.yml").read_text()


@pytest.mark.parametrize(("profile", "number"), [("random", 60), ("full", 60), ("quick", 15)])
def test_examples_follow_the_profile(profile: str, number: int) -> None:
    program = "from classfeed_dagster_tests.fixtures.examples import examples; print(examples(60).max_examples)"
    environment = {**os.environ, "CLASSFEED_TEST_EXAMPLES": profile}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(number)]
