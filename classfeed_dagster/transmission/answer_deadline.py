"""HTTP client whose answers have a deadline, headers included.

A socket's timeout limits each read. A server that sends its headers one byte at a time would be waited for without
limit.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class _UntilDeadline(io.RawIOBase):
    """Reader of a socket up to a deadline, which is as far away as the socket's timeout."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._received = sock, sock.makefile("rb", buffering=0)
        seconds = sock.gettimeout()
        self._ends_at = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._ends_at is not None:
            remaining = self._ends_at - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("the answer did not end in time")
            self._sock.settimeout(remaining)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilDeadline(sock))


class _HttpConnection(HTTPConnection):
    response_class = _Answer


class _HttpsConnection(HTTPSConnection):
    response_class = _Answer


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def open_pool(seconds: float, ca_file: str | None) -> urllib3.PoolManager:
    """Return a pool of connections without retries.

    ``seconds``: limit of connecting, of sending each block, and of the whole answer. ``ca_file``: certificates to trust
    in place of the system's.
    """
    trusted = {"ca_certs": ca_file} if ca_file else {}
    pool = urllib3.PoolManager(timeout=seconds, retries=False, **trusted)  # type: ignore[arg-type]
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool
