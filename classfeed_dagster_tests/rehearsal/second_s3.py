"""Second S3 of the rehearsal: localbucket, which shares no code with moto, behind the names that AWS gives to buckets."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from urllib.parse import urlsplit

_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "expect"}


def serve_bucket_names(endpoint: str) -> int:
    """Serve ``bucket.s3.…`` and ``s3.…/bucket`` from a server that knows paths only; return the port."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = read_chunks(self.rfile)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            bucket, dot, _ = self.headers["Host"].partition(".s3.")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection = http.client.HTTPConnection(upstream, timeout=60)
            connection.request(self.command, f"/{bucket}{self.path}" if dot else self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def read_chunks(file: BufferedIOBase) -> bytes:
    """Read a body in chunks, and the checksum that trails it; return the content."""
    content = b""
    while size := int(file.readline().partition(b";")[0], 16):
        content += file.read(size)
        file.readline()
    while file.readline().strip():
        pass
    return content
