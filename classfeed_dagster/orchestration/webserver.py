"""Dagster's webserver with two additions: few tags in the list of runs, and, on a laptop, reports and docs as pages.

``python -m classfeed_dagster.orchestration.webserver`` takes the options of ``dagster-webserver``.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster_webserver.app
import dagster_webserver.cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from classfeed_dagster import html_page, tags
from classfeed_dagster.orchestration.local_pages import DOCS, DOCS_PATH, PAGES_PATH, STORE_PATH

# Shown by "View all tags" and found by a search. The list shows the partition and the reason.
_UNLISTED = (
    tags.CORRELATION_TAG, tags.CLOCK_TAG, tags.FEED_TAG, tags.CODE_VERSION_TAG, tags.LAUNCHED_BY_TAG, tags.FINDING_TAG,
    tags.ATTEMPT_TAG, tags.RERUN_TAG, tags.INBOX_TAG, tags.BUILD_ID_TAG, tags.COMPARED_TAG,
)  # fmt: skip
# The UI keeps what a person hides in the browser: a browser without a choice gets ours, a phone without navigation.
_FIRST_CHOICES = f"""{{let first = (key, value) => localStorage.getItem(key) || localStorage.setItem(key, value);
first("unpinned-tags", {json.dumps(json.dumps(_UNLISTED))});
innerWidth < 700 && first("dagster-nav-collapsed", "true")}};
"""
_FIRST_SCRIPT = b"window.__webpack_public_path__"
_SERVED = (".html", ".json")  # of the store: reports, manifests, descriptors; no documents
_STYLE = """
pre{overflow-x:auto;background:var(--wash);padding:.7rem}img{max-width:100%}
:target{background:var(--wash)}
"""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


class Webserver(DagsterWebserver[Any, Any]):
    """Dagster's webserver, the additions included."""

    def build_static_routes(self) -> list[BaseRoute]:
        """Return Dagster's static files and the local pages."""
        routes: list[BaseRoute] = super().build_static_routes()  # type: ignore[no-untyped-call]
        store = Path(os.environ.get("CLASSFEED_STORE_URL", "s3://"))  # classfeed up names the folder
        return [Mount(PAGES_PATH, routes=local_routes(store, DOCS)), *routes] if store.is_absolute() else routes

    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        """Return the UI's page, whose first script sets the tags that the list of runs leaves out."""
        response: HTMLResponse = super().index_html_endpoint(request)
        response.body = bytes(response.body).replace(_FIRST_SCRIPT, _FIRST_CHOICES.encode() + _FIRST_SCRIPT, 1)
        response.headers["content-length"] = str(len(response.body))
        return response


def local_routes(store: Path, docs: Path) -> list[BaseRoute]:
    """Return the routes of the store's reports and records, of the docs and of what they link to, Markdown as HTML."""
    return [
        Route(f"{STORE_PATH}/{{path:path}}", _files(store, _SERVED)),
        Route(f"{DOCS_PATH}/{{path:path}}", _files(docs, (".md", ".png", ".json"))),
        # What the docs link to. The path excludes the repository's folders, which may hold data.
        Route("/{path}", _files(docs.parent, (".md",))),
        Route("/benchmarks/{path}", _files(docs.parent / "benchmarks", (".py",))),
    ]


def _files(folder: Path, suffixes: tuple[str, ...]) -> Callable[[Request], Response]:
    def serve(request: Request) -> Response:
        path = (folder / request.path_params["path"]).resolve()
        if not path.is_relative_to(folder.resolve()) or path.suffix not in suffixes or not path.is_file():
            raise HTTPException(404, "No such page")
        if path.suffix == ".md":
            return HTMLResponse(markdown_page(path.read_text()), headers=_HEADERS)
        return FileResponse(path, headers=_HEADERS, media_type="text/plain" if path.suffix == ".py" else None)

    return serve


def markdown_page(text: str) -> str:
    """Return Markdown as a page. Its headings have the anchors that the forge gives them."""
    from markdown_it import MarkdownIt  # on the first page

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for opening, title in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", re.sub(r"[^\w\- ]", "", title.content.lower()).replace(" ", "-"))
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    return html_page.page(
        heading[1] if heading else "classfeed", [re.sub(r"<h1.*?</h1>", "", body, count=1)], style=_STYLE
    )


def main() -> None:
    """Run the webserver's command line."""
    dagster_webserver.app.DagsterWebserver = Webserver  # type: ignore[attr-defined]
    dagster_webserver.cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
