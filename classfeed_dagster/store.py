"""The object store: read, list, create-if-absent, on a local folder or on S3, behaving the same.

Only ``create`` makes lasting objects, and it never overwrites: of several creators of one key exactly one succeeds.
Exactly-once delivery relies on that. ``put`` overwrites and is for pointers and states.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from classfeed_dagster.errors import CauseKind, ConfigurationError, ExitCode, StoreError
from classfeed_dagster.file_access import OWNER_FOLDER, owner_only

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_SEGMENT = re.compile(r"[A-Za-z0-9._=:-]+\Z")
_MAX_KEY = 1024  # S3's own limit, in bytes; keys are ASCII
_TEMPORARY = ".part-"  # beginning of a half-written local file's name; never of a key
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_CREATE_ATTEMPTS = 20
_CREATOR = "creator"  # S3 metadata: which call made the object
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Requests to object stores, and bytes of the objects read and written. An S3 client's own retries do not count."""

    requests: int = 0
    bytes: int = 0


class _Meter:
    # Usage of this process since it started.
    def __init__(self) -> None:
        self.usage = StoreUsage()
        self._lock = threading.Lock()

    def count(self, moved: int = 0, requests: int = 1) -> None:
        with self._lock:
            self.usage = StoreUsage(self.usage.requests + requests, self.usage.bytes + moved)


_METER = _Meter()


def store_usage() -> StoreUsage:
    """Return the usage of all object stores by this process since it started."""
    return _METER.usage


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


class InvalidKeyError(StoreError):
    """The key could leave the store's root or cannot be spelled on every kind of store."""

    kind = CauseKind.CONFIGURATION
    dependency = None
    exit_code = ExitCode.FAILED


class ObjectNotFoundError(StoreError):
    """No object has this key."""

    kind = CauseKind.DATA
    dependency = None
    exit_code = ExitCode.STOPPED

    def __init__(self, location: str) -> None:
        super().__init__(f"{location} does not exist. If it should, the step that writes it has not run.")
        self.location = location


class ObjectStore(Protocol):
    """Interface of both kinds of store. Keys are relative paths of ``[A-Za-z0-9._=:-]`` segments."""

    def read(self, key: str) -> bytes:
        """Return the object's bytes; ObjectNotFoundError if there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Return True if an object has this key."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield every key that begins with ``prefix``, ordered by code point."""
        ...

    def create(self, key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        """Store ``data`` (bytes, or a file's content) if the key is free: True if created, False if it existed.

        Atomic: other readers see nothing or the whole object, and of several racing creators one gets True.
        ``metadata`` is kept on S3 and ignored by a local folder.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` in place of any earlier object. Atomic. For pointers and states only."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        ...

    def local_file(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """Provide the object as a local file to read within the ``with`` block. Never write to it."""
        ...

    def location(self, key: str) -> str:
        """Return the object's full path or ``s3://`` URL, for people."""
        ...


def address(location: str) -> str:
    """Return the URL that opens a location: of the file, or in S3 of AWS's console."""
    if not location.startswith("s3://"):
        return Path(location).absolute().as_uri()
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"


def check_key(key: str) -> str:
    """Return ``key``; InvalidKeyError unless it is a relative path of plain, non-empty segments."""
    segments = key.split("/")
    if len(key) > _MAX_KEY or any(
        not _SEGMENT.match(part) or part in (".", "..") or part.startswith(_TEMPORARY) for part in segments
    ):
        raise InvalidKeyError(
            f"{key[:200]!r} is not a key: use at most {_MAX_KEY} characters, segments of letters, digits and . _ = : - "
            "separated by single slashes, without '..'."
        )
    return key


def _check_prefix(prefix: str) -> str:
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


class LocalStore:
    """Store in a folder. Objects are files; a create is a hard link of a finished, flushed temporary file."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*check_key(key).split("/"))

    def read(self, key: str) -> bytes:
        """See ObjectStore."""
        _METER.count()
        try:
            data = self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectNotFoundError(self.location(key)) from None
        _METER.count(len(data), requests=0)
        return data

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        _METER.count()
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        _METER.count()
        folder = self.root / _check_prefix(prefix).rpartition("/")[0]
        above = len(str(self.root)) + 1
        keys = [
            f"{parent[above:]}/{name}" if len(parent) > above else name
            for parent, _, names in os.walk(folder)
            for name in names
            if not name.startswith(_TEMPORARY)
        ]
        yield from sorted(key for key in keys if key.startswith(prefix))

    def create(self, key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        """See ObjectStore."""
        path = self._path(key)
        _METER.count()
        if path.exists():
            return False
        with self._writing():
            temporary = self._written(path, data)
            try:
                os.link(temporary, path)  # fails if the name is taken: the one atomic step
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            _flush_folder(path.parent)
        return True

    def put(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        path = self._path(key)
        _METER.count()
        with self._writing():
            self._written(path, data).replace(path)
            _flush_folder(path.parent)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise StoreError(
                f"The object store {self.root} cannot be written ({os.strerror(error.errno).lower()}). Free space, or "
                "make it writable, and run again"
            ) from error

    def _written(self, path: Path, data: bytes | Path) -> Path:
        _make_folder(path.parent)
        temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb", opener=owner_only) as target:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                else:
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
            _METER.count(_size(data), requests=0)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        _METER.count()
        self._path(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def local_file(self, key: str) -> Iterator[Path]:
        """See ObjectStore."""
        path = self._path(key)
        _METER.count()
        if not path.is_file():
            raise ObjectNotFoundError(self.location(key))
        _METER.count(_size(path), requests=0)
        yield path

    def location(self, key: str) -> str:
        """See ObjectStore."""
        return str(self._path(key))


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(OWNER_FOLDER, exist_ok=True)
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    # A new name survives a power cut only once its folder is on disk too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems can't flush a folder; they order names themselves
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


class S3Store:
    """Store in a bucket, or under a prefix of one. A create is a PutObject with ``If-None-Match: *``."""

    def __init__(self, bucket: str, prefix: str = "", *, endpoint_url: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{check_key(prefix)}/" if prefix else ""
        self._endpoint_url = endpoint_url

    @property
    def _client(self) -> S3Client:
        return _s3_client(self._endpoint_url)

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _ask(self, key: str, question: Callable[[S3Client], _T]) -> _T | None:
        # None for "no such object", so that callers decide what its absence means.
        from botocore.exceptions import ClientError

        _METER.count()
        try:
            return question(self._client)
        except ClientError as error:
            if _status(error) == 404 and error.response.get("Error", {}).get("Code") != "NoSuchBucket":
                return None
            raise

    def read(self, key: str) -> bytes:
        """See ObjectStore."""
        name = self._name(key)
        data = self._ask(key, lambda s3: s3.get_object(Bucket=self.bucket, Key=name)["Body"].read())
        if data is None:
            raise ObjectNotFoundError(self.location(key))
        _METER.count(len(data), requests=0)
        return data

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        name = self._name(key)
        return self._ask(key, lambda s3: s3.head_object(Bucket=self.bucket, Key=name)) is not None

    def list(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + _check_prefix(prefix)
        )
        for page in pages:
            _METER.count()
            for entry in page.get("Contents", ()):  # S3 lists in order of UTF-8 bytes, which is by code point
                if not entry["Key"].endswith("/"):  # AWS's console stores an empty object for a folder
                    yield entry["Key"].removeprefix(self.prefix)

    def has_any(self, prefix: str) -> bool:
        """Return True if an object's key begins with ``prefix``: one request."""
        _METER.count()
        answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + _check_prefix(prefix), MaxKeys=1)
        return bool(answer.get("KeyCount"))

    def create(self, key: str, data: bytes | Path, metadata: Mapping[str, str] | None = None) -> bool:
        """See ObjectStore."""
        from botocore.exceptions import ClientError

        name, attempt, creator = self._name(key), 0, uuid.uuid4().hex
        while True:
            attempt += 1
            with contextlib.ExitStack() as stack:
                body: Any = stack.enter_context(data.open("rb")) if isinstance(data, Path) else data
                _METER.count(_size(data))
                try:
                    self._client.put_object(
                        Bucket=self.bucket,
                        Key=name,
                        Body=body,
                        IfNoneMatch="*",
                        Metadata={**(metadata or {}), _CREATOR: creator},
                    )
                except ClientError as error:
                    if _status(error) == 412:
                        return self._is_own(key, creator)
                    # 409: another conditional request for this key is under way; the next attempt shows the outcome.
                    if _status(error) != 409 or attempt >= _CREATE_ATTEMPTS:
                        raise
                else:
                    return True

    def _is_own(self, key: str, creator: str) -> bool:
        # The client sends a request again when the answer was lost on the way: the object that "existed" may then be
        # the one which the first sending made.
        name = self._name(key)
        metadata = self._ask(key, lambda s3: s3.head_object(Bucket=self.bucket, Key=name)["Metadata"])
        return (metadata or {}).get(_CREATOR) == creator

    def put(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        _METER.count(len(data))
        self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        _METER.count()
        self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    @contextlib.contextmanager
    def local_file(self, key: str) -> Iterator[Path]:
        """See ObjectStore."""
        name = self._name(key)
        with tempfile.TemporaryDirectory(prefix="classfeed-") as folder:
            path = Path(folder) / name.rpartition("/")[2]

            def download(s3: S3Client) -> bool:
                with path.open("wb") as target:
                    body = s3.get_object(Bucket=self.bucket, Key=name)["Body"]
                    shutil.copyfileobj(body, target, 1 << 20)
                return True

            if self._ask(key, download) is None:
                raise ObjectNotFoundError(self.location(key))
            _METER.count(_size(path), requests=0)
            yield path

    def location(self, key: str) -> str:
        """See ObjectStore."""
        return f"s3://{self.bucket}/{self._name(key)}"


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@lru_cache(maxsize=8)
def _s3_client(endpoint_url: str | None) -> S3Client:
    # Clients are thread-safe and slow to make: one for each endpoint. Imported here because botocore is slow too.
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        config=Config(
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
            s3={"addressing_style": "path"} if endpoint_url else {},
        ),
    )


def check_reachable(store: ObjectStore) -> None:
    """Raise StoreError if the bucket of ``store`` cannot be read, ConfigurationError if a setting is the cause.

    A local folder is always reachable: its first object creates it.
    """
    if not isinstance(store, S3Store):
        return
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    location = f"s3://{store.bucket}/{store.prefix}"
    try:
        store.has_any("delivered/")
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ConfigurationError(
            f"No AWS credentials for the object store {location}: sign in, or set AWS_PROFILE, or correct "
            "CLASSFEED_STORE_URL"
        ) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if _status(error) in (403, 404):
            raise ConfigurationError(
                f"The object store {location} refuses access ({code}): check CLASSFEED_STORE_URL and the permissions"
            ) from error
        raise StoreError(f"The object store {location} does not answer ({code}): try again later") from error
    except BotoCoreError as error:
        raise StoreError(
            f"The object store {location} cannot be reached ({type(error).__name__}): check CLASSFEED_STORE_URL and "
            "CLASSFEED_S3_ENDPOINT_URL"
        ) from error


def open_store(url: str, *, s3_endpoint_url: str | None = None) -> ObjectStore:
    """Return the store at ``url``: a folder's path, ``file://…`` or ``s3://bucket/prefix``.

    ``s3_endpoint_url`` replaces AWS's own S3 endpoint. ConfigurationError for another scheme. Nothing is contacted
    or created yet: the first object creates a local folder; a bucket must exist.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ConfigurationError(f"The store location {url} names no bucket: write s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint_url=s3_endpoint_url)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if "://" in url:
        raise ConfigurationError(f"Unsupported store scheme {parts.scheme}://: use a folder or s3://bucket/prefix")
    return LocalStore(Path(url))
