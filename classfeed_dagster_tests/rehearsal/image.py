"""The image's virtual environment: locked dependencies and the wheel, as the Dockerfile's builder stage installs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from classfeed_dagster_tests.deploy.templates import ROOT
from deploy.lock import IMAGE


def build_environment(folder: Path) -> Path:
    """Build the environment in a folder; return the folder. CalledProcessError if a step fails.

    ``uv`` stands in for the Dockerfile's ``pip``. Scripts find their interpreter in their own folder, since the environment
    is mounted at the image's path.
    """
    uv = str(Path(sys.executable).parent / "uv")
    wheels = folder.with_name(f"{folder.name}-wheels")
    install = [uv, "pip", "install", "--quiet", "--python", str(folder), "--no-deps", "--compile-bytecode"]
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    interpreter = str(Path(sys.executable).resolve())
    for command in (
        [uv, "venv", "--quiet", "--relocatable", "--python", interpreter, str(folder)],
        [*install, "--require-hashes", "-r", str(IMAGE.path)],
        [*build, "--out-dir", str(wheels)],
        [*install, "--no-index", "--find-links", str(wheels), "classfeed-dagster"],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    return folder
