"""The release calendar: open hours, freezes, and the recorded override."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deploy.release_window import closed, decide

ROOT = Path(__file__).parent.parent.parent
SYDNEY = ZoneInfo("Australia/Sydney")


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=SYDNEY)


@pytest.mark.parametrize(
    "moment",
    ["2026-03-04 09:00", "2026-03-04 14:59", "2026-06-23 10:00", "2026-07-08 10:00", "2026-12-23 10:00"],
)
def test_release_window_is_open(moment: str) -> None:
    assert closed(at(moment)) is None


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("2026-03-04 08:59", "it is 08:59 in Sydney"),
        ("2026-03-04 15:00", "it is 15:00 in Sydney"),
        ("2026-03-07 10:00", "not an ASX business day"),
        ("2026-01-26 10:00", "not an ASX business day"),
        ("2026-06-24 10:00", "end of the financial year"),
        ("2026-06-30 10:00", "end of the financial year"),
        ("2026-07-07 10:00", "end of the financial year"),
        ("2026-12-24 10:00", "half day"),
        ("2026-12-31 10:00", "half day"),
        ("2027-12-24 10:00", "half day"),
        ("2028-12-22 10:00", "half day"),  # Christmas Eve is a Sunday
        ("2026-04-02 10:00", "before a public holiday"),  # Good Friday follows
        ("2026-01-23 10:00", "before a public holiday"),  # Australia Day is a Monday
    ],
)
def test_release_window_is_closed(moment: str, reason: str) -> None:
    assert reason in (closed(at(moment)) or "")


def test_release_window_binds_production_only() -> None:
    assert decide("stg", at("2026-06-30 10:00"), {}) == (0, "release window of stg is open")


def test_closed_window_names_the_reason_and_the_way_out() -> None:
    code, message = decide("prod", at("2026-03-04 06:30"), {"OVERRIDE": "  "})
    assert code == 3
    assert "06:30 in Sydney" in message
    assert "with an override" in message


def test_override_of_a_closed_window_names_person_and_reason() -> None:
    code, message = decide("prod", at("2026-06-30 10:00"), {"OVERRIDE": "incident 7: kim and pat", "BY": "pat"})
    assert code == 0
    assert message.endswith("Override by pat: incident 7: kim and pat")


def test_release_window_needs_the_standard_library_only() -> None:
    command = [sys.executable, "-S", "-m", "deploy.release_window", "dev"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "release window of dev is open\n", "")


def test_deployment_asks_the_window_first_and_records_an_override() -> None:
    script = (ROOT / "deploy" / "release").read_text()
    deploy = script[script.index("\ndeploy() {") :]
    assert deploy.index('window "$environment"') < deploy.index("stack ")
    assert 'python3 -m deploy.release_window "$1"' in script
    assert "override: $OVERRIDE" in script
    workflow = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    assert "OVERRIDE: ${{ inputs.override }}" in workflow
