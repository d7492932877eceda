"""Dagster instance of the command line: DAGSTER_HOME if set, else one under the home folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import classfeed_dagster
from classfeed_dagster.file_access import owner_only

if TYPE_CHECKING:
    from dagster import DagsterInstance


def instance_folder(home: Path) -> Path:
    """Return the folder of the Dagster instance, which may not exist yet: ``DAGSTER_HOME``, or ``<home>/dagster``."""
    return Path(os.environ.get("DAGSTER_HOME") or (home / "dagster").absolute())


def dagster_home(home: Path) -> Path:
    """Return the folder of the Dagster instance, ``<home>/dagster`` with the local settings."""
    folder = instance_folder(home)
    if os.environ.get("DAGSTER_HOME"):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    text = _local_settings().read_text().replace("base_dir: null", f"base_dir: {json.dumps(str(folder))}")
    temporary = folder / f"dagster.yaml.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8", opener=owner_only) as file:
        file.write(text)
    temporary.replace(folder / "dagster.yaml")  # another process may be reading it
    return folder


def open_instance(home: Path) -> DagsterInstance:
    """Open the instance whose runs the UI of ``classfeed up`` shows. Use it as a context manager."""
    from dagster import DagsterInstance

    return DagsterInstance.from_config(str(dagster_home(home)))


def _local_settings() -> Path:
    package = Path(classfeed_dagster.__file__).parent
    # Next to the package in a checkout, inside it in an installed wheel.
    for candidate in (package.parent / "dagster.yaml", package / "dagster.yaml"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError("dagster.yaml is missing from the installation: install classfeed again")
