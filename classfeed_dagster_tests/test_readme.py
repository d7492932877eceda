"""The README tells the truth: every setting is listed with its meaning, and every linked page exists."""

from __future__ import annotations

import re
from pathlib import Path

from classfeed_dagster.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_listed_and_no_other() -> None:
    listed = dict(re.findall(r"^\| `CLASSFEED_(\w+)` \| [^|]* \| (.*) \|$", README, re.MULTILINE))
    assert listed == {name.upper(): field.description for name, field in Settings.model_fields.items()}


def test_the_two_commands_come_first() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("##")


def test_linked_pages_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
