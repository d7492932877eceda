"""A local server that stands for Slack and PagerDuty: tests look at what a reader would see."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@dataclass
class Message:
    """A message in a channel, as its readers see it now."""

    channel: str
    ts: str
    text: str
    blocks: list[dict[str, Any]]
    replies: list[str] = field(default_factory=list)
    at: float = field(default_factory=time.monotonic)

    @property
    def seen(self) -> str:
        """All the text of the message's blocks, in order."""
        return "\n".join(_texts(self.blocks))


@dataclass
class Switchboard:
    """Slack and PagerDuty together. ``fails``: everything sent is refused."""

    url: str
    messages: list[Message] = field(default_factory=list)
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)  # open ones, by their key
    calls: list[str] = field(default_factory=list)
    fails: bool = False

    def take(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer one call."""
        self.calls.append(path)
        if self.fails:
            return 503, {"ok": False, "error": "service_unavailable"}
        if path == "/v2/enqueue":
            if body["event_action"] == "trigger":
                self.pages[body["dedup_key"]] = body
            else:
                del self.pages[body["dedup_key"]]
            return 202, {"status": "success"}
        if path == "/api/chat.postMessage" and body.get("thread_ts"):
            self._message(body["thread_ts"]).replies.append(body["text"])
            return 200, {"ok": True, "channel": body["channel"], "ts": f"{len(self.calls)}.9"}
        if path == "/api/chat.postMessage":
            message = Message(body["channel"], f"{len(self.calls)}.0", body["text"], _blocks(body))
            self.messages.append(message)
            return 200, {"ok": True, "channel": message.channel, "ts": message.ts}
        assert path == "/api/chat.update", path
        message = self._message(body["ts"])
        message.text, message.blocks = body["text"], _blocks(body)
        return 200, {"ok": True, "channel": message.channel, "ts": message.ts}

    def _message(self, ts: str) -> Message:
        return next(message for message in self.messages if message.ts == ts)


@contextmanager
def running_switchboard() -> Iterator[Switchboard]:
    """A running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if "json" in self.headers["Content-Type"]:
                body = json.loads(data)
            else:
                body = {name: values[0] for name, values in parse_qs(data).items()}
            status, answer = board.take(self.path, body)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    board = Switchboard(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = body.get("blocks", [])
    found: list[dict[str, Any]] = json.loads(blocks) if isinstance(blocks, str) else blocks
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value["text"]
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
