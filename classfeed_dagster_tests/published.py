"""Published material that tests read where it is found: it belongs to others, so it is never copied into the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_NOTES = Path(__file__).parents[2] / "shared" / "data" / "selfwealth_contract_notes.json"

needs_contract_notes = pytest.mark.skipif(
    not _NOTES.exists(),
    reason="a broker's published contract notes may be read beside the project, in ../shared/data, but not copied",
)


def contract_notes() -> list[dict[str, Any]]:
    """A broker's published contract notes, as they were printed."""
    notes: list[dict[str, Any]] = json.loads(_NOTES.read_text())
    return notes
