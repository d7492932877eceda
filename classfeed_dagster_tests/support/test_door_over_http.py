"""Attacks on the support door as a real process, over real connections."""

from __future__ import annotations

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from classfeed_dagster.settings import Settings
from classfeed_dagster.support.alb_identity import HEADER
from classfeed_dagster_tests.support.test_reruns import PUBLIC_KEY, REASON, SIGNER, signed

pytestmark = pytest.mark.slow

HOST = "classfeed.broker.example"
ORIGIN = f"https://{HOST}"


@dataclass
class Door:
    """A door's port, its store, and the starts that its webserver was asked for."""

    port: int
    store: Path
    starts: list[dict[str, Any]]

    def send(self, *parts: bytes, pause: float = 0.0, wait: float = 30.0) -> tuple[int, str]:
        """Send raw bytes with a pause between the parts; return status and text, or 0 if the door hung up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the door answered before the end
            answer = b""
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
            except ConnectionResetError:
                pass
        status = re.match(rb"HTTP/1\.1 (\d+)", answer)
        return (int(status[1]) if status else 0), answer.decode(errors="replace")

    def post(self, body: bytes, path: str = "/rerun", *lines: str, token: str | None = None, **options: Any) -> Any:
        """Post a form."""
        length = [f"Content-Length: {len(body)}"]
        return self.send(head(path, *(lines or (f"Origin: {ORIGIN}",)), *length, token=token) + body, **options)

    def records(self) -> list[str]:
        """Return the keys of the stored requests."""
        return sorted(str(path.relative_to(self.store)) for path in self.store.glob("reruns/**/*.json"))


def head(path: str, *lines: str, token: str | None = None) -> bytes:
    """Return the head of a post by a signed-in member of the group."""
    fixed = (f"POST {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", f"{HEADER}: {token or signed()}")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


def form(**fields: str) -> bytes:
    """Return the form of a re-run."""
    return urlencode({"feed": "class_super", "date": "2026-03-04", "reason": REASON} | fields).encode()


class _Webserver(http.server.BaseHTTPRequestHandler):
    starts: list[dict[str, Any]]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data: dict[str, Any] = {"runsOrError": {"__typename": "Runs", "results": []}}
        if "launchRun" in question["query"]:
            self.starts.append(question["variables"]["params"])
            data = {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": f"run-{len(self.starts)}"}}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": data}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    (folder / "key.pem").write_text(PUBLIC_KEY)
    starts: list[dict[str, Any]] = []
    handler = type("Handler", (_Webserver,), {"starts": starts})
    webserver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=webserver.serve_forever, daemon=True).start()
    arguments = [str(folder / "store"), str(folder / "key.pem"), f"http://127.0.0.1:{webserver.server_port}", SIGNER]
    command = [sys.executable, "-m", "classfeed_dagster_tests.fixtures.door_server", *arguments]
    log = folder / "log"
    with log.open("w") as file:
        door = subprocess.Popen(command, stdout=file, stderr=file)
    while "running on" not in log.read_text() and door.poll() is None:
        time.sleep(0.1)
    port = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())
    assert port is not None, log.read_text()
    try:
        yield Door(int(port[1]), folder / "store", starts)
    finally:
        door.terminate()
        door.wait(20)
        webserver.shutdown()
        webserver.server_close()


@pytest.fixture
def door(process: Door) -> Iterator[Door]:
    """Yield the door with an empty store."""
    for key in process.records():
        (process.store / key).unlink()
    process.starts.clear()
    yield process
    status, _ = process.send(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    assert status == 200  # whatever was sent, it still answers


def _chunks(body: bytes, size: int = 1000) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        part = body[at : at + size]
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
    yield b"0\r\n\r\n"


def test_chunked_form_is_accepted_small_and_refused_large(door: Door) -> None:
    chunked = head("/rerun", f"Origin: {ORIGIN}", "Transfer-Encoding: chunked")
    assert door.send(chunked, *_chunks(form()))[0] == 202
    status, text = door.send(chunked, *_chunks(form(reason="x" * 5_000_000)))
    assert (status, "too large" in text) in ((400, True), (0, False))
    assert len(door.starts) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 9999999999",),
        ("Content-Length: -1",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 10", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip",),
        ("Content-Length: 0x10",),
    ],
)
def test_contradictory_lengths_are_refused_and_start_nothing(door: Door, lines: tuple[str, ...]) -> None:
    status, _ = door.send(head("/rerun", f"Origin: {ORIGIN}", *lines) + form(), wait=15)
    assert status in (400, 501)
    assert door.starts == []
    assert door.records() == []


def test_slow_body_is_refused_after_a_bounded_time(door: Door) -> None:
    body = form()
    length = f"Content-Length: {len(body)}"
    parts = [head("/rerun", f"Origin: {ORIGIN}", length), *(body[at : at + 1] for at in range(len(body)))]
    status, text = door.send(*parts, pause=0.5, wait=60)
    assert status == 408, text[-500:]
    assert door.starts == []


def test_connections_that_send_nothing_keep_nobody_out(door: Door) -> None:
    idle = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(300)]
    try:
        assert door.post(form())[0] == 202
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("fields", [{"reason": "short"}, {"reason": "call jane@example.com about it"}])
def test_many_refusals_at_once_leave_one_record_and_take_no_number(door: Door, fields: dict[str, str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: door.post(form(**fields))[0], range(200)))
    assert set(answers) == {403}
    assert len(door.records()) == 1
    assert door.post(form())[0] == 202
    assert "reruns/class_super/00000001.json" in door.records()


@pytest.mark.parametrize("feed", ["class_trade", "class_sooper", "../class_super", "class_super\x00", "CLASS_SUPER"])
@pytest.mark.parametrize("path", ["/rerun", "/rerun/refresh"])
def test_feed_that_is_not_offered_is_refused_without_record(door: Door, feed: str, path: str) -> None:
    fields = {"feed": feed, "reason": REASON} | (
        {"portfolio": "SW00000001"} if "refresh" in path else {"date": "2026-03-04"}
    )
    assert door.post(urlencode(fields).encode(), path)[0] == 400
    assert door.records() == []


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Origin: null",),
        ("Origin: https://evil.example",),
        (f"Origin: {ORIGIN}.evil.example",),
        ("Origin: https://[",),
        (f"Origin: {ORIGIN}", "Origin: https://evil.example"),
        (f"Referer: {ORIGIN}/rerun",),
    ],
)
def test_form_of_another_site_is_refused(door: Door, lines: tuple[str, ...]) -> None:
    status, _ = door.post(form(), "/rerun", *(lines or ("X: y",)))
    assert status == 400
    assert door.starts == []


def test_replayed_form_starts_no_more_than_the_budget(door: Door) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: door.post(form())[0], range(40)))
    assert answers.count(202) == len(door.starts) == Settings().rerun_budget
    assert set(answers) <= {202, 403, 502}
    expired = signed(exp=int(time.time()) - 60)
    assert door.post(form(), token=expired)[0] == 401


@pytest.mark.parametrize(
    "reason",
    [
        "the file is missing\r\nX-Injected: yes",
        "the file is missing\x00 today",
        "the file is missing \u202egnissim\u202c today",
        "the file is missing \u2066today\u2069 again",
        "the file \u200bis missing\u2028again",
        "the file is missing \ud83d",
        "jane\uff20example.com asked for the file",
        "the customer with 123.456.782 asked for it",
        "the customer with 12/345/6782 or TFN 123 456 78",
    ],
)
def test_reason_with_hidden_characters_or_identifiers_is_refused(door: Door, reason: str) -> None:
    body = b"feed=class_super&date=2026-03-04&reason=" + b"".join(
        b"%%%02X" % byte for byte in reason.encode("utf-8", "surrogatepass")
    )
    status, text = door.post(body)
    assert status in (400, 403), text[-500:]
    assert "X-Injected" not in text.partition("\r\n\r\n")[0]
    assert "jane" not in text
    for key in door.records():
        stored = (door.store / key).read_text()
        assert "123.456.782" not in stored
        assert "jane" not in stored
    assert door.starts == []


def test_reason_with_markup_reaches_neither_page_nor_run(door: Door) -> None:
    reason = "<!channel> <script>alert(1)</script> <https://evil.example|here> *now*"
    status, text = door.post(form(reason=reason))
    assert status == 202, text[-500:]
    assert "<script" not in text
    assert "<!channel>" not in text
    (start,) = door.starts
    assert "channel" not in json.dumps(start)
    assert start["runConfigData"] == {}
