"""The checker of the house style finds what the style forbids, and the number of findings only falls."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("house_style", ROOT / "scripts" / "house_style.py")
assert _spec is not None
assert _spec.loader is not None
house_style = importlib.util.module_from_spec(_spec)
sys.modules["house_style"] = house_style
_spec.loader.exec_module(house_style)
RULES = house_style.style()


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("docs/a.md", "# Data flow\n\nShards are merged.\n", []),
        ("docs/a.md", "# What it does\n", [("heading", 1)]),
        ("docs/a.md", "### everyone-consented\n", []),
        ("docs/a.md", "### Everyone consented\n", [("page-word", 1)]),
        ("docs/a.md", "# Data flow\n\nOne line.\nThe rule is mended.\n", [("page-word", 4)]),
        ("docs/a.md", "```\nmended\n```\n`mended` [x](mended.md)\n", []),
        ("classfeed_dagster/a.py", '"""What it is."""\n', [("docstring", 1)]),
        (
            "classfeed_dagster/a.py",
            '"""Incidents."""\ndef f():\n    """The open incidents."""\n',
            [("docstring-verb", 3)],
        ),
        ("classfeed_dagster/a.py", '"""Incidents."""\ndef f():\n    """Return the open incidents."""\n', []),
        ("classfeed_dagster/a.py", 'raise ValueError(f"{x} is told\\n")\n', [("word", 1)]),
        ("classfeed_dagster_tests/a.py", f"def test_{'x' * 62}_y_z(): ...\n", [("test-name", 1)]),
        ("classfeed_dagster_tests/a.py", f"def test_{'x' * 61}_y_z(): ...\n", []),
        ("classfeed_dagster_tests/a.py", "def test_what_is_sent(): ...\n", [("test-name", 1)]),
        ("classfeed_dagster_tests/a.py", "def test_page_split(): ...\n", [("test-name", 1)]),
        ("classfeed_dagster_tests/a.py", "found = 1\nfor one in found: ...\n", [("local-name", 1), ("local-name", 2)]),
        ("classfeed_dagster_tests/a.py", "x = 1\ny = 2  # mended\n", [("word", 2)]),
        ("pyproject.toml", "mended", []),
    ],
)
def test_checker_finds_what_the_style_forbids(path: str, text: str, expected: list[tuple[str, int]]) -> None:
    assert [(finding.rule, finding.line) for finding in house_style.check(path, text, RULES)] == expected


def test_checker_finds_class_names_that_exist_twice() -> None:
    (result,) = house_style.duplicate_classes(
        {"a.py": "class Kind: ...\nclass _Own: ...\n", "b.py": "class Kind: ...\n"}
    )
    assert str(result) == "b.py:1: class-name: Kind is also in a.py"


def test_rule_without_a_number_allows_nothing() -> None:
    finding = house_style.Finding("a.md", 1, "word", "x")
    assert house_style.exceeded([finding, finding], {}) == {"word": 2}
    assert house_style.exceeded([finding, finding], {"word": 1}) == {"word": 2}
    assert house_style.exceeded([finding, finding], {"word": 2}) == {}
