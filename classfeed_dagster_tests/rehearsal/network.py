"""The rehearsal's network: names, addresses, TLS as in AWS, and an egress proxy. All in namespaces of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from classfeed_dagster_tests.fixtures.certificates import Authority, Certificate
from classfeed_dagster_tests.fixtures.postgres_tls_proxy import pump

REGION = "ap-southeast-2"
BRIDGE = "10.77.0.1"
METADATA = "169.254.170.2"
# Addresses of the parts and of the tasks.
ADDRESSES = {"database": "10.77.0.2", "bigsite": "10.77.0.3", "aws": "10.77.0.4", "egress": "10.77.0.5",
             "ecs": "10.77.0.6", "snowflake": "10.77.0.7", "people": "10.77.0.8", "broker": "10.77.0.9",
             "store": "10.77.0.10", "keys": "10.77.0.11", "collector": "10.77.0.12", "balancer": "10.77.0.13",
             "identity": "10.77.0.14"}  # fmt: skip
_FIRST_TASK = 20
# A process namespace too, so that everything ends with the rehearsal, however that ends.
_UNSHARE = (
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


def run(*command: str) -> None:
    """Run a command that must succeed."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {process.stderr.strip() or process.stdout.strip()}")


def enter_namespaces(module: str, arguments: list[str]) -> int:
    """Run a module again in network and mount namespaces of its own; return its exit code."""
    import sys

    inner = [sys.executable, "-m", module, *arguments]
    return subprocess.run([*_UNSHARE, *inner], check=False).returncode


class Network:
    """Bridge with every part's address, a name server as a VPC has it, and a network namespace per task.

    Attributes:
        names: addresses by host name, as the name server gives them.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self._folder, self._tasks = folder, 0
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "classfeed0", "type", "bridge")
        run("ip", "link", "set", "classfeed0", "up")
        for address in (BRIDGE, *ADDRESSES.values()):
            run("ip", "address", "add", f"{address}/16", "dev", "classfeed0")
        run("ip", "address", "add", f"{METADATA}/32", "dev", "classfeed0")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        Path("/run/netns").mkdir()
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {BRIDGE}\noptions timeout:20\n")  # the machine may be busy
        run("mount", "--bind", str(resolver), "/etc/resolv.conf")
        _serve_names(self.names)

    def attach(self, name: str) -> str:
        """Create a task's network namespace; return its address."""
        self._tasks += 1
        address = f"10.77.1.{_FIRST_TASK + self._tasks}"
        inside, outside = f"t{self._tasks}", f"b{self._tasks}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        run("ip", "link", "set", outside, "master", "classfeed0", "up")
        for command in (
            ("link", "set", "lo", "up"), ("address", "add", f"{address}/16", "dev", inside),
            ("link", "set", inside, "up"), ("route", "add", "default", "via", BRIDGE),
        ):  # fmt: skip
            run("ip", "-n", name, *command)
        return address

    def trust(self, authority: Authority, *environments: Path, root: Path = Path("/")) -> None:
        """Let every process trust the rehearsal's authority, whichever bundle of certificates its client reads."""
        system = "etc/ssl/certs/ca-certificates.crt"
        bundles = [Path(ssl.get_default_verify_paths().openssl_cafile), Path("/") / system, root / system]
        for environment in environments:
            for package in ("certifi", "botocore"):
                bundles += environment.glob(f"lib/python3*/site-packages/{package}/cacert.pem")
        for number, bundle in enumerate(dict.fromkeys(bundles)):
            if bundle.exists():
                copy = self._folder / f"bundle-{number}.pem"
                shutil.copy(bundle, copy)
                with copy.open("ab") as file:
                    file.write(b"\n" + authority.bundle.read_bytes())
                copy.chmod(0o644)
                run("mount", "--bind", str(copy), str(bundle.resolve()))


def _serve_names(names: Mapping[str, str]) -> None:
    # Clients also ask for IPv6 addresses, and wait for the answer that there is none.
    class Handler(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(answer_query(self.rfile.read(), names))

    server = socketserver.ThreadingUDPServer((BRIDGE, 53), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def answer_query(query: bytes, names: Mapping[str, str]) -> bytes:
    """Return the answer to a DNS query with one question: an address, no address of that type, or no such name."""
    labels, end = [], 12
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode("ascii").lower())
        end += 1 + query[end]
    question = query[12 : end + 5]
    address = names.get(".".join(labels))
    known = address is not None and question[-4:] == b"\0\1\0\1"  # type A, class IN
    header = query[:2] + struct.pack(">5H", 0x8580 if address is not None else 0x8583, 1, known, 0, 0)
    if address is None or not known:
        return header + question
    return header + question + struct.pack(">HHHIH", 0xC00C, 1, 1, 10, 4) + socket.inet_aton(address)


class Forwarders:
    """TLS in front of plain servers, and the egress proxy, in a thread of its own."""

    def __init__(self, certificate: Certificate, names: Mapping[str, str]) -> None:
        self._names = names
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.chain, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.refused: list[str] = []
        self.connected: set[str] = set()

    def tls(self, address: str, port: int) -> None:
        """Listen with TLS on an address and forward to a port of this machine."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _join(reader, writer, "127.0.0.1", port)

        self._start(asyncio.start_server(serve, address, 443, ssl=self._context))

    def proxy(self, address: str, port: int) -> None:
        """Listen for CONNECT, and forward to the rehearsal's parts in place of the real hosts."""
        self._start(asyncio.start_server(self._connect, address, port))

    def _start(self, starting: object) -> None:
        asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)  # type: ignore[arg-type]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, *_ = head.split()
            host, _, port = target.partition(":")
            if method != "CONNECT" or host not in self._names:
                self.refused.append(f"{method} {target}")
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            self.connected.add(host)
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await writer.drain()
            await _join(reader, writer, self._names[host], int(port))


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            writer.close()
