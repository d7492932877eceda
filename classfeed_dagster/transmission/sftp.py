"""SFTP destination: pinned host key, resumed uploads, read back before an atomic rename.

The client is ``asyncssh``, an extra (``pip install classfeed-dagster[sftp]``).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        host_key: its public key, as a line of ``ssh-keyscan`` without the host; no other is accepted
        credential: name of the private key, in OpenSSH's form
        port: TCP port
        first_date: first business date that is sent; None: all
        seconds: limit of connecting and login
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

    @property
    def location(self) -> str:
        """See Destination."""
        return f"sftp://{self.host}:{self.port}{self.folder}/"

    @contextlib.contextmanager
    def connect(self, credentials: Credentials) -> Iterator[Send]:
        """See Destination. Each file has its connection, so that a broken one affects one file."""
        key = credential(credentials, self.credential)
        yield lambda file: asyncio.run(self._send(key, file))

    async def _send(self, key: str, file: OutgoingFile) -> str:
        import asyncssh

        try:
            async with self._session(key) as sftp:
                return await self._upload(sftp, file)
        except asyncssh.HostKeyNotVerifiable:
            raise DestinationRefusedError(
                f"{self.location} has another host key than the pinned one: ask the recipient before you change it"
            ) from None
        except (asyncssh.PermissionDenied, asyncssh.KeyImportError, asyncssh.SFTPPermissionDenied) as error:
            raise DestinationRefusedError(
                f"{self.location} refused the login or the folder ({type(error).__name__})"
            ) from None
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise NotSentError(f"{self.location} is unreachable or failed ({type(error).__name__})") from None

    @contextlib.asynccontextmanager
    async def _session(self, key: str) -> AsyncIterator[asyncssh.SFTPClient]:
        import asyncssh

        pinned = asyncssh.import_public_key(self.host_key)
        async with (
            asyncssh.connect(
                self.host, self.port, username=self.username, client_keys=[asyncssh.import_private_key(key)],
                known_hosts=([pinned], [], []), connect_timeout=self.seconds, login_timeout=self.seconds, config=None,
                agent_path=None,
            ) as connection,
            connection.start_sftp_client() as sftp,
        ):  # fmt: skip
            yield sftp

    async def _upload(self, sftp: asyncssh.SFTPClient, file: OutgoingFile) -> str:
        final, part = f"{self.folder}/{file.name}", f"{self.folder}/.{file.name}.part"
        if await sftp.exists(final):
            if await _digest(sftp, final) != file.sha256:
                raise DestinationConflictError(f"{self.location}{file.name}")
            return "already there"
        begun = (await sftp.stat(part)).size or 0 if await sftp.exists(part) else 0
        start = begun if begun <= file.size else 0
        async with sftp.open(part, "r+b" if begun else "wb") as remote:
            if start != begun:
                await remote.truncate(0)
            with file.path.open("rb") as local:
                local.seek(start)
                at = start
                while block := local.read(_BLOCK):
                    await remote.write(block, at)
                    at += len(block)
        if await _digest(sftp, part) != file.sha256:
            await sftp.remove(part)
            raise NotSentError(f"{self.location}{file.name} read back differs from what was sent: it is sent anew")
        await sftp.rename(part, final)
        return f"renamed after {file.size - start} bytes" + (f", resumed at {start}" if start else "")


async def _digest(sftp: asyncssh.SFTPClient, path: str) -> str:
    digest = hashlib.sha256()
    async with sftp.open(path, "rb") as remote:
        while block := await remote.read(_BLOCK):
            digest.update(block if isinstance(block, bytes) else block.encode())
    return digest.hexdigest()
