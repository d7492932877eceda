"""Destinations of delivered files: the object store itself, another account's bucket, SFTP, HTTPS.

A destination is declared with its feed. It names its credential, whose value is in the settings. Every kind sends
idempotently. An existing file with the same bytes is not sent again, and one with other bytes is never replaced. If the
recipient removed a file before its receipt was stored, for example because the process died, the next attempt sends it
again: with the same name and bytes, by which the recipient recognizes it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from classfeed_dagster.errors import ConfigurationError, DataError, UnavailableError
from classfeed_dagster.transmission.encryption import OpenPgpKey

if TYPE_CHECKING:
    from pydantic import SecretStr

Credentials = Mapping[str, "SecretStr"]
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost"})


class NotSentError(UnavailableError):
    """Error: the destination is unreachable or failed. The next attempt continues where this one stopped."""


class DestinationRefusedError(ConfigurationError):
    """Error: the destination refused the login, its host key is not the pinned one, or a credential is missing."""


class DestinationConflictError(DataError):
    """Error: the destination has a file of the same name with other bytes. Nothing is replaced."""

    def __init__(self, location: str) -> None:
        super().__init__(
            f"{location} exists with other bytes: ask the recipient who wrote it, remove it there, then run the date "
            "again"
        )


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """One file to send.

    Attributes:
        message_id: id of the page, under which sending is idempotent
        name: file name at the destination
        path: local copy
        sha256: hexadecimal SHA-256 of the bytes
    """

    message_id: str
    name: str
    path: Path
    sha256: str

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size

    @property
    def digest(self) -> str:
        """SHA-256 in base 64, as HTTP and S3 write it."""
        return base64.b64encode(bytes.fromhex(self.sha256)).decode()


Send = Callable[[OutgoingFile], str]  # sends one file and returns the destination's answer


class Destination(ABC):
    """Place from which a recipient takes its files."""

    first_date: dt.date | None
    encrypts_to: OpenPgpKey | None

    @property
    @abstractmethod
    def location(self) -> str:
        """Return the address for people; it holds no credential."""

    @abstractmethod
    def connect(self, credentials: Credentials) -> contextlib.AbstractContextManager[Send]:
        """Connect, and yield the function that sends one file."""

    def sends_on(self, day: dt.date) -> bool:
        """Return True if the files of a business date are sent: all since ``first_date``."""
        return self.first_date is None or day >= self.first_date


def credential(credentials: Credentials, name: str) -> str:
    """Return a credential's value; DestinationRefusedError if the settings lack it."""
    if name not in credentials:
        raise DestinationRefusedError(f"no credential {name!r}: add it to CLASSFEED_TRANSMISSION_CREDENTIALS")
    return credentials[name].get_secret_value()


@dataclass(frozen=True, slots=True)
class OtherBucket(Destination):
    """A bucket of another account, written with a role of that account.

    Attributes:
        bucket: its name
        prefix: beginning of the keys, ending in ``/``, or empty
        role_arn: role that may put and read objects; None: the process's own
        kms_key: ARN of the key that encrypts the objects; None: the bucket's default
        first_date: first business date that is sent; None: all
        endpoint_url: another S3 endpoint, for tests
        encrypts_to: the recipient's key; None: files are sent as delivered
    """

    bucket: str
    prefix: str = ""
    role_arn: str | None = None
    kms_key: str | None = None
    first_date: dt.date | None = None
    endpoint_url: str | None = None
    encrypts_to: OpenPgpKey | None = None

    @property
    def location(self) -> str:
        """See Destination."""
        return f"s3://{self.bucket}/{self.prefix}"

    @contextlib.contextmanager
    def connect(self, credentials: Credentials) -> Iterator[Send]:
        """See Destination. The role's credentials are the session's: nothing is read from ``credentials``."""
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            session = boto3.Session()
            if self.role_arn:
                sts = session.client("sts", endpoint_url=self.endpoint_url)
                keys = sts.assume_role(RoleArn=self.role_arn, RoleSessionName="classfeed")["Credentials"]
                session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
            client = session.client("s3", endpoint_url=self.endpoint_url)
            encryption: dict[str, Any] = (
                {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key} if self.kms_key is not None else {}
            )

            def send(file: OutgoingFile) -> str:
                key = f"{self.prefix}{file.name}"
                with file.path.open("rb") as body:
                    try:
                        answer = client.put_object(
                            Bucket=self.bucket, Key=key, Body=body, ChecksumSHA256=file.digest, IfNoneMatch="*",
                            Metadata={"message-id": file.message_id, "sha256": file.sha256}, **encryption,
                        )  # fmt: skip
                    except ClientError as error:
                        if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                            raise
                        head = client.head_object(Bucket=self.bucket, Key=key)
                        # Not every S3 keeps metadata.
                        sha256 = (
                            head["Metadata"].get("sha256")
                            or hashlib.sha256(client.get_object(Bucket=self.bucket, Key=key)["Body"].read()).hexdigest()
                        )
                        if (sha256, head["ContentLength"]) != (file.sha256, file.size):
                            raise DestinationConflictError(f"{self.location}{file.name}") from None
                        return f"already there: {head['ETag']}"
                return str(answer["ETag"])

            yield send
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("AccessDenied", "403", "InvalidAccessKeyId", "NoSuchBucket", "404", "SignatureDoesNotMatch"):
                raise DestinationRefusedError(f"{self.location} refused: {code}. Check role, key and policy") from None
            raise NotSentError(f"{self.location} failed: {code}") from None
        except BotoCoreError as error:
            raise NotSentError(f"{self.location} is unreachable ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True)
class HttpsUpload(Destination):
    """An HTTPS endpoint to which each file is PUT under its name.

    The request carries ``Content-Digest`` (RFC 9530) and ``Idempotency-Key``, the message id. The answers 409 and 412
    mean that the file is there; the digest in the answer must then be the file's.

    Attributes:
        url: ``https://``, ending in ``/``
        credential: name of the bearer token; None: none is sent
        first_date: first business date that is sent; None: all
        ca_file: certificates to trust in place of the system's
        seconds: limit of connecting, of sending each block, and of the whole answer
        encrypts_to: the recipient's key; None: files are sent as delivered
    """

    url: str
    credential: str | None = None
    first_date: dt.date | None = None
    ca_file: str | None = None
    seconds: float = 300.0
    encrypts_to: OpenPgpKey | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname not in _LOCAL_HOSTS:
            raise ConfigurationError(f"Invalid destination {parts.hostname!r}: use https://")
        if parts.username or parts.password:
            raise ConfigurationError(f"Invalid destination {parts.hostname!r}: name a credential, the URL holds none")

    @property
    def location(self) -> str:
        """See Destination."""
        return self.url

    @contextlib.contextmanager
    def connect(self, credentials: Credentials) -> Iterator[Send]:
        """See Destination."""
        import urllib3  # imported lazily, as is the pool: every process of Dagster imports this file, and few send

        from classfeed_dagster.transmission.answer_deadline import open_pool

        headers = {"Content-Type": "application/octet-stream"}
        if self.credential is not None:
            headers["Authorization"] = f"Bearer {credential(credentials, self.credential)}"
        with open_pool(self.seconds, self.ca_file) as pool:

            def send(file: OutgoingFile) -> str:
                digest = f"sha-256=:{file.digest}:"
                about = headers | {"Content-Digest": digest, "Idempotency-Key": file.message_id}
                target = f"{self.url}{quote(file.name)}"
                try:
                    with file.path.open("rb") as body:
                        length = {"Content-Length": str(file.size)}
                        # The body of the answer may be endless, and states nothing that counts.
                        answer = pool.request("PUT", target, body=body, headers=about | length, preload_content=False)
                        (answer.drain_conn if answer.length_remaining == 0 else answer.close)()
                except urllib3.exceptions.HTTPError as error:
                    raise NotSentError(f"{target} is unreachable ({type(error).__name__})") from None
                return self._judged(answer.status, _stated(answer.headers.get("Content-Digest")), digest, target)

            yield send

    def _judged(self, status: int, stated: str | None, digest: str, target: str) -> str:
        if status in (409, 412):
            if stated == digest:
                return f"already there: HTTP {status}"
            raise DestinationConflictError(target)
        if status in (200, 201, 202, 204):
            if stated not in (None, digest):
                raise NotSentError(f"{target} received other bytes than were sent")
            return f"HTTP {status}"
        if status in (408, 425, 429) or status >= 500:
            raise NotSentError(f"{target} answered HTTP {status}")
        raise DestinationRefusedError(f"{target} refused: HTTP {status}. Ask the recipient, or check the credential")


def _stated(header: str | None) -> str | None:
    # A header may have digests by several algorithms.
    member = re.search(r"(?:\A|,)\s*(sha-256=:[^:]*:)", header or "")
    return member and member[1]


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def file_name(key: str) -> str:
    """Return the name of a delivered file at its destination."""
    return _UNSAFE.sub("_", key.rpartition("/")[2])
