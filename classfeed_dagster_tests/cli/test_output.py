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


def test_terminal_wraps_sentences_at_words_and_no_location(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    console = output.console()
    console.file = io.StringIO()
    location = "/a/folder/that/is/longer/than/the/terminal/is/wide/manifest.json"
    sentence = (
        f"  [bold]nothing new to deliver[/]; this attempt would hold back 1 portfolio: {location}\n\n  {location}"
    )
    console.print(sentence)
    lines = re.sub(r"\x1b\[\d*m", "", console.file.getvalue()).splitlines()
    assert lines[-3:] == [location, "", f"  {location}"]
    assert all(len(line) <= 40 for line in lines if location not in line), lines
    assert lines[0].startswith("  nothing new"), lines


def test_table_breaks_no_word_that_the_terminal_has_room_for() -> None:
    console = Console(width=80, file=io.StringIO())
    rows = [
        ["2023-01-04", "2026-12-01 03:22", "root", "re-run accepted", "the recipient asked"],
        ["2023-01-05", "2026-12-01 03:23", "root", "refresh of SW99000289 accepted", "lost-history-at-Class"],
    ]
    output.print_table(console, "", ["date", "at", "person", "action", "reason"], rows, keys=["date", "at"])
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(any(word in line for line in lines) for row in rows for cell in row for word in cell.split()), lines


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
