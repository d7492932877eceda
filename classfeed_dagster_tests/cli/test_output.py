"""Tables of the commands at every width: no key is cut, and every command prints by the same functions."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from classfeed_dagster.cli import output

ROW = ["2026-11-27", "SW99000005", "partly delivered (shadow: revision 1, 2)", "breaks unwritable_character " * 9]


@pytest.mark.parametrize("width", [None, 20, 40, 80, 120], ids=["pipe", "20", "40", "80", "120"])
def test_table_at_any_width_shows_every_key_whole(width: int | None) -> None:
    console = output.console() if width is None else Console(width=width)
    console.file = io.StringIO()
    output.print_table(
        console, "deliveries", ["date", "portfolio", "state", "why"], [ROW], keys=("date", "portfolio", "state")
    )
    text = console.file.getvalue()
    for key in ROW[:3]:
        assert key in text
    assert "…" not in text


def test_commands_print_tables_by_one_function() -> None:
    modules = [path for path in Path(output.__file__).parent.glob("*.py") if path.name != "output.py"]
    own = [path.name for path in modules if re.search(r"rich\.table|\bConsole\(", path.read_text())]
    assert own == []


def test_narrow_table_leaves_out_optional_columns_and_stays_a_table() -> None:
    console = Console(width=80, file=io.StringIO())
    columns = ["date", "state", "held back now", "correlation id"]
    rows = [["2026-11-27", "partly delivered (shadow: revision 1)", "31", "d4128b84aba045ce9a40f92f304a2bc4"]]
    output.print_table(console, "", columns, rows, keys=columns, optional=["correlation id"])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "correlation" not in text
    assert "date: " not in text
    assert "partly delivered (shadow: revision 1)" in text
