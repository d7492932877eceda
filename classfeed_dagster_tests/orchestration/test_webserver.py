"""Additions to Dagster's webserver: local pages, and the tags that the list of runs leaves out."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.testclient import TestClient

from classfeed_dagster import tags
from classfeed_dagster.orchestration.local_pages import DOCS
from classfeed_dagster.orchestration.webserver import Webserver, markdown_page
from classfeed_dagster_tests.test_readme import anchors


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceProcessContext]:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as process,
    ):
        yield process


@pytest.fixture
def client(workspace: WorkspaceProcessContext, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    def open_client(store: str, prefix: str = "") -> TestClient:
        monkeypatch.setenv("CLASSFEED_STORE_URL", store)
        return TestClient(Webserver(workspace, prefix).create_asgi_app())

    return open_client


def test_webserver_serves_reports_and_manifests_alone(client: Callable[..., TestClient], tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "r0").mkdir(parents=True)
    (store / "r0" / "manifest.json").write_text('{"feed": "class_super"}')
    (store / "r0" / "page.xml").write_text("<x/>")
    (tmp_path / "secret.json").write_text("{}")
    (store / "link.json").symlink_to(tmp_path / "secret.json")
    ask = client(str(store))
    page = ask.get("/classfeed/store/r0/manifest.json")
    assert (page.status_code, page.json()) == (200, {"feed": "class_super"})
    assert page.headers["content-security-policy"].startswith("sandbox;")
    for refused in ("r0/page.xml", "link.json", "%2e%2e/secret.json", "..%2fsecret.json", "r0", "absent.html"):
        assert ask.get(f"/classfeed/store/{refused}").status_code == 404, refused


def test_webserver_of_a_bucket_serves_no_local_pages(client: Callable[..., TestClient]) -> None:
    assert "sandbox" not in str(client("s3://feeds/prod").get("/classfeed/docs/ui.md").headers)


def test_webserver_shows_the_docs_with_their_anchors(client: Callable[..., TestClient], tmp_path: Path) -> None:
    page = client(str(tmp_path)).get("/classfeed/docs/runbook.md")
    assert page.headers["content-type"].startswith("text/html")
    assert anchors(DOCS / "runbook.md") - set(re.findall(r' id="([^"]+)"', page.text)) <= {"runbook"}  # the title
    assert "<script>" not in markdown_page("<script>alert(1)</script>")


def test_local_docs_pages_have_no_dead_link(client: Callable[..., TestClient], tmp_path: Path) -> None:
    server, pages, dead = client(str(tmp_path)), {"/classfeed/README.md", "/classfeed/CONTRIBUTING.md"}, []
    pages |= {f"/classfeed/docs/{path.relative_to(DOCS).as_posix()}" for path in DOCS.rglob("*.md")}
    for page in sorted(pages):
        for link in re.findall(r'(?:href|src)="([^"]+)"', server.get(page).text):
            address, _, anchor = urljoin(page, link).partition("#")
            if "://" not in address and not address.startswith("data:"):
                answer = server.get(address)
                if "sandbox" not in str(answer.headers) or (anchor and f' id="{anchor}"' not in answer.text):
                    dead.append((page, link))
    assert dead == []
    for hidden in (
        "classfeed_dagster/settings.py",
        "../README.md",
        "docs/../dagster.yaml",
        ".venv/pyvenv.cfg",
        "LICENSE",
    ):
        assert "sandbox" not in str(server.get(f"/classfeed/{hidden}").headers), hidden


@pytest.mark.parametrize("prefix", ["", "/view"])
def test_webserver_leaves_two_tags_in_the_list(client: Callable[..., TestClient], prefix: str) -> None:
    page = client("s3://feeds/prod", prefix).get(f"{prefix}/runs")
    script = page.text.partition("window.__webpack_public_path__")[0].rpartition("<script")[2]
    hidden = {value for name, value in vars(tags).items() if name.endswith("_TAG") and value.startswith("classfeed/")}
    assert all(tag in script for tag in hidden - {tags.REASON_TAG})
    assert tags.REASON_TAG not in script
    assert int(page.headers["content-length"]) == len(page.content)
