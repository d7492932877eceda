"""Destinations against real servers: SSH, S3 and HTTP on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from classfeed_dagster.cli import preflight
from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.settings import Component, Settings
from classfeed_dagster.transmission.destination import (
    DestinationConflictError,
    DestinationRefusedError,
    HttpsUpload,
    NotSentError,
    OtherBucket,
    OutgoingFile,
    file_name,
)
from classfeed_dagster_tests.fixtures.certificates import Authority
from classfeed_dagster_tests.fixtures.s3_servers import S3_SERVERS, create_bucket
from classfeed_dagster_tests.fixtures.upload_server import DrippingAnswer, EndlessAnswer, Upload, serving

asyncssh = pytest.importorskip("asyncssh", reason="the sftp extra is not installed")

from asyncssh import SFTPServer  # noqa: E402

from classfeed_dagster.transmission.sftp import Sftp  # noqa: E402  # needs the extra


@pytest.fixture
def outgoing(tmp_path: Path) -> OutgoingFile:
    path = tmp_path / "x-20260302-r0-p1.xml"
    path.write_bytes(bytes(range(256)) * 4096)
    return OutgoingFile("x-20260302-r0-p1", path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass
class Victim:
    """Process that the server kills, once."""

    at: str = ""  # moment: upload, written, renamed; or the operation at which the server stalls
    process: int = 0

    def dies(self, moment: str) -> bool:
        """Kill the process at its moment, and return True then."""
        if self.at != moment:
            return False
        self.at = ""
        os.kill(self.process, signal.SIGKILL)
        return True


class KillingServer(SFTPServer):
    """SFTP server on a folder that kills a client at a moment of its upload."""

    def __init__(self, channel: Any, root: Path, victim: Victim) -> None:
        super().__init__(channel, chroot=str(root).encode())
        self.victim = victim

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        if offset and self.victim.at == "upload":
            super().write(file_obj, offset, data[: len(data) // 2])
            file_obj.flush()
            self.victim.dies("upload")
        return super().write(file_obj, offset, data)

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        if self.victim.dies("written"):
            raise asyncssh.SFTPFailure("the client has gone before it asked")
        super().rename(oldpath, newpath)
        self.victim.dies("renamed")


class StallingServer(KillingServer):
    """SFTP server that stops answering at an operation, while its connection stays open."""

    async def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        await self.stall("write")
        return int(super().write(file_obj, offset, data))

    async def close(self, file_obj: Any) -> None:
        await self.stall("close")
        super().close(file_obj)

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        await self.stall("rename")
        await super().rename(oldpath, newpath)

    async def stall(self, operation: str) -> None:
        while self.victim.at == operation:
            await asyncio.sleep(0.01)


class SlowServer(KillingServer):
    """SFTP server that needs some seconds, by the clock of the event loops, for every block of a file."""

    seconds_a_block, passed = 0.0, 0.0

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        self.work(offset)
        return super().write(file_obj, offset, data)

    def read(self, file_obj: Any, offset: int, size: int) -> Any:
        self.work(offset)
        return super().read(file_obj, offset, size)

    def work(self, offset: int) -> None:
        if offset % (1 << 18) == 0:  # the first of a block's packets
            SlowServer.passed += self.seconds_a_block


def slow_time(loop: asyncio.BaseEventLoop) -> float:
    return asyncio.BaseEventLoop.time(loop) + SlowServer.passed


class Meeting:
    """Moments at which two senders of one file wait for each other, and the bytes that the recipient saw first."""

    def __init__(self) -> None:
        self.senders, self.arrived = 0, b""
        self.both, self.renaming, self.second = asyncio.Event(), asyncio.Event(), asyncio.Event()


class MeetingServer(KillingServer):
    """SFTP server at which two senders find no file, and the second opens its part just before the first's rename."""

    meeting: Meeting

    async def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
        if not pflags & asyncssh.FXF_WRITE:
            return super().open(path, pflags, attrs)
        self.meeting.senders += 1
        if self.meeting.senders == 1:
            await self.meeting.both.wait()
            return super().open(path, pflags, attrs)
        self.meeting.both.set()
        await self.meeting.renaming.wait()
        opened = super().open(path, pflags, attrs)
        self.meeting.second.set()
        return opened

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        self.meeting.renaming.set()
        await self.meeting.second.wait()
        await super().rename(oldpath, newpath)
        self.meeting.arrived = Path(self.map_path(newpath).decode()).read_bytes()


UPLOAD = """
import json, sys
from dataclasses import dataclass, replace
from pathlib import Path
from pydantic import SecretStr
from classfeed_dagster.transmission.destination import OutgoingFile
from classfeed_dagster.transmission.sftp import Sftp
given = json.load(sys.stdin)
with Sftp(**given["destination"]).connect({"key": SecretStr(given["key"])}) as send:
    send(OutgoingFile(*given["file"][:2], Path(given["file"][2]), given["file"][3]))
"""


class SshServer:
    """An SSH server in a thread, whose only login is by one key; its root is a folder."""

    def __init__(self, root: Path, kind: type[KillingServer] = KillingServer) -> None:
        self.root, self.port, self.kind = root, 0, kind
        self.victim = Victim()
        self.connections: list[Any] = []
        self.host_key, self.client_key = (
            asyncssh.generate_private_key("ssh-ed25519"),
            asyncssh.generate_private_key("ssh-ed25519"),
        )
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._started.wait(20)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        authorized = asyncssh.import_authorized_keys(self.client_key.export_public_key().decode())
        server = self._loop.run_until_complete(
            asyncssh.listen("127.0.0.1", 0, server_host_keys=[self.host_key], authorized_client_keys=authorized, acceptor=self.connections.append,
                            sftp_factory=lambda channel: self.kind(channel, self.root, self.victim))
        )  # fmt: skip
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        for connection in self.connections:
            connection.abort()
            self._loop.run_until_complete(connection.wait_closed())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def destination(self, **changes: Any) -> Sftp:
        line = self.host_key.export_public_key().decode().strip()
        return Sftp(
            **{
                "host": "127.0.0.1",
                "username": "feed",
                "folder": "/in",
                "host_key": line,
                "credential": "key",
                "port": self.port,
                **changes,
            }
        )

    @property
    def credentials(self) -> dict[str, SecretStr]:
        return {"key": SecretStr(self.client_key.export_private_key().decode())}


@contextlib.contextmanager
def running(tmp_path: Path, kind: type[KillingServer] = KillingServer) -> Iterator[SshServer]:
    (tmp_path / "root" / "in").mkdir(parents=True)
    server = SshServer(tmp_path / "root", kind)
    yield server
    server.stop()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    with running(tmp_path) as server:
        yield server


@pytest.mark.parametrize(
    ("moment", "answer"), [("upload", "renamed"), ("written", "renamed after 0 bytes"), ("renamed", "already there")]
)
def test_sftp_sender_killed_leaves_a_file_that_is_sent_once(
    ssh: SshServer, tmp_path: Path, moment: str, answer: str
) -> None:
    content = os.urandom(3_000_000)
    outgoing = OutgoingFile("m1", "big.xml.gz", tmp_path / "big.xml.gz", hashlib.sha256(content).hexdigest())
    outgoing.path.write_bytes(content)
    order = {
        "destination": {name: getattr(ssh.destination(), name) for name in ssh.destination().__dataclass_fields__},
        "key": ssh.credentials["key"].get_secret_value(),
        "file": [outgoing.message_id, outgoing.name, str(outgoing.path), outgoing.sha256],
    }
    with subprocess.Popen([sys.executable, "-c", UPLOAD], stdin=subprocess.PIPE, text=True) as sender:
        ssh.victim.process, ssh.victim.at = sender.pid, moment
        sender.communicate(json.dumps(order), timeout=120)
    assert sender.returncode == -signal.SIGKILL
    answers: list[str] = []
    with ssh.destination().connect(ssh.credentials) as send:
        for _ in range(2):  # a file with a hole is found when it is read back, and sent anew
            with contextlib.suppress(NotSentError):
                answers.append(send(outgoing))
    assert answers[0].startswith(answer)
    assert send(outgoing) == "already there"
    assert [path.name for path in (ssh.root / "in").iterdir()] == [outgoing.name]
    assert (ssh.root / "in" / outgoing.name).read_bytes() == content


def test_sftp_renames_resumes_and_never_replaces(ssh: SshServer, outgoing: OutgoingFile) -> None:
    there, content = ssh.root / "in" / outgoing.name, outgoing.path.read_bytes()
    with ssh.destination().connect(ssh.credentials) as send:
        assert send(outgoing) == f"renamed after {len(content)} bytes"
        assert send(outgoing) == "already there"
        assert there.read_bytes() == content
        there.unlink()
        part = ssh.root / "in" / f".{outgoing.name}.part"
        part.write_bytes(content[:1000])
        assert send(outgoing) == f"renamed after {len(content) - 1000} bytes, resumed at 1000"
        there.unlink()
        part.write_bytes(b"x" * 1000)  # the beginning of something else: found when it is read back
        with pytest.raises(NotSentError, match="read back differs"):
            send(outgoing)
        assert send(outgoing) == f"renamed after {len(content)} bytes"
        part.write_bytes(content[:1000])  # of a sender that found no file before this one's rename
        assert send(outgoing) == "already there"
        assert not part.exists()
        there.unlink()
        part.write_bytes(content + b"more")
        assert send(outgoing) == f"renamed after {len(content)} bytes"
        there.write_bytes(b"other")
        with pytest.raises(DestinationConflictError, match="exists with other bytes"):
            send(outgoing)
    assert sorted(path.name for path in (ssh.root / "in").iterdir()) == [outgoing.name]


def test_sftp_refuses_another_host_key_and_a_foreign_login(ssh: SshServer, outgoing: OutgoingFile) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    imposter = ssh.destination(host_key=other.export_public_key().decode())
    with imposter.connect(ssh.credentials) as send, pytest.raises(DestinationRefusedError, match="another host key"):
        send(outgoing)
    foreign = {"key": SecretStr(other.export_private_key().decode())}
    with ssh.destination().connect(foreign) as send, pytest.raises(DestinationRefusedError, match="refused the login"):
        send(outgoing)
    with pytest.raises(DestinationRefusedError, match="no credential 'key'"), ssh.destination().connect({}):
        pass
    with ssh.destination(port=1).connect(ssh.credentials) as send, pytest.raises(NotSentError, match="unreachable"):
        send(outgoing)
    assert list((ssh.root / "in").iterdir()) == []


def mistyped(line: str) -> dict[str, str]:
    kind, blob = line.split()
    return {
        "empty": "",
        "with the host": f"sftp.example {line}",
        "without the type": blob,
        "of another type": f"ssh-rsa {blob}",
        "cut off": line[:-4],
        "cut in two": f"{kind} {blob[:30]} {blob[30:]}",
        "without a character": f"{kind} {blob[:20]}{blob[21:]}",
        "a fingerprint": "SHA256:vD0Z1xX3mW7gq4xkR0bVhP0bQe1n2s3c4d5e6f7g8h9",
    }


@pytest.mark.parametrize("mistake", sorted(mistyped("ssh-ed25519 AAAA")))
def test_sftp_mistyped_host_key_is_refused_when_declared(mistake: str) -> None:
    line = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    with pytest.raises(ConfigurationError, match="Invalid host_key of sftp://sftp.example:22/in/: .* Copy"):
        Sftp("sftp.example", "feed", "/in", mistyped(line)[mistake], "key")


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
@pytest.mark.parametrize("comment", ["", " feed@recipient"])
def test_sftp_host_key_of_each_kind_is_accepted(kind: str, comment: str) -> None:
    line = asyncssh.generate_private_key(kind).export_public_key().decode().strip()
    Sftp("sftp.example", "feed", "/in", line + comment, "key")


@pytest.fixture
def sftp_checks(monkeypatch: pytest.MonkeyPatch, ssh: SshServer) -> Callable[..., list[preflight.PreflightCheck]]:
    """Return a function that returns preflight's checks of the recipients' SFTP servers for a component."""

    def checks(component: Component | None = None, **changes: str) -> list[preflight.PreflightCheck]:
        monkeypatch.setattr("classfeed_dagster.feeds.FEEDS", (replace(FEEDS[0], sends_to=ssh.destination(**changes)),))
        settings = Settings(component=component, transmission_credentials=ssh.credentials)
        return [check for check in preflight.checks(settings) if check.name.startswith("SFTP")]

    return checks


def test_preflight_asks_the_sftp_server_for_the_pinned_key(
    ssh: SshServer, sftp_checks: Callable[..., list[preflight.PreflightCheck]]
) -> None:
    (good,) = sftp_checks()
    assert good.name == "SFTP server of class_cash's recipient"
    assert good.ask() == f"sftp://127.0.0.1:{ssh.port}/in/ has the pinned host key and accepts the login"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    for changes, message in (({"host_key": other}, "another host key"), ({"folder": "/out"}, "does not exist")):
        (bad,) = sftp_checks(**changes)
        with pytest.raises((DestinationRefusedError, NotSentError), match=message):
            bad.ask()
    assert list((ssh.root / "in").iterdir()) == []


@pytest.mark.parametrize("component", Component)
def test_preflight_asks_sftp_servers_only_where_files_are_sent(
    component: Component, sftp_checks: Callable[..., list[preflight.PreflightCheck]]
) -> None:
    assert len(sftp_checks(component)) == (component in (Component.WORKER, Component.STEPS))


@pytest.mark.parametrize("operation", ["write", "close", "rename"])
def test_sftp_server_that_stalls_is_left_and_sent_to_later(
    tmp_path: Path, outgoing: OutgoingFile, operation: str
) -> None:
    with running(tmp_path, StallingServer) as server:
        server.victim.at = operation
        with server.destination(seconds=1.0).connect(server.credentials) as send, pytest.raises(NotSentError):
            send(outgoing)
        server.victim.at = ""
        with server.destination().connect(server.credentials) as send:
            with contextlib.suppress(NotSentError):  # the server may rename the file after all
                send(outgoing)
            assert send(outgoing) == "already there"
        assert [path.name for path in (server.root / "in").iterdir()] == [outgoing.name]


@pytest.mark.parametrize(("seconds_a_block", "in_time"), [(50.0, True), (70.0, False)])
def test_sftp_limit_counts_from_the_last_block(
    tmp_path: Path, outgoing: OutgoingFile, monkeypatch: pytest.MonkeyPatch, seconds_a_block: float, in_time: bool
) -> None:
    """Four blocks are written, and read back: each within 60 seconds or not, all of them in much more."""
    monkeypatch.setattr(SlowServer, "seconds_a_block", seconds_a_block)
    monkeypatch.setattr(SlowServer, "passed", 0.0)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "time", slow_time)
    with running(tmp_path, SlowServer) as server, server.destination(seconds=60.0).connect(server.credentials) as send:
        if in_time:
            assert send(outgoing).startswith("renamed")
            assert SlowServer.passed >= 8 * seconds_a_block
        else:
            with pytest.raises(NotSentError, match="unreachable or stalled"):
                send(outgoing)


def test_two_sftp_senders_at_once_never_show_a_part_of_the_file(tmp_path: Path, outgoing: OutgoingFile) -> None:
    MeetingServer.meeting = Meeting()
    with (
        running(tmp_path, MeetingServer) as server,
        server.destination().connect(server.credentials) as send,
        ThreadPoolExecutor(2) as pool,
    ):
        answers = [pool.submit(send, outgoing) for _ in range(2)]
        first, second = (answer.exception(60) for answer in answers)
        assert {type(first), type(second)} == {type(None), NotSentError}
        assert MeetingServer.meeting.arrived == outgoing.path.read_bytes()
        assert send(outgoing) == "already there"
        assert [path.name for path in (server.root / "in").iterdir()] == [outgoing.name]


def test_sftp_failures_name_what_to_do(ssh: SshServer, outgoing: OutgoingFile) -> None:
    with ssh.destination(folder="/none").connect(ssh.credentials) as send, pytest.raises(NotSentError, match="exist"):
        send(outgoing)
    (ssh.root / "in" / f".{outgoing.name}.part").mkdir()
    with ssh.destination().connect(ssh.credentials) as send, pytest.raises(NotSentError, match="did not store"):
        send(outgoing)
    secret = ssh.client_key.export_private_key("pkcs8-pem", passphrase="word").decode()
    with (
        ssh.destination().connect({"key": SecretStr(secret)}) as send,
        pytest.raises(DestinationRefusedError, match="without a passphrase"),
    ):
        send(outgoing)


@pytest.mark.parametrize("server", sorted(S3_SERVERS))
def test_other_bucket_is_written_once_with_its_checksum(outgoing: OutgoingFile, server: str) -> None:
    moto = server == "moto"  # localbucket assumes no roles, has no keys and keeps no metadata
    role, key = ("arn:aws:iam::123456789012:role/writer", "arn:aws:kms:x:1:key/a") if moto else (None, None)
    with S3_SERVERS[server]() as endpoint:
        create_bucket(endpoint, "theirs")
        bucket = OtherBucket("theirs", "in/", role_arn=role, kms_key=key, endpoint_url=endpoint)
        with bucket.connect({}) as send:
            assert send(outgoing)
            assert send(outgoing).startswith("already there")
            outgoing.path.write_bytes(outgoing.path.read_bytes()[:-1])
            with pytest.raises(DestinationConflictError):  # the whole file is there, under the digest of this one
                send(outgoing)
            outgoing.path.write_bytes(b"other")
            changed = OutgoingFile(
                outgoing.message_id, outgoing.name, outgoing.path, hashlib.sha256(b"other").hexdigest()
            )
            with pytest.raises(DestinationConflictError):
                send(changed)
        missing = OtherBucket("nobodys", endpoint_url=endpoint)
        with pytest.raises(DestinationRefusedError, match="NoSuchBucket"), missing.connect({}) as send:
            send(changed)
    with pytest.raises(NotSentError, match="unreachable"), missing.connect({}) as send:
        send(changed)


def test_https_upload_states_digest_and_key(endpoint: str, outgoing: OutgoingFile) -> None:
    upload = HttpsUpload(endpoint, credential="token")
    with upload.connect({"token": SecretStr("s3cret")}) as send:
        assert send(outgoing) == "HTTP 201"
        body, headers = Upload.files[f"/in/{outgoing.name}"]
        assert (body, headers["Idempotency-Key"]) == (outgoing.path.read_bytes(), outgoing.message_id)
        assert headers["Authorization"] == "Bearer s3cret"
        assert send(outgoing) == "already there: HTTP 409"
        Upload.files[f"/in/{outgoing.name}"] = (b"", {"Content-Digest": "sha-256=:x:"})
        with pytest.raises(DestinationConflictError):
            send(outgoing)
    assert "s3cret" not in upload.location


@pytest.mark.parametrize(
    ("status", "stated", "error"),
    [(503, None, NotSentError), (408, None, NotSentError), (425, None, NotSentError), (429, None, NotSentError),
     (401, None, DestinationRefusedError), (204, "sha-256=:x:", NotSentError)],
)  # fmt: skip
def test_https_answers_are_transient_or_refusals(
    endpoint: str, outgoing: OutgoingFile, status: int, stated: str | None, error: type[Exception]
) -> None:
    Upload.status, Upload.stated = status, stated
    with HttpsUpload(endpoint).connect({}) as send, pytest.raises(error):
        send(outgoing)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_https_answer_without_a_digest_is_accepted(endpoint: str, outgoing: OutgoingFile, status: int) -> None:
    Upload.status = status
    with HttpsUpload(endpoint).connect({}) as send:
        assert send(outgoing) == f"HTTP {status}"


def test_https_answer_is_not_read_to_its_end(outgoing: OutgoingFile) -> None:
    with serving(EndlessAnswer) as url, HttpsUpload(url).connect({}) as send:
        assert send(outgoing) == "HTTP 201"


@pytest.mark.parametrize("encrypted", [False, True])
def test_https_answer_has_a_deadline_with_its_headers(outgoing: OutgoingFile, tmp_path: Path, encrypted: bool) -> None:
    """Each byte comes within the limit, the whole answer does not."""
    authority = Authority(tmp_path)
    certificate = authority.issue("recipient", ["127.0.0.1"]) if encrypted else None
    with serving(DrippingAnswer, certificate) as url:
        upload = HttpsUpload(url, ca_file=str(authority.bundle))
        with replace(upload, seconds=1.0).connect({}) as send, pytest.raises(NotSentError, match="ReadTimeoutError"):
            send(outgoing)
        with upload.connect({}) as send:
            assert send(outgoing) == "HTTP 201"


def test_https_digest_may_be_one_of_several(endpoint: str, outgoing: OutgoingFile) -> None:
    Upload.stated = f"sha-512=:AAAA:, sha-256=:{outgoing.digest}:"
    with HttpsUpload(endpoint).connect({}) as send:
        assert send(outgoing) == "HTTP 201"
        Upload.files[f"/in/{outgoing.name}"][1]["Content-Digest"] = Upload.stated
        assert send(outgoing) == "already there: HTTP 409"


def test_https_without_a_server_is_transient(outgoing: OutgoingFile) -> None:
    with HttpsUpload("https://127.0.0.1:1/").connect({}) as send, pytest.raises(NotSentError, match="unreachable"):
        send(outgoing)


@pytest.mark.parametrize(
    "url", ["http://recipient.example/", "https://word@recipient.example/", "https://user:word@recipient.example/"]
)
def test_upload_url_must_be_https_without_a_credential(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        HttpsUpload(url)
    assert "word" not in str(raised.value)


def test_file_name_has_no_path() -> None:
    assert file_name("delivered/x/2026-03-02/r0/x-1.xml.gz") == "x-1.xml.gz"
