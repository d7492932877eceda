"""The question whether a release works: valid in Dagster's schema, and answered no when anything is wrong."""

from __future__ import annotations

import http.server
import importlib.machinery
import importlib.util
import json
import threading
from collections.abc import Iterator
from typing import Any

import graphql
import pytest
from dagster_graphql.schema import create_schema

from classfeed_dagster_tests.fixtures.templates import ROOT

_LOADER = importlib.machinery.SourceFileLoader("smoke", str(ROOT / "deploy" / "smoke"))
_SPEC = importlib.util.spec_from_loader("smoke", _LOADER)
assert _SPEC is not None
smoke: Any = importlib.util.module_from_spec(_SPEC)
_LOADER.exec_module(smoke)

WELL: dict[str, Any] = {
    "workspaceOrError": {
        "__typename": "Workspace",
        "locationEntries": [{"locationOrLoadError": {"repositories": [{"jobs": [{"name": "class_super_job"}]}]}}],
    },
    "instance": {
        "daemonHealth": {
            "allDaemonStatuses": [
                {"daemonType": "SENSOR", "required": True, "healthy": True},
                {"daemonType": "BACKFILL", "required": False, "healthy": None},
            ]
        }
    },
    "startSensor": {"__typename": "UnauthorizedError"},
    "health": 200,
    "rerun": 401,
}


@pytest.fixture
def answers() -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(WELL))
    return copied


@pytest.fixture
def url(answers: dict[str, Any]) -> Iterator[str]:
    """Serve a webserver and a support page at one address, with the given ``answers``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(200, json.dumps({"data": answers}).encode())

        def do_GET(self) -> None:
            self._say(answers[self.path.strip("/")], b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_queries_are_valid_in_dagsters_schema() -> None:
    schema = create_schema().graphql_schema
    for question in (smoke.WORKSPACE, smoke.DAEMONS, smoke.CHANGE):
        assert graphql.validate(schema, graphql.parse(question)) == []


def test_smoke_of_a_working_release_passes(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert smoke.faults(url, url) == []
    monkeypatch.setenv("CLASSFEED_SMOKE_VIEW", url)
    smoke.main()
    assert "works" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "answer", "says"),
    [
        ("workspaceOrError", {"__typename": "PythonError"}, "code location is not loaded"),
        ("workspaceOrError", {"locationEntries": [{"locationOrLoadError": None}]}, "code location is not loaded"),
        (
            "instance",
            {"daemonHealth": {"allDaemonStatuses": [{"daemonType": "SENSOR", "required": True, "healthy": False}]}},
            "SENSOR is not healthy",
        ),
        ("startSensor", {"__typename": "Sensor"}, "accepts a change"),
        ("health", 503, "does not answer"),
        ("rerun", 200, "accepts a request without identity"),
    ],
)
def test_smoke_of_a_broken_release_fails(url: str, answers: dict[str, Any], part: str, answer: Any, says: str) -> None:
    answers[part] = answer
    (text,) = smoke.faults(url, url)
    assert says in text


def test_smoke_gives_up_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSFEED_SMOKE_VIEW", "http://127.0.0.1:9")
    monkeypatch.setenv("CLASSFEED_SMOKE_SECONDS", "0")
    with pytest.raises(SystemExit, match="no answer"):
        smoke.main()
