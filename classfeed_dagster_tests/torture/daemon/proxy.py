"""HTTP proxy in front of the local S3 server that can disturb a request or kill its sender.

Every step of a run ends with something written to the store, so a request is a point of a run that can be named: the
worker that asks for it is known by the other end of its connection.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import psutil

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "host"})


class Effect(enum.StrEnum):
    """Fate of a request."""

    UNAVAILABLE = "503"  # S3's SlowDown
    SLOW = "slow"  # the answer takes long
    CUT = "cut"  # the connection breaks in the middle of the upload
    KILL = "kill"  # its sender is killed before it had any effect
    KILL_AFTER = "kill after"  # its sender is killed after it had its effect and before it knows


@dataclass
class Trouble:
    """Requests ``METHOD /path`` that match ``pattern`` meet ``effect``, ``times`` times at most."""

    pattern: re.Pattern[str]
    effect: Effect
    times: int | None = None
    seconds: float = 0.0
    hits: int = 0
    first_at: float | None = None  # time.monotonic
    victims: list[int] = field(default_factory=list)

    def meets(self, request: str) -> bool:
        """Return True if this request matches, and count it."""
        if (self.times is not None and self.hits >= self.times) or not self.pattern.search(request):
            return False
        self.hits += 1
        self.first_at = self.first_at or time.monotonic()
        return True


class Proxy:
    """A running proxy. ``troubles`` may be changed at any time."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.troubles: list[Trouble] = []
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve for the time of the block."""
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    @contextmanager
    def trouble(
        self, pattern: str, effect: Effect, *, times: int | None = None, seconds: float = 0.0
    ) -> Iterator[Trouble]:
        """Misbehave for the time of the block."""
        trouble = Trouble(re.compile(pattern), effect, times, seconds)
        self.troubles.append(trouble)
        try:
            yield trouble
        finally:
            self.troubles.remove(trouble)

    def met(self, request: str) -> Trouble | None:
        """Return the disturbance of a request."""
        with self.lock:
            return next((item for item in self.troubles if item.meets(request)), None)

    def sender(self, port: int) -> int | None:
        """Return the process at the other end of a connection to the proxy."""
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.raddr
                and connection.laddr.port == port
                and connection.raddr.port == self.port
                and connection.pid
            ):
                return int(connection.pid)
        return None


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore the connections that killed clients leave behind."""


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _take(self) -> None:
        trouble = self.proxy.met(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        if trouble is not None and trouble.effect is Effect.CUT:
            self.rfile.read(length // 2)
            self._break_off()
            return
        body = self.rfile.read(length)
        if trouble is not None and trouble.effect is Effect.UNAVAILABLE:
            self._answer(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        if trouble is not None and trouble.effect is Effect.SLOW:
            time.sleep(trouble.seconds)
        if trouble is not None and trouble.effect is Effect.KILL:
            self._kill(trouble)
            return
        status, headers, data = self._ask(body)
        if trouble is not None and trouble.effect is Effect.KILL_AFTER:
            self._kill(trouble)
            return
        self._answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _take  # noqa: N815 - the library's own names

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            # The host is part of what was signed.
            upstream.request(self.command, self.path, body, {**headers, "Host": self.headers["Host"]})
            answer = upstream.getresponse()
            data = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            return answer.status, kept, data
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        # The client may be dead by now.
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def _kill(self, trouble: Trouble) -> None:
        pid = self.proxy.sender(self.client_address[1])
        if pid is not None and pid != os.getpid():
            trouble.victims.append(pid)  # first: who waits for its end reads it at once
            os.kill(pid, signal.SIGKILL)
        self._break_off()

    def _break_off(self) -> None:
        # A reset, as from a dead machine.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None: ...
