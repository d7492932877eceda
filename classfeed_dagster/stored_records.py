"""Persisted records of delivery: their strict typed base class, canonical JSON and object keys."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.logs import get_logger
from classfeed_dagster.store import ObjectNotFoundError, ObjectStore

_BLOCK = 1 << 20
_CHUNK_SIZE = 1_000  # members of a list that are serialized together
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
_T = TypeVar("_T")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredRecord(BaseModel):
    """A persisted record: immutable, without undeclared fields. A field's alias is its name in stored JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True, serialize_by_alias=True
    )


class MonitoringRecord(StoredRecord, extra="ignore"):
    """A record of alerting, which goes on after a rollback: it ignores a newer version's fields."""


def is_none(value: object) -> bool:
    """Return True for a field without a value: one that was added later is left out, so that older records stay."""
    return value is None


def to_json(record: BaseModel) -> bytes:
    """Return canonical JSON of ``record``: sorted keys, UTF-8, no blanks, a final newline. Decimals are strings."""
    return b"".join(json_parts(record))


def json_parts(record: BaseModel, exclude: Mapping[str, Any] | None = None) -> Iterator[bytes]:
    """Yield ``to_json`` in parts, without the fields to ``exclude`` (as in pydantic).

    Long lists are serialized in chunks: a manifest may list some hundred thousand portfolios, which as dictionaries
    take ten times the memory of their JSON.
    """
    left_out = exclude or {}
    fields = type(record).model_fields
    long = {
        fields[name].alias or name: name
        for name in fields.keys() - left_out.keys()
        if isinstance(value := getattr(record, name), tuple) and len(value) > _CHUNK_SIZE
    }
    rest = record.model_dump(mode="json", exclude={**left_out, **dict.fromkeys(long.values(), True)})
    before = b"{"
    for key in sorted(rest.keys() | long.keys()):
        yield before + _compact(key) + b":"
        before = b","
        if key not in long:
            yield _compact(rest[key])
            continue
        declared: Any = fields[long[key]].annotation
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        values = getattr(record, long[key])
        for start in range(0, len(values), _CHUNK_SIZE):
            part = _compact(adapter.dump_python(values[start : start + _CHUNK_SIZE], mode="json"))
            yield (b"," if start else b"[") + part[1:-1]
        yield b"]"
    yield (b"{}" if before == b"{" else b"}") + b"\n"


def create_record(store: ObjectStore, key: str, record: BaseModel, metadata: Mapping[str, str] | None = None) -> bool:
    """Store ``to_json`` of a possibly large record through a file; return False if the key exists."""
    with tempfile.TemporaryDirectory(prefix="classfeed-record-") as folder:
        path = Path(folder) / "record.json"
        with path.open("xb") as target:
            target.writelines(json_parts(record))
        return store.create(key, path, metadata)


def canonical(value: Any) -> bytes:
    """Return canonical JSON of plain values: equal values give equal bytes."""
    return _compact(value) + b"\n"


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(kind: type[_T] | TypeAdapter[_T], data: bytes, location: str) -> _T:
    """Return the record in ``data``; raise DamagedRecordError, naming ``location``, if it is invalid."""
    adapter: TypeAdapter[_T] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        # The place and type of each fault, never the values: a damaged record may hold anything.
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the record'} {in_words(fault)}" for fault in error.errors()]
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DamagedRecordError(location, f"not a readable record ({'; '.join(faults[:3])}{more})") from None


def read_record(store: ObjectStore, kind: type[_T], key: str) -> _T:
    """Return a stored record; raise ObjectNotFoundError if there is none, DamagedRecordError if it is invalid."""
    return from_json(kind, store.read(key), store.location(key))


def find_record(store: ObjectStore, kind: type[_T], key: str) -> _T | None:
    """Return a stored record; None if there is none. Raise DamagedRecordError if it is invalid."""
    try:
        return read_record(store, kind, key)
    except ObjectNotFoundError:
        return None


_IN_WORDS = {"missing": "is missing", "json_invalid": "is not JSON", "extra_forbidden": "is not a known field"}


def in_words(fault: ErrorDetails) -> str:
    """Say what is wrong with a field, without its value."""
    return _IN_WORDS.get(fault["type"], "has an invalid value")


def readable(kind: type[_T], store: ObjectStore, prefix: str) -> Iterator[_T]:
    """Yield the records under ``prefix``. One that cannot be read is logged and left out."""
    for key in store.list(prefix):
        try:
            yield read_record(store, kind, key)
        except DamagedRecordError as error:
            get_logger().error("unreadable record ignored", key=key, error_type=type(error).__name__)
        except ObjectNotFoundError:
            continue  # removed since it was listed


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_facts(path: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def stored_facts(store: ObjectStore, key: str) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a stored object; raise ObjectNotFoundError if there is none."""
    with store.local_file(key) as path:
        return file_facts(path)


def chain_prefix(feed: str) -> str:
    """Return the prefix of the feed's chain entries, one per position."""
    return f"chain/{feed}/"


def chain_key(feed: str, position: int) -> str:
    """Return the key of one chain position's entry, from 1 on."""
    return f"{chain_prefix(feed)}{position:08d}.json"


def delivered_prefix(feed: str, day: dt.date | None = None, revision: int | None = None) -> str:
    """Return the prefix of the feed's deliveries, of one date, or of one revision."""
    return dated_prefix("delivered", feed, day, revision)


def dated_prefix(folder: str, feed: str, day: dt.date | None, revision: int | None) -> str:
    """Return the prefix of a feed's objects in ``folder``: all, those of a date, or those of a revision."""
    prefix = f"{folder}/{feed}/"
    if day is not None:
        prefix += f"{day.isoformat()}/"
        if revision is not None:
            prefix += f"r{revision}/"
    return prefix


def manifest_key(feed: str, day: dt.date, revision: int) -> str:
    """Return the key of a revision's manifest. A revision without a manifest is not a delivery."""
    return f"{delivered_prefix(feed, day, revision)}manifest.json"


def staged_prefix(feed: str, day: dt.date, build_id: str) -> str:
    """Return the prefix of a build's pages and record before delivery."""
    return f"staged/{feed}/{day.isoformat()}/{build_id}/"


def build_key(feed: str, day: dt.date, build_id: str) -> str:
    """Return the key of a build's record."""
    return f"{staged_prefix(feed, day, build_id)}build.json"


def verdict_prefix(feed: str, day: dt.date, build_id: str, check: str) -> str:
    """Return the prefix of one check's verdicts over one build, one per evaluation."""
    return f"verdicts/{feed}/{day.isoformat()}/{build_id}/{check}/"


def verdict_key(feed: str, day: dt.date, build_id: str, check: str, evaluation: int = 1) -> str:
    """Return the key of the verdict of one evaluation of a check over one build, from 1 on."""
    return f"{verdict_prefix(feed, day, build_id, check)}{evaluation:04d}.json"


def quarantine_prefix(feed: str, day: dt.date | None = None) -> str:
    """Return the prefix of the quarantine records of a date, or of all dates."""
    return f"quarantine/{feed}/" if day is None else f"quarantine/{feed}/{day.isoformat()}/"


def safe_name(number: str) -> str:
    """Return a portfolio's number as part of a key: the number itself or, for unsafe ones, a hash."""
    return number if _SAFE_NAME.match(number) else f"number-{sha256(number.encode())[:32]}"


def quarantine_key(feed: str, day: dt.date, number: str) -> str:
    """Return the key of a portfolio's quarantine record."""
    return f"{quarantine_prefix(feed, day)}{safe_name(number)}.json"
