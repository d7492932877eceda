"""SFTP destination: pinned host key, resumed uploads, read back before an atomic rename.

The client is ``asyncssh``, an extra (``pip install classfeed-dagster[sftp]``).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.extras import require_extra
from classfeed_dagster.transmission.destination import (
    Credentials,
    Destination,
    DestinationConflictError,
    DestinationRefusedError,
    NotSentError,
    OutgoingFile,
    Send,
    credential,
)
from classfeed_dagster.transmission.encryption import OpenPgpKey

if TYPE_CHECKING:
    import asyncssh

_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Sftp(Destination):
    """A folder of an SSH server.

    A file is written as ``.<name>.part``, continued after an interruption, read back, and renamed to its name. The
    rename does not replace a file.

    Attributes:
        host: its name
        username: login
        folder: absolute folder, without a final ``/``
        host_key: its public key, as a line of ``ssh-keyscan`` without the host; no other is accepted. Mistyped:
            ConfigurationError; ``classfeed preflight`` compares it with the server's
        credential: name of the private key, in OpenSSH's form
        port: TCP port
        first_date: first business date that is sent; None: all
        seconds: limit of connecting, of login, and of each 256 KiB afterwards
        encrypts_to: the recipient's key; None: files are sent as delivered
    """

    host: str
    username: str
    folder: str
    host_key: str
    credential: str
    port: int = 22
    first_date: dt.date | None = None
    seconds: float = 60.0
    encrypts_to: OpenPgpKey | None = None

    def __post_init__(self) -> None:
        if not _is_public_key(self.host_key):
            raise ConfigurationError(
                f"Invalid host_key of {self.location}: it is no whole public key. Copy the recipient's line again, "
                "without the host: ssh-ed25519 AAAA…"
            )

    @property
    def location(self) -> str:
        """See Destination."""
        return f"sftp://{self.host}:{self.port}{self.folder}/"

    @contextlib.contextmanager
    def connect(self, credentials: Credentials) -> Iterator[Send]:
        """See Destination. Each file has its connection, so that a broken one affects one file."""
        key = self._private_key(credentials)
        yield lambda file: asyncio.run(self._connected(key, lambda sftp, progress: self._upload(sftp, file, progress)))

    def check(self, credentials: Credentials) -> str:
        """Log in, look for the folder, and return the answer. Nothing is written; errors are those of sending."""
        return asyncio.run(self._connected(self._private_key(credentials), self._folder))

    def _private_key(self, credentials: Credentials) -> str:
        require_extra("Sending by SFTP", "sftp", "asyncssh")
        return credential(credentials, self.credential)

    async def _folder(self, sftp: asyncssh.SFTPClient, _: Callable[[], None]) -> str:
        if not await sftp.isdir(self.folder):
            raise NotSentError(f"{self.location} does not exist")
        return f"{self.location} has the pinned host key and accepts the login"

    async def _connected(
        self, key: str, use: Callable[[asyncssh.SFTPClient, Callable[[], None]], Awaitable[str]]
    ) -> str:
        import asyncssh

        try:
            async with self._session(key) as (sftp, progress):
                return await use(sftp, progress)
        except asyncssh.HostKeyNotVerifiable:
            raise DestinationRefusedError(
                f"{self.location} has another host key than the pinned one: ask the recipient before you change it"
            ) from None
        except asyncssh.KeyImportError:
            raise DestinationRefusedError(
                f"The host_key of {self.location} or the credential {self.credential!r} is unreadable: the one is the "
                "server's public key, the other a private key in OpenSSH's form without a passphrase"
            ) from None
        except (asyncssh.PermissionDenied, asyncssh.SFTPPermissionDenied) as error:
            raise DestinationRefusedError(
                f"{self.location} refused the login or the folder ({type(error).__name__})"
            ) from None
        except asyncssh.SFTPNoSuchFile:
            raise NotSentError(f"{self.location} does not exist, or the file vanished from it") from None
        except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
            raise NotSentError(
                f"{self.location} did not store the file ({type(error).__name__}): its disk or quota may be full"
            ) from None
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise NotSentError(f"{self.location} is unreachable or stalled ({type(error).__name__})") from None

    @contextlib.asynccontextmanager
    async def _session(self, key: str) -> AsyncIterator[tuple[asyncssh.SFTPClient, Callable[[], None]]]:
        import asyncssh

        pinned = asyncssh.import_public_key(self.host_key)
        connection = await asyncssh.connect(
            self.host, self.port, username=self.username, client_keys=[asyncssh.import_private_key(key)],
            known_hosts=([pinned], [], []), connect_timeout=self.seconds, login_timeout=self.seconds, config=None,
            agent_path=None,
        )  # fmt: skip
        with _aborted_without_progress(connection, self.seconds) as progress:
            async with connection, connection.start_sftp_client() as sftp:
                yield sftp, progress

    async def _upload(self, sftp: asyncssh.SFTPClient, file: OutgoingFile, progress: Callable[[], None]) -> str:
        import asyncssh

        final, part = f"{self.folder}/{file.name}", f"{self.folder}/.{file.name}.part"
        begun = (await sftp.stat(part)).size or 0 if await sftp.exists(part) else 0
        if await sftp.exists(final):
            if await _digest(sftp, final, progress) != file.sha256:
                raise DestinationConflictError(f"{self.location}{file.name}")
            if begun:  # by another sender at the same time
                await sftp.remove(part)
            return "already there"
        start = begun if begun <= file.size else 0
        # Never truncated on opening: another sender may have finished the same bytes since.
        async with sftp.open(part, asyncssh.FXF_WRITE | asyncssh.FXF_CREAT, encoding=None) as remote:
            if start != begun:
                await remote.truncate(0)
            with file.path.open("rb") as local:
                local.seek(start)
                at = start
                while block := local.read(_BLOCK):
                    await remote.write(block, at)
                    progress()
                    at += len(block)
        if await _digest(sftp, part, progress) != file.sha256:
            await sftp.remove(part)
            raise NotSentError(f"{self.location}{file.name} read back differs from what was sent: it is sent anew")
        await sftp.rename(part, final)
        return f"renamed after {file.size - start} bytes" + (f", resumed at {start}" if start else "")


def _is_public_key(line: str) -> bool:
    # The type, then its whole blob: fields of four bytes of length and their content, the first one the type again.
    try:
        name, blob = line.split()[:2]
        content = base64.b64decode(blob, validate=True)
    except ValueError:
        return False
    fields: list[bytes] = []
    while content:
        size = int.from_bytes(content[:4])
        if len(content) < 4 + size:
            return False
        fields.append(content[4 : 4 + size])
        content = content[4 + size :]
    return len(fields) > 1 and fields[0] == name.encode()


@contextlib.contextmanager
def _aborted_without_progress(connection: asyncssh.SSHClientConnection, seconds: float) -> Iterator[Callable[[], None]]:
    # Yields the function to call on progress. An aborted connection ends what waits for it, with an error.
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, connection.abort)

    def progress() -> None:
        nonlocal timer
        timer.cancel()
        timer = loop.call_later(seconds, connection.abort)

    try:
        yield progress
    finally:
        timer.cancel()


async def _digest(sftp: asyncssh.SFTPClient, path: str, progress: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    async with sftp.open(path, "rb") as remote:
        while block := await remote.read(_BLOCK):
            progress()
            digest.update(block if isinstance(block, bytes) else block.encode())
    return digest.hexdigest()
