"""Browser tests in Chromium: the demo, the UI on it, every look of scripts/screenshots.py, and the HTML pages.

The looks materialize too: a date is run again, a range is backfilled, a sensor is switched on and watched. Left out of the default run: `pytest -m browser`, with CLASSFEED_PLAYWRIGHT naming a Python that has Playwright.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
import uvicorn

from classfeed_dagster.local.dagster_instance import dagster_home
from classfeed_dagster.local.dagster_services import dagster_services, free_port
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.metrics import NUMBERS
from classfeed_dagster.service_levels.owner_months import OwnerFigure, OwnerMonth
from classfeed_dagster.service_levels.owner_page import owner_page
from classfeed_dagster.settings import Settings
from classfeed_dagster.support.alb_identity import HEADER
from classfeed_dagster.support.rerun_page import WebserverActions, application
from classfeed_dagster.support.reruns import requests
from classfeed_dagster_tests.support.test_reruns import PUBLIC_KEY, SIGNER, signed
from classfeed_dagster_tests.torture.backfill import ask

ROOT = Path(__file__).parent.parent
LOOKS = (
    "graph", "lineage", "columns", "preview", "check", "rerun", "backfill", "backfilled", "sensors", "history",
)  # fmt: skip
AXE = ROOT / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
_STEPS = """{ assetsOrError { ... on AssetConnection { nodes { key { path } assetMaterializations(limit: 1) {
    metadataEntries { label __typename } } } } } }"""

pytestmark = pytest.mark.browser


@dataclass
class Ui:
    """A running UI on a small demo, and where the demo is."""

    address: str
    home: Path
    settings: dict[str, str]
    demo: str  # what it printed


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Serve the UI on a small demo."""
    home = tmp_path_factory.mktemp("ui")
    settings = {
        "CLASSFEED_HOME": str(home),
        "CLASSFEED_MAX_HELD_BACK_SHARE": "0.2",
        "CLASSFEED_FIRST_BUSINESS_DATE": "2023-01-03",
    }
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | settings
    command = [str(Path(sys.executable).with_name("classfeed")), "demo", "--portfolios", "25", "--days", "2"]
    process = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=900)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        with dagster_services(dagster_home(home), free_port(3100), settings, start_seconds=180) as address:
            yield Ui(address, home, settings, process.stdout)


def script(name: str, *words: str, seconds: int = 900) -> None:
    python = os.environ.get("CLASSFEED_PLAYWRIGHT", sys.executable)
    command = [python, str(ROOT / "scripts" / name), *words]
    process = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", LOOKS)
def test_ui_shows_runs_assets_and_checks(ui: Ui, name: str, tmp_path: Path) -> None:
    script("screenshots.py", "--url", ui.address, "--out", str(tmp_path), name)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_steps_state_their_duration(ui: Ui) -> None:
    nodes = ask(ui.address, _STEPS, {})["assetsOrError"]["nodes"]
    created = {"/".join(node["key"]["path"]): node["assetMaterializations"] for node in nodes}
    message = {
        name: {entry["label"]: entry["__typename"] for entry in result[0]["metadataEntries"]}
        for name, result in created.items()
        if result
    }
    assert {
        "landing/trade",
        "class/account_details",
        "class_super/quarantine",
        "class_super/delivery",
    } <= message.keys()
    for name, entries in message.items():
        assert entries.get("seconds") in ("FloatMetadataEntry", "IntMetadataEntry"), name


def test_html_pages_are_accessible(ui: Ui, tmp_path: Path) -> None:
    trace = re.search(r"classfeed trace (T\d+)", ui.demo)
    assert trace is not None
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | ui.settings
    program, pages = str(Path(sys.executable).with_name("classfeed")), list[Path]()
    written = [("trace", trace[1]), ("trace", "SW99000000", "CASH:AUD", "--date", "2023-01-04")]
    for at, words in enumerate([*written, ("customer", "SW99000000"), ("lineage",)]):
        pages.append(tmp_path / f"{words[0]}-{at}.html")
        command = [program, *words, "--page", str(pages[-1])]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    owner = tmp_path / "owner.html"
    figures = [
        OwnerFigure(metric=name, feed="class_super", value=Decimal(7), target=number.target, observations=1, note="x")
        for name, number in NUMBERS.items()
    ]
    months = [
        OwnerMonth(month=f"2026-{at:02d}", computed_at=dt.datetime(2026, 3, 4, tzinfo=dt.UTC), figures=tuple(figures))
        for at in (1, 2)
    ]
    owner.write_text(owner_page(months), encoding="utf-8")
    reports = sorted((ui.home / "store").glob("reconciliation/class_super/*/*/report.html"))
    assert reports
    axe = ["--axe", str(AXE)] if AXE.exists() else []
    script("accessibility.py", *axe, *map(str, [*pages, owner, *reports]))


def test_support_page_works_on_phone_and_desk(tmp_path: Path) -> None:
    settings = Settings(
        store_url=str(tmp_path), first_business_date=dt.date(2026, 3, 2), door_signer=SIGNER, rerun_budget=20,
        ui_url="https://classfeed.example",
    )  # fmt: skip
    actions = WebserverActions(lambda *_: False, lambda *_: "0f9d6f0a-run")
    now = dt.datetime(2026, 3, 20, tzinfo=dt.UTC)
    port = free_port(8130)
    door = application(Runtime(settings), actions, lambda _: PUBLIC_KEY, lambda: now)
    server = uvicorn.Server(uvicorn.Config(door, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        axe = ["--axe", str(AXE)] if AXE.exists() else []
        header = f"{HEADER}={signed()}"
        script("rerun_page_check.py", "--url", f"http://127.0.0.1:{port}/rerun", "--header", header, *axe)
    finally:
        server.should_exit = True
        thread.join()
    assert [request.outcome for request in requests(Runtime(settings).store, "class_super")].count("ACCEPTED") == 4


_JOBS = """{ repositoryOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "classfeed"}) {
    ... on Repository { jobs { name runs(limit: 10) { runId } } } } }"""


def test_runs_of_the_command_line_are_shown_under_their_job(ui: Ui) -> None:
    jobs = {job["name"]: len(job["runs"]) for job in ask(ui.address, _JOBS, {})["repositoryOrError"]["jobs"]}
    assert jobs["class_super_job"] >= 2
    assert jobs["class_super_reconciliation_job"] >= 1  # the daemon reconciles the other dates meanwhile
