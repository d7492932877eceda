"""The README is true: every setting is listed with its meaning, and every linked page exists."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
_spec = importlib.util.spec_from_file_location("render_docs", ROOT / "scripts" / "render_docs.py")
assert _spec is not None
assert _spec.loader is not None
render_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(render_docs)


def test_contracts_with_recipients_are_those_of_the_declarations() -> None:
    for file, text in render_docs.contracts().items():
        assert file.read_text() == text, f"{file.name} is out of date: run make docs"


@pytest.mark.parametrize("page", sorted({page for page, _ in render_docs.PARTS}))
def test_generated_parts_are_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text()
    assert render_docs.rendered(page, text) == text, "run make docs"


def test_manifest_schema_file_is_what_the_code_says() -> None:
    text = (ROOT / render_docs.MANIFEST_SCHEMA).read_text()
    assert text == render_docs.manifest_schema(), "run make docs"
    assert json.loads(text)["$id"] == "urn:classfeed:manifest:2"


def test_checks_have_a_runbook_section() -> None:
    headings = set(re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    graph = build_definitions(Runtime(Settings())).resolve_asset_graph()
    linked = {
        anchor
        for check in graph.asset_check_keys
        for anchor in re.findall(r"docs/runbook\.md#([\w-]+)", graph.get(check).description or "")
    }
    assert linked
    assert linked <= headings, sorted(linked - headings)


def test_alerts_link_to_a_runbook_section() -> None:
    headings = set(re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    sources = "".join(path.read_text() for path in (ROOT / "classfeed_dagster" / "alerting").glob("*.py"))
    linked = set(re.findall(r'runbook="([\w-]+)"', sources))
    assert {"late", "held-back", "watchdog"} <= linked
    assert linked <= headings, sorted(linked - headings)


def test_readme_begins_with_the_two_commands() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("##")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    }


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_pages_and_sections_exist(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#?)([^)\s]*)\)", page.read_text()):
        if target.startswith("http"):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{page.name} links to #{anchor} of {linked.name}, which does not exist"


def test_readme_links_every_page_under_docs() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)\)", README))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= linked, sorted(pages - linked)
