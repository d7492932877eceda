"""The UI as people see it, in Chromium: the demo, the UI on it, and every look of scripts/screenshots.py.

Left out of the default run: `pytest -m browser`, with CLASSFEED_PLAYWRIGHT naming a Python that has Playwright.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from classfeed_dagster.operations.instance import dagster_home
from classfeed_dagster.operations.local_services import dagster_services, free_port

ROOT = Path(__file__).parent.parent
LOOKS = ("graph", "lineage", "columns", "preview", "check", "backfill", "sensors")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the UI on a small demo."""
    home = tmp_path_factory.mktemp("ui")
    settings = {"CLASSFEED_HOME": str(home), "CLASSFEED_MAX_HELD_BACK_SHARE": "0.2"}
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | settings
    command = [str(Path(sys.executable).with_name("classfeed")), "demo", "--portfolios", "25", "--days", "2"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=900)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        with dagster_services(dagster_home(home), free_port(3100), settings, start_seconds=180) as address:
            yield address


@pytest.mark.parametrize("name", LOOKS)
def test_people_find_what_they_need(ui: str, name: str, tmp_path: Path) -> None:
    python = os.environ.get("CLASSFEED_PLAYWRIGHT", sys.executable)
    command = [python, str(ROOT / "scripts" / "screenshots.py"), "--url", ui, "--out", str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
